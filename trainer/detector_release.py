"""A finished detector run -> a release folder: one ONNX file that OpenCV decodes, its manifest and its card."""

import copy
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import thop
import torch

from protocol import release
from protocol.errors import DeviceError, Reason, Rejected
from protocol.release import Golden, Manifest, Score
from trainer.card import licence
from trainer.detector import Trained, load_run
from trainer.detector_card import card
from trainer.detector_net import HEADS, OUTPUTS, DetectorNet, export_whole
from trainer.detector_run import RESULTS_FILE
from trainer.folder import make_release_folder, write_whole
from trainer.half import halve

MEASURED_PX = (640, 384)
"""Width and height that MACs are counted at."""
MAX_BYTES = 200_000
GOLDEN_PX = 64
"""The smallest input that OpenCV computes rightly: at 32 its depthwise convolutions err on maps that are one place wide."""
PARITY = dict.fromkeys(HEADS, 1e-4)
"""Largest difference of each head's answers (of boxes and landmarks in strides) from torch's that is let pass, as a share of the largest of
them if that is above 1."""
ROUNDED = {"cls": 1e-2, "obj": 1e-2, "bbox": 2e-2, "kps": 2e-2}
"""The same once the weights are of 16 bits. On noise, which is asked here, few channels at stride 2 make most of that (`lean`: 6e-3)."""
GOLDEN_OUTPUTS = (*OUTPUTS[:6], "bbox_32", "kps_32")
"""Scores of all strides, boxes and landmarks of the coarsest: all 12 would make the manifest too long for a retained message."""


def export_detector(run: Path, name: str, version: str, folder: Path) -> Manifest:
    """Writes a run as a release folder and returns its manifest; the same run gives the same bytes.

    Raises Rejected when the run is not finished, the folder holds a signed release, the model is too large or a name too long; DeviceError
    when OpenCV does not give torch's answers.
    """
    release.check_names(name, version)
    trained = load_run(run)
    try:
        results = json.loads((run / RESULTS_FILE).read_bytes())
    except (OSError, ValueError) as error:
        raise Rejected(Reason.BAD_INPUT, f"{run}: no readable {RESULTS_FILE}; is the training finished? ({type(error).__name__})") from None
    whole = export_whole(trained.network)
    model = halve(whole)
    if len(model) > MAX_BYTES:
        raise Rejected(Reason.TOO_LARGE, f"detector of size {trained.size!r}: {len(model)} bytes, at most {MAX_BYTES}; train a smaller size")
    check_parity(trained.network, whole, PARITY)
    check_parity(trained.network, model, ROUNDED)
    make_release_folder(folder)
    # The manifest goes last: a folder without one is no release.
    write_whole(folder / release.MODEL_FILE, model)
    manifest = _manifest(trained, model, golden(model), results, name, version)
    write_whole(folder / release.CARD_FILE, card(manifest, results).encode())
    write_whole(folder / release.MANIFEST_FILE, manifest.encode())
    return manifest


def _manifest(trained: Trained, model: bytes, told: Golden, results: dict[str, Any], name: str, version: str) -> Manifest:
    return Manifest(
        kind="detector",
        name=name,
        version=version,
        created=trained.created,
        digest=release.digest(model),
        size_bytes=len(model),
        input=release.Input(width_px=MEASURED_PX[0], height_px=MEASURED_PX[1], colour="bgr", crop_margin=1.0),
        labels=("face",),
        threshold=results["threshold"],
        unsure=(0.0, 0.0),
        temperature=1.0,
        architecture=architecture(trained.network, trained.size),
        scores=_scores(results),
        sources=tuple(release.Source(name=source, pictures=n, licence=licence(source)) for source, n in trained.pictures.items()),
        golden=told,
    )


