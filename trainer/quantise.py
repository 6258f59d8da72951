"""Eight bits instead of floats: static INT8 (QDQ) of a network, kept only where it is measured faster and not worse than what `export` writes."""

import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from protocol import release
from trainer import calibrate, evaluate, export, measure, results, runtimes
from trainer.data import Pictures, resize
from trainer.evaluate import WITHOUT_MASK
from trainer.models import MaskNet
from trainer.results import Results
from trainer.runs import Config
from trainer.splits import Splits, without_source
from trainer.views import weathered

CALIBRATION_PICTURES = 256
FASTER = 0.95
"""`Faster`: at most this share of the time is taken. Less of a difference is noise."""
LOST_ACCURACY = 0.002
"""`Not worse`: at most this much of the accuracy on `val` is lost."""
TOLERANCE = 0.05
"""Integer kernels round differently on different processors; the golden test of a quantised release allows for it."""
SMALLEST_P = 1e-7


@dataclass(frozen=True)
class Comparison:
    """The file that `export` writes of a network and the one in 8 bits, in one run on this machine (ONNX Runtime, one thread, `val`)."""

    float_ms: float
    int8_ms: float
    float_accuracy: float
    int8_accuracy: float
    float_bytes: int
    int8_bytes: int

    @property
    def is_kept(self) -> bool:
        """Whether it is both faster and not worse."""
        return self.int8_ms <= FASTER * self.float_ms and self.int8_accuracy >= self.float_accuracy - LOST_ACCURACY

    def __str__(self) -> str:
        return (
            f"{self.float_ms:.3f} -> {self.int8_ms:.3f} ms, val {self.float_accuracy:.2%} -> {self.int8_accuracy:.2%}, "
            f"{self.float_bytes:,} -> {self.int8_bytes:,} bytes{' (larger)' if self.int8_bytes > self.float_bytes else ''}"
        )


def quantise(model: bytes, images_NHWC: NDArray[np.uint8]) -> bytes:
    """The model with its convolutions in 8 bits, whose ranges are those of these pictures; the same input gives the same bytes."""
    name = onnx.load_from_string(model).graph.input[0].name
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / release.MODEL_FILE
        root = logging.getLogger()
        level = root.level
        root.setLevel(logging.ERROR)  # it advises steps that the exporter has already taken
        try:
            quantize_static(
                onnx.load_from_string(model),
                str(path),
                _Reader(name, images_NHWC),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=["Conv"],
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        finally:
            root.setLevel(level)
        small = onnx.load(path)
    return bytes(small.SerializeToString(deterministic=True))


def make(config: Config, network: MaskNet, found: Results, splits: Splits, version: str, folder: Path) -> Comparison:
    """Writes the quantised release of a run where it is faster and not worse; says in any case how it compares.

    Its temperature is found anew, on the same pictures as that of the floats: this is another file. Raises Rejected when a source that was
    held out is not in the splits.
    """
    if config.lineage.held_out:
        splits = without_source(splits, config.lineage.held_out)
    px = network.architecture.input_px
    rows = np.random.default_rng(0).permutation(len(splits.train))[:CALIBRATION_PICTURES]
    images_NHWC = _at(splits.train.select(np.sort(rows)), px)
    deployed = export.Deployed(network, found.temperature).eval()
    plain = export.to_file(deployed)
    small = quantise(export.to_onnx(deployed), images_NHWC)
    shown = weathered(splits.val)
    own = calibrated(_logits(export.answers(small, _at(shown, px)), found.temperature), shown, found)
    small = quantise(export.to_onnx(export.Deployed(network, own.temperature).eval()), images_NHWC)
    float_ms, int8_ms = _race(plain, small, px)
    compared = Comparison(
        float_ms=float_ms,
        int8_ms=int8_ms,
        float_accuracy=_accuracy(plain, splits.val, px, found.threshold),
        int8_accuracy=_accuracy(small, splits.val, px, own.threshold),
        float_bytes=len(plain),
        int8_bytes=len(small),
    )
    if compared.is_kept:
        if len(splits.test):
            p_test = export.answers(small, _at(splits.test, px))[:, WITHOUT_MASK].astype(float)
            own = results.scored(own, p_test, splits.test)
        golden = export.golden(small, px, TOLERANCE)
        manifest = export.describe(replace(config, name=f"{config.name}-int8"), network, own, version, small, golden)
        export.write(manifest, small, folder, config.lineage.held_out, own)
    return compared


def calibrated(logits_N2: torch.Tensor, shown: Pictures, found: Results) -> Results:
    """The results with temperature, threshold and unsure band of these logits."""
    temperature = round(calibrate.temperature(logits_N2, shown.classes_N), 4)
    threshold = calibrate.threshold()
    return replace(found, temperature=temperature, threshold=threshold, unsure=calibrate.unsure_band(threshold))


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Hands out the calibration pictures in batches."""

    def __init__(self, name: str, images_NHWC: NDArray[np.uint8]) -> None:
        self._batches: Iterator[dict[str, Any]] = iter([{name: images_NHWC[i : i + 32]} for i in range(0, len(images_NHWC), 32)])

    def get_next(self) -> dict[str, Any] | None:
        return next(self._batches, None)


def _race(plain: bytes, small: bytes, px: int) -> tuple[float, float]:
    """Median milliseconds of both, taking turns."""
    image = np.random.default_rng(0).integers(0, 256, (1, px, px, 3), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        run = {}
        for name, model in (("float", plain), ("int8", small)):
            path = Path(folder) / f"{name}.onnx"
            path.write_bytes(model)
            run[name] = runtimes.onnx_runtime(path)
        found = measure.latencies({"float": lambda: run["float"](image), "int8": lambda: run["int8"](image)})
    return found["float"].p50_ms, found["int8"].p50_ms


def _logits(p_N2: NDArray[np.float32], temperature: float) -> torch.Tensor:
    return torch.from_numpy(np.log(np.clip(p_N2, SMALLEST_P, 1))) * temperature


def _accuracy(model: bytes, pictures: Pictures, px: int, threshold: float) -> float:
    p_no_mask_N = export.answers(model, _at(pictures, px))[:, WITHOUT_MASK].astype(float)
    return evaluate.score(p_no_mask_N, pictures.classes_N, threshold).accuracy


def _at(pictures: Pictures, px: int) -> NDArray[np.uint8]:
    return np.stack([resize(image, px) for image in pictures.images_NHWC])
