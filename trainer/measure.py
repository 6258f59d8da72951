"""What a model costs: parameters, multiply-accumulates, size and latency."""

import copy
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import thop
import torch

from trainer.models import Network

WARM_UP, REPEATS = 10, 100


@dataclass(frozen=True)
class Cost:
    """Independent of the machine."""

    params: int
    params_zero: int
    """Weights of convolutions and linear layers that are zero; a fresh BatchNorm's zero bias is not sparsity."""
    macs: int
    """As thop counts them for one picture of the network's input size."""

    @property
    def params_nonzero(self) -> int:
        return self.params - self.params_zero

    @property
    def flops(self) -> int:
        """2 x MACs."""
        return 2 * self.macs


@dataclass(frozen=True)
class Latency:
    """Milliseconds for one picture on one thread, over `REPEATS` runs after `WARM_UP`."""

    mean_ms: float
    p50_ms: float
    p95_ms: float


def cost(network: Network) -> Cost:
    """Counts parameters and MACs of a network."""
    # thop leaves buffers behind in the modules that it visits, so it is given a copy.
    px = network.architecture.input_px
    macs, _ = thop.profile(copy.deepcopy(network).eval(), (torch.zeros(1, 3, px, px),), verbose=False)
    parameters = list(network.parameters())
    return Cost(
        params=sum(p.numel() for p in parameters),
        params_zero=sum(int((p == 0).sum()) for p in parameters if p.dim() > 1),
        macs=int(macs),
    )


def state_bytes(network: Network) -> int:
    """Bytes of the parameters and BatchNorm statistics as 32-bit floats."""
    return sum(t.numel() * 4 for t in network.state_dict().values() if t.is_floating_point())


def latencies(runs: dict[str, Callable[[], object]], repeats: int = REPEATS) -> dict[str, Latency]:
    """Latency of each call on one thread; they take turns, so that a busy moment of the machine meets all of them."""
    cv2.setNumThreads(1)  # the other runtimes are told where they are made
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(WARM_UP + repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if turn >= WARM_UP:
                times[name].append((time.perf_counter() - start) * 1000)
    return {name: Latency(float(np.mean(ms)), float(np.percentile(ms, 50)), float(np.percentile(ms, 95))) for name, ms in times.items()}


def release_latencies(model: Path, input_px: int) -> dict[str, Latency]:
    """Latency of an exported model in ONNX Runtime and in OpenCV."""
    from trainer import runtimes

    image = np.random.default_rng(0).integers(0, 256, (1, input_px, input_px, 3), np.uint8)
    in_onnx_runtime, in_opencv = runtimes.onnx_runtime(model), runtimes.opencv(model)
    return latencies({"onnxruntime": lambda: in_onnx_runtime(image), "opencv": lambda: in_opencv(image)})


def machine() -> dict[str, str | int]:
    """What the figures were measured on."""
    return {
        "processor": platform.machine(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "threads": 1,
        "warm_up": WARM_UP,
        "repeats": REPEATS,
    }