def _scores(results: dict[str, Any]) -> dict[str, Score]:
    """Recall on the test frames at the detector's own threshold, by width of the picture."""
    scores = {}
    for width, rows in results.get("test", {}).get("widths", {}).items():
        found = rows["ours"]
        scores[f"frames {width}"] = Score(
            n=found["recall_all"]["n"],
            accuracy=found["recall_all"]["share"],
            accuracy_low=found["recall_all"]["low"],
            accuracy_high=found["recall_all"]["high"],
            recall_with_mask=found["recall"]["with_mask"]["share"],
            recall_without_mask=found["recall"]["without_mask"]["share"],
        )
    return scores


def architecture(network: DetectorNet, size: str) -> release.Architecture:
    """Counts of a network; MACs as thop counts them at MEASURED_PX."""
    width, height = MEASURED_PX
    # thop leaves buffers behind in the modules that it visits, so it is given a copy.
    macs, _ = thop.profile(copy.deepcopy(network).eval(), (torch.zeros(1, 3, height, width),), verbose=False)
    parameters = list(network.parameters())
    return release.Architecture(
        name=f"detector-{size}",
        channels=(*network.widths.stages, network.widths.neck),
        parameters=sum(p.numel() for p in parameters),
        parameters_nonzero=sum(p.numel() - (int((p == 0).sum()) if p.dim() > 1 else 0) for p in parameters),
        macs=int(macs),
        flops=2 * int(macs),
    )


def answers(network: DetectorNet, image_1CHW: torch.Tensor) -> dict[str, np.ndarray]:
    """What the exported model answers to one picture of bytes [1, 3, H, W]: output name -> [P, channels] of that stride."""
    with torch.no_grad():
        levels = network.maps(image_1CHW.float() / 255)
    rows = [level.permute(0, 2, 3, 1).reshape(-1, level.shape[1]) for level in levels]
    ends = np.cumsum([0, *HEADS.values()])
    parts = {head: (int(start), int(end)) for head, start, end in zip(HEADS, ends[:-1], ends[1:], strict=True)}
    named = [(head, row[:, slice(*parts[head])]) for head in HEADS for row in rows]
    return {name: (value.sigmoid() if head in {"cls", "obj"} else value).numpy() for name, (head, value) in zip(OUTPUTS, named, strict=True)}


def golden(model: bytes) -> Golden:
    """The self-test of a detector: what the file, whose weights are of 16 bits, answers to one pseudo-random picture of bytes."""
    question = Golden(seed="maskfleet", shape=(1, 3, GOLDEN_PX, GOLDEN_PX), outputs={}, tolerance=2e-3)
    found = _ask(model, np.frombuffer(question.input_bytes(), np.uint8).reshape(question.shape))
    outputs = {name: tuple(round(float(value), 3) for value in found[name].ravel()) for name in GOLDEN_OUTPUTS}
    return question.model_copy(update={"outputs": outputs})


def check_parity(network: DetectorNet, model: bytes, allowed: dict[str, float]) -> None:
    """Raises DeviceError unless OpenCV answers as torch does, at two sizes, but for what is allowed to each head."""
    for height, width in ((64, 64), (96, 160)):
        image = np.random.default_rng(0).integers(0, 256, (1, 3, height, width), np.uint8)
        expected, found = answers(network, torch.from_numpy(image)), _ask(model, image)
        for name in OUTPUTS:
            difference = float(np.abs(found[name].reshape(expected[name].shape) - expected[name]).max())
            largest = float(np.abs(expected[name]).max())
            if not difference <= allowed[name.partition("_")[0]] * max(1.0, largest):
                raise DeviceError(f"OpenCV differs from torch by {difference:.1e} in {name}, whose answers are up to {largest:.1g}")


def _ask(model: bytes, image_1CHW: np.ndarray) -> dict[str, np.ndarray]:
    deployed = cv2.dnn.readNetFromONNX(np.frombuffer(model, np.uint8))
    deployed.setInput(image_1CHW.astype(np.float32))
    return {name: np.asarray(value) for name, value in zip(OUTPUTS, deployed.forward(list(OUTPUTS)), strict=True)}
