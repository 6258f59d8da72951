"""Several networks in every runtime, taking turns on one thread, so that their latencies can be compared; and the memory that each takes."""

import copy
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainer import export, measure, memory, runtimes
from trainer.models import MaskNet


def compare(
    networks: dict[str, MaskNet], releases: dict[str, Path] | None = None, repeats: int = measure.REPEATS, *, takes_turns: bool = True
) -> dict[str, Any]:
    """For each network its size as a file, its latency in torch, and latency and memory as deployed (bytes in, probabilities out).

    `releases` are model files to be measured beside them. Taking turns, each finds the processor's caches full of the others; else all
    runs of one follow each other, as in the original study. The document says on what machine, and how often.
    """
    torch.set_num_threads(1)
    calls: dict[str, Callable[[], object]] = {}
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, network in networks.items():
            path = Path(folder) / f"{name}.onnx"
            path.write_bytes(export.to_file(export.Deployed(network, 1.0).eval()))
            calls[f"{name} torch"] = _torch_call(network)
            calls |= _file_calls(name, path, network.architecture.input_px)
            found[name] = _size(path, network.architecture.input_px)
        for name, path in (releases or {}).items():
            px = _input_px(path)
            calls |= _file_calls(name, path, px)
            found[name] = _size(path, px)
        rounds = [calls] if takes_turns else [{name: call} for name, call in calls.items()]
        for name, latency in (timed for together in rounds for timed in measure.latencies(together, repeats).items()):
            model, runtime = name.rsplit(" ", 1)
            found[model][runtime] = asdict(latency)
    return {"models": found, "machine": {**measure.machine(), "repeats": repeats}}


def _size(path: Path, px: int) -> dict[str, Any]:
    """Bytes of the file, and of memory in each runtime."""
    return {"size_bytes": path.stat().st_size, "memory_bytes": {runtime: memory.resident(path, runtime, px) for runtime in memory.RUNTIMES}}


def _torch_call(network: MaskNet) -> Callable[[], object]:
    """The network alone, eager, on floats [1, 3, S, S]: what the original study timed."""
    px = network.architecture.input_px
    image = torch.randn(1, 3, px, px)
    plain = copy.deepcopy(network).eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]

    def call() -> object:
        with torch.inference_mode():
            return plain(image)

    return call


def _file_calls(name: str, path: Path, px: int) -> dict[str, Callable[[], object]]:
    image = _image(px)
    in_onnx_runtime, in_opencv = runtimes.onnx_runtime(path), runtimes.opencv(path)
    return {f"{name} onnxruntime": lambda: in_onnx_runtime(image), f"{name} opencv": lambda: in_opencv(image)}


def _image(px: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (1, px, px, 3), np.uint8)


def _input_px(path: Path) -> int:
    import onnx

    return int(onnx.load(path).graph.input[0].type.tensor_type.shape.dim[1].dim_value)
