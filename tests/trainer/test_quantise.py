"""Eight bits: the same answers, the same bytes, and kept only when that helps."""

from pathlib import Path

import numpy as np
import pytest
import torch
from trainer_faces import write_sources, write_splits

from protocol.release import Golden
from trainer import export, job, quantise, results, runs, runtimes, splits
from trainer.folder import read_release
from trainer.train import Recipe


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_splits(tmp_path_factory.mktemp("data"), n=24)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    list(job.run(job.Job("tiny", "door-small", Recipe(epochs=5, batch=8, learning_rate=0.01)), splits.read(data), data, folder))
    return folder / "tiny"


def test_the_answers_stay_and_the_bytes_repeat(trained: Path, data: Path, tmp_path: Path) -> None:
    _, network = runs.load(trained)
    images = splits.read(data).test.images_NHWC
    plain = export.to_onnx(export.Deployed(network, 1.0).eval())
    small = quantise.quantise(plain, images)
    assert small == quantise.quantise(plain, images)
    assert len(small) < len(plain) / 2
    path = tmp_path / "model.onnx"
    path.write_bytes(small)
    with torch.no_grad():
        expected = export.Deployed(network, 1.0).eval()(torch.from_numpy(images)).numpy()
    assert np.abs(runtimes.onnx_runtime(path)(images) - expected).mean() < 0.05
    assert str(tmp_path).encode() not in small
    assert b"/tmp" not in small


def test_it_is_written_only_where_it_helps(trained: Path, data: Path, tmp_path: Path) -> None:
    config, network = runs.load(trained)
    compared = quantise.make(config, network, results.load(trained), splits.read(data), "1", tmp_path / "release")
    assert (tmp_path / "release" / "manifest.json").exists() == compared.is_kept
    plain = export.export(config, network, results.load(trained), "1", tmp_path / "plain")
    assert compared.float_bytes == len(plain.model), "compared with what would be sent otherwise"
    if compared.is_kept:
        manifest, model = read_release(tmp_path / "release", "classifier")
        assert manifest.name == "tiny-int8"
        golden = Golden(**manifest.golden.model_dump())
        question = np.frombuffer(golden.input_bytes(), np.uint8).reshape(golden.shape)
        answers = runtimes.onnx_runtime(model)(question).ravel()
        assert np.abs(answers - np.array(golden.outputs["probabilities"])).max() <= golden.tolerance


def test_what_eight_bits_did_not_change_is_calibrated_as_it_was(trained: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantise, "quantise", lambda model, images: model)
    monkeypatch.setattr(quantise, "_race", lambda *_: (1.0, 0.5))
    config, network = runs.load(trained)
    found = results.load(trained)
    compared = quantise.make(config, network, found, splits.read(data), "1", tmp_path / "release")
    assert compared.int8_accuracy == compared.float_accuracy
    assert read_release(tmp_path / "release", "classifier")[0].temperature == pytest.approx(found.temperature, rel=0.01)


def test_a_source_that_was_held_out_only_judges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = write_sources(tmp_path / "data")
    whole = splits.read(pictures)
    list(job.run(job.Job("fold", "door-small", Recipe(epochs=1), runs.Lineage(held_out="web")), whole, pictures, tmp_path))
    shown: list[bytes] = []
    monkeypatch.setattr(quantise, "quantise", lambda model, images: shown.extend(image.tobytes() for image in images) or model)
    monkeypatch.setattr(quantise, "weathered", lambda val: shown.extend(image.tobytes() for image in val.images_NHWC) or val)
    monkeypatch.setattr(quantise, "_race", lambda *_: (1.0, 0.5))
    monkeypatch.setattr(quantise, "LOST_ACCURACY", 1.0)
    config, network = runs.load_student(tmp_path / "fold")
    quantise.make(config, network, results.load(tmp_path / "fold"), whole, "1", tmp_path / "release")
    web = {image.tobytes() for image in splits.without_source(whole, "web").test.images_NHWC}
    assert len(shown) > 0
    assert sum(image in web for image in shown) == 0, "neither the ranges nor the temperature are of it"
    scores = read_release(tmp_path / "release", "classifier")[0].scores
    assert {name: score.n for name, score in scores.items()} == {"test": len(web), "web": len(web)}
    assert "of all pictures of web, of which nothing was learned" in (tmp_path / "release" / "CARD.md").read_text()


def test_a_file_that_grows_is_said_to() -> None:
    assert "1,000 -> 1,200 bytes (larger)" in str(quantise.Comparison(1.0, 0.5, 0.99, 0.99, 1000, 1200))
    assert str(quantise.Comparison(1.0, 0.5, 0.99, 0.99, 1000, 300)).endswith("1,000 -> 300 bytes")


@pytest.mark.parametrize(
    ("int8_ms", "int8_accuracy", "is_kept"),
    [(0.5, 0.990, True), (0.5, 0.980, False), (1.5, 0.990, False), (0.97, 0.990, False), (0.5, 0.9885, True)],
)
def test_kept_means_faster_and_not_worse(int8_ms: float, int8_accuracy: float, is_kept: bool) -> None:
    assert quantise.Comparison(1.0, int8_ms, 0.99, int8_accuracy, 1000, 300).is_kept is is_kept
