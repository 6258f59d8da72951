"""A finished run -> a release folder: one ONNX file that takes camera bytes, its manifest and its card.

Normalisation, temperature and softmax are inside the graph, so training and camera cannot differ.
"""

import copy
import io
import tempfile
import warnings
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from protocol import release
from protocol.errors import DeviceError
from protocol.release import Golden, Manifest
from trainer import measure, runtimes
from trainer.card import card, licence
from trainer.folder import make_release_folder, write_whole
from trainer.half import halve
from trainer.models import HALF_RANGE, LABELS, MaskNet
from trainer.results import Results
from trainer.runs import Config

OPSET = 17
PARITY = 5e-3
"""Largest difference of a probability from torch that is let pass in ONNX Runtime and OpenCV: the files hold weights of 16 bits."""
TOLERANCE = 1e-3
"""Of the golden test: processors round differently, but all of them ask the same file."""
CROP_MARGIN = 1.2
"""The training crops are squares of 1.2 x the longer side of the face box."""


class Deployed(nn.Module):
    """What the camera runs: RGB bytes [N, S, S, 3] -> probabilities [N, 2]."""

    def __init__(self, network: MaskNet, temperature: float) -> None:
        super().__init__()
        self.network = copy.deepcopy(network)
        self.temperature = temperature
        # The scale of `normalise` goes into the first weights, which spares a pass over the picture. Its offset cannot:
        # the zeros around the picture must stay the mean.
        first = self.network.features[0]
        assert isinstance(first, nn.Conv2d), "every network begins with a convolution"
        first.weight.data = first.weight.data / HALF_RANGE

    def forward(self, images_NHWC: Tensor) -> Tensor:
        logits: Tensor = self.network(images_NHWC.permute(0, 3, 1, 2).to(torch.float32) - HALF_RANGE) / self.temperature
        return logits.softmax(1)


@dataclass(frozen=True)
class Release:
    """What is written to a release folder."""

    manifest: Manifest
    model: bytes


def export(config: Config, network: MaskNet, results: Results, version: str, folder: Path) -> Release:
    """Writes the release folder and returns what is in it; the same run gives the same bytes.

    Raises DeviceError when a runtime does not give torch's answers.
    """
    deployed = Deployed(network, results.temperature).eval()
    model = to_file(deployed)
    check_parity(deployed, model)
    manifest = describe(config, network, results, version, model, golden(model, config.architecture.input_px))
    write(manifest, model, folder, config.lineage.held_out, results)
    return Release(manifest, model)


def describe(config: Config, network: MaskNet, results: Results, version: str, model: bytes, told: Golden) -> Manifest:
    """The manifest of a run's model; raises Rejected when a name is too long for one."""
    release.check_names(config.name, version)
    cost = measure.cost(network)
    architecture = config.architecture
    return Manifest(
        kind="classifier",
        name=config.name,
        version=version,
        created=datetime.fromisoformat(config.created),
        digest=release.digest(model),
        size_bytes=len(model),
        input=release.Input(width_px=architecture.input_px, height_px=architecture.input_px, colour="rgb", crop_margin=CROP_MARGIN),
        labels=LABELS,
        threshold=results.threshold,
        unsure=results.unsure,
        temperature=results.temperature,
        architecture=release.Architecture(
            name=config.architecture_name,
            channels=architecture.channels,
            parameters=cost.params,
            parameters_nonzero=cost.params_nonzero,
            macs=cost.macs,
            flops=cost.flops,
        ),
        scores=results.scores,
        sources=tuple(release.Source(name=name, pictures=n, licence=licence(name)) for name, n in config.pictures.items()),
        golden=told,
    )


def write(manifest: Manifest, model: bytes, folder: Path, held_out: str, results: Results) -> None:
    """Writes a release folder; the manifest goes last, for a folder without one is no release. Raises Rejected over a signed one."""
    make_release_folder(folder)
    text = card(manifest, held_out, results.surely_bare).encode()
    for name, data in ((release.MODEL_FILE, model), (release.CARD_FILE, text), (release.MANIFEST_FILE, manifest.encode())):
        write_whole(folder / name, data)


def to_onnx(deployed: Deployed) -> bytes:
    """The network as one self-contained ONNX file, without paths or source lines of this machine."""
    buffer = io.BytesIO()
    px = deployed.network.architecture.input_px
    example = torch.zeros(2, px, px, 3, dtype=torch.uint8)
    with warnings.catch_warnings():
        # torch prefers its newer exporter, which writes local paths and source lines into the file.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            deployed,
            (example,),
            buffer,  # type: ignore[arg-type]  # a file object does as well
            dynamo=False,
            opset_version=OPSET,
            input_names=["images"],
            output_names=["probabilities"],
            dynamic_axes={"images": {0: "n"}, "probabilities": {0: "n"}},
        )
    model = onnx.load_from_string(buffer.getvalue())
    onnx.checker.check_model(model)
    model.doc_string = ""
    for node in model.graph.node:
        node.doc_string = ""
    return bytes(model.SerializeToString(deterministic=True))


def to_file(deployed: Deployed) -> bytes:
    """As `to_onnx`, with weights stored in 16 bits unless it is one of the references, which keep the size that they always had.

    Half the file to send; the runtimes widen the weights when they load them, so it computes as fast as before.
    """
    model = to_onnx(deployed)
    if deployed.network.architecture.downsample == "pool":
        return model
    return halve(model)


def check_parity(deployed: Deployed, model: bytes) -> None:
    """Raises DeviceError unless ONNX Runtime and OpenCV answer as torch does."""
    px = deployed.network.architecture.input_px
    images = np.random.default_rng(0).integers(0, 256, (8, px, px, 3), np.uint8)
    with torch.no_grad():
        expected = deployed(torch.from_numpy(images)).numpy()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / release.MODEL_FILE
        path.write_bytes(model)
        for name, open_model in (("ONNX Runtime", runtimes.onnx_runtime), ("OpenCV", runtimes.opencv)):
            difference = float(np.abs(open_model(path)(images) - expected).max())
            if not difference <= PARITY:
                raise DeviceError(f"{name} differs from torch by {difference:.1e} (at most {PARITY:.0e})")


def golden(model: bytes, input_px: int, tolerance: float = TOLERANCE) -> Golden:
    """The self-test of a release: what its file, not torch, answers to pseudo-random pictures."""
    question = Golden(seed="maskfleet", shape=(2, input_px, input_px, 3), outputs={}, tolerance=tolerance)
    found = answers(model, np.frombuffer(question.input_bytes(), np.uint8).reshape(question.shape)).ravel()
    return question.model_copy(update={"outputs": {"probabilities": tuple(round(float(a), 6) for a in found)}})


def answers(model: bytes, images_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What a file answers [N, 2] to pictures, in ONNX Runtime."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / release.MODEL_FILE
        path.write_bytes(model)
        return runtimes.in_batches(runtimes.onnx_runtime(path), images_NHWC)
