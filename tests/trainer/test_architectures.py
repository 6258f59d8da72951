"""The candidates for the door: what they see, what they weigh, and that every runtime answers as torch does."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from trainer_faces import write_splits

from protocol.errors import Rejected
from trainer import export, job, quantise, results, runs, splits
from trainer.folder import read_release
from trainer.models import ARCHITECTURES, REFERENCES, Architecture, MaskNet, normalise, prepare
from trainer.train import Recipe

STUDENTS = [name for name in ARCHITECTURES if name.startswith(("door-", "gate", "patch")) and name not in {"patch-large", "patch-wide"}]


def seen_px(architecture: Architecture) -> int:
    """Receptive field of one output of the last stage, measured: the pixels whose change changes it."""
    network = MaskNet(Architecture(**{**vars(architecture), "input_px": 512})).double().eval()
    image = torch.zeros(1, 3, 512, 512, dtype=torch.float64, requires_grad=True)
    for layer in network.features:
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.constant_(layer.weight, 1.0)
            torch.nn.init.constant_(layer.bias, 1.0)
    features = network.features(image)
    features[0, 0, features.shape[2] // 2, features.shape[3] // 2].backward()
    columns = torch.nonzero(image.grad[0, 0].abs().sum(0)).flatten()
    return int(columns.max() - columns.min() + 1)


@pytest.mark.parametrize(("name", "px"), [("door", 63), ("patch", 61), ("patch-deep", 93), ("gate", 119)])
def test_the_door_models_see_a_face_and_not_a_texture(name: str, px: int) -> None:
    assert seen_px(ARCHITECTURES[name]) == px


@pytest.mark.parametrize("name", STUDENTS)
def test_a_student_is_small_and_right_in_every_runtime(name: str) -> None:
    torch.manual_seed(0)
    deployed = export.Deployed(MaskNet(ARCHITECTURES[name]), 0.7).eval()
    model = export.to_file(deployed)
    assert len(model) <= 250_000
    export.check_parity(deployed, model)


@pytest.mark.parametrize("name", ["patch-large", "patch-wide"])
def test_a_larger_student_is_small_in_eight_bits(name: str) -> None:
    torch.manual_seed(0)
    images = np.random.default_rng(0).integers(0, 256, (8, 128, 128, 3), np.uint8)
    assert len(quantise.quantise(export.to_onnx(export.Deployed(MaskNet(ARCHITECTURES[name]), 0.7).eval()), images)) <= 250_000


@pytest.mark.parametrize("name", ["teacher", "patch"])
def test_what_is_deployed_computes_what_was_trained(name: str) -> None:
    """The scale of the pictures is inside the first weights there."""
    torch.manual_seed(0)
    network = MaskNet(ARCHITECTURES[name]).eval()
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 128, 128, 3), np.uint8))
    with torch.no_grad():
        expected = (network(normalise(images)) / 0.7).softmax(1)
        assert torch.allclose(export.Deployed(network, 0.7)(images), expected, atol=1e-5)


def test_pictures_are_shrunk_without_aliasing() -> None:
    stripes = torch.zeros(1, 128, 128, 3, dtype=torch.uint8)
    stripes[:, :, ::2] = 255
    shrunk = prepare(stripes, 64)
    assert shrunk.shape == (1, 3, 64, 64)
    assert float(shrunk[..., 2:-2].abs().max()) < 0.02, "a pattern that is too fine becomes grey"


def test_a_release_of_96_pixels_can_be_evaluated_and_measured(tmp_path: Path) -> None:
    data = write_splits(tmp_path / "data", n=8)
    list(job.run(job.Job("tiny", "door-small-96", Recipe(epochs=1, batch=8)), splits.read(data), data, tmp_path))
    config, network = runs.load(tmp_path / "tiny")
    with pytest.raises(Rejected, match="at most 64"):
        export.export(config, network, results.load(tmp_path / "tiny"), "1" * 65, tmp_path / "release")
    export.export(config, network, results.load(tmp_path / "tiny"), "1", tmp_path / "release")
    manifest, _ = read_release(tmp_path / "release", "classifier")
    assert (manifest.input.width_px, manifest.input.height_px, manifest.golden.shape) == (96, 96, (2, 96, 96, 3))
    command = [sys.executable, "-m", "trainer", "evaluate", str(tmp_path / "release"), "--data", str(data / "test"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert json.loads(done.stdout)["n"] == 8


def test_references_stay_what_they_were() -> None:
    assert all(a.depth == (1, 1, 1) and a.input_px == 128 and a.downsample == "pool" for a in REFERENCES.values())
