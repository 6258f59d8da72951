"""Training, its folders, and what is exported from them, on small drawn pictures."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from trainer_faces import write_splits

from edge_agent.load import check_golden
from edge_agent.runtime import Session
from protocol.errors import DeviceError, Rejected
from protocol.release import Manifest
from trainer import export, measure, results, runs, runtimes
from trainer.data import read_folder
from trainer.models import ARCHITECTURES, MaskNet, normalise, prepare
from trainer.train import Recipe, batches, cross_entropy, fit, label_loss, log_counts, predict

RECIPE = Recipe(epochs=4, batch=16, learning_rate=0.01, ema_decay=0.5)


def trainer(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "trainer", *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_splits(tmp_path_factory.mktemp("data"), n=48)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, data_folder: Path) -> Path:
    """A run made by the command."""
    folder = tmp_path_factory.mktemp("runs")
    done = trainer("train", data_folder, "--architecture", "door-small", "--epochs", 6, "--name", "tiny", "--runs", folder)
    assert done.returncode == 0, done.stderr
    assert "val" in done.stderr
    return folder / "tiny"


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory, run: Path) -> Path:
    out = tmp_path_factory.mktemp("release")
    done = trainer("export", run, "--out", out)
    assert done.returncode == 0, done.stderr
    return out


def network(seed: int = 0) -> MaskNet:
    torch.manual_seed(seed)
    return MaskNet(ARCHITECTURES["door-small"])


def test_training_learns_and_keeps_the_best(data_folder: Path) -> None:
    train, val = read_folder(data_folder / "train"), read_folder(data_folder / "val")
    own = network()
    epochs = list(fit(own, train, val, RECIPE))
    assert [epoch.number for epoch in epochs] == [1, 2, 3, 4]
    assert epochs[-1].train_loss < epochs[0].train_loss
    best = max(epochs, key=lambda epoch: (epoch.val_accuracy, -epoch.val_loss))
    assert best.is_best
    kept = float((predict(own, val).argmax(1).numpy() == val.classes_N).mean())
    assert kept == best.val_accuracy


def test_the_last_weights_are_kept_where_that_is_asked_for(data_folder: Path) -> None:
    train, val = read_folder(data_folder / "train"), read_folder(data_folder / "val")
    own = network()
    epochs = list(fit(own, train, val, replace(RECIPE, keeps_last=True)))
    loss = float(torch.nn.functional.cross_entropy(predict(own, val), torch.from_numpy(val.classes_N)))
    assert loss == pytest.approx(epochs[-1].val_loss, rel=1e-5)


def test_the_same_seed_gives_the_same_weights(data_folder: Path) -> None:
    train, val = read_folder(data_folder / "train"), read_folder(data_folder / "val")
    weights = []
    for _ in range(2):
        own = network()
        list(fit(own, train, val, Recipe(epochs=2, batch=16, ema_decay=0.5)))
        weights.append(own.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_even_classes_learn_as_if_nobody_counted(data_folder: Path) -> None:
    """To the bit: nothing is added to the logits, and nothing weighs anything."""
    train, val = read_folder(data_folder / "train"), read_folder(data_folder / "val")
    assert log_counts(train.classes_N).tolist() == [0, 0]

    def plain(own: MaskNet, images_NHWC: torch.Tensor, classes_N: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(own(prepare(images_NHWC, 128)).float(), classes_N, label_smoothing=RECIPE.label_smoothing)

    found = []
    for objective in (None, plain):
        own = network()
        epochs = list(fit(own, train, val, RECIPE, objective))
        found.append((epochs, {name: tensor.tolist() for name, tensor in own.state_dict().items()}))
        loss = float(torch.nn.functional.cross_entropy(predict(own, val), torch.from_numpy(val.classes_N)))
        assert loss == next(epoch.val_loss for epoch in reversed(epochs) if epoch.is_best)
    assert found[0] == found[1]


@pytest.mark.parametrize(("masked", "bare"), [(8, 1), (1, 8)])
def test_of_uneven_classes_neither_is_likelier_before_a_face_is_seen(masked: int, bare: int) -> None:
    own, classes = network().eval(), np.repeat([0, 1], [masked, bare])
    with torch.no_grad():
        own.classifier.weight.zero_()
        own.classifier.bias.zero_()
    images = torch.zeros(len(classes), 128, 128, 3, dtype=torch.uint8)
    for counts, pushes in ((log_counts(classes), False), (torch.zeros(2), True)):
        own.zero_grad()
        cross_entropy(0.0, counts)(own, images, torch.from_numpy(classes)).backward()
        assert bool(own.classifier.bias.grad.abs().max() > 1e-6) is pushes


def test_smoothed_labels_of_uneven_classes_make_neither_of_them_doubted() -> None:
    """Of 50 to 1, smoothing that is blind to the counts would push a face back that is masked at p(bare) 0.05."""
    counts = log_counts(np.repeat([0, 1], [50, 1]))
    for logits, label in (([1.5, -1.5], 0), ([-1.5, 1.5], 1)):
        answer = torch.tensor([logits], requires_grad=True)
        label_loss(answer, torch.tensor([label]), 0.02, counts).backward()
        assert answer.grad[0, label] < 0, "surer is better still"
    sure = torch.tensor([[6.0, -6.0]], requires_grad=True)
    label_loss(sure, torch.tensor([0]), 0.02, counts).backward()
    assert sure.grad[0, 0] > 0, "too sure"


class Scripted(MaskNet):
    """Answers `val` in each epoch as it was told to."""

    says = iter(())

    def forward(self, images_NCHW):
        return super().forward(images_NCHW) if self.training else torch.nn.functional.one_hot(torch.tensor(next(Scripted.says)), 2).float()


def test_the_best_epoch_is_the_one_that_is_right_on_both_classes(data_folder: Path) -> None:
    """Of 10 masked faces and 2 bare ones: accuracy would keep who calls all of them masked."""
    train, val = read_folder(data_folder / "train"), read_folder(data_folder / "val")
    Scripted.says = iter([[0] * 12, [1] * 3 + [0] * 7 + [1] * 2, [0] * 11 + [1]])
    uneven = val.select(np.array([*range(10), 24, 25]))
    epochs = list(fit(Scripted(ARCHITECTURES["door-small"]), train, uneven, replace(RECIPE, epochs=3)))
    assert [epoch.is_best for epoch in epochs] == [True, True, False]
    assert epochs[1].val_accuracy < epochs[0].val_accuracy < epochs[2].val_accuracy


def test_uneven_classes_are_told_in_one_line(data_folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(data_folder, tmp_path / "data"))
    arguments = ("train", copy, "--architecture", "small", "--epochs", 1, "--runs", tmp_path / "runs")
    assert "to learn from" not in trainer(*arguments, "--name", "even").stderr
    for path in sorted((copy / "train" / "without_mask").iterdir())[23:]:
        path.unlink()
    done = trainer(*arguments, "--name", "uneven")
    assert done.returncode == 0, done.stderr
    assert "48 pictures of with_mask and 23 of without_mask to learn from" in done.stderr
    assert "48 pictures of with_mask and 23 of without_mask to learn from" in trainer("audit", copy).stdout
    found = tmp_path / "runs" / "uneven" / results.RESULTS_FILE
    found.write_text(json.dumps({name: value for name, value in json.loads(found.read_text()).items() if name != "surely_bare"}))
    again = trainer(*arguments, "--name", "uneven")
    assert again.returncode == 1
    assert "learned when classes of more pictures counted for more" in again.stderr


def test_batches_show_each_picture_once(data_folder: Path) -> None:
    train = read_folder(data_folder / "train")
    sizes = [len(classes) for _, classes in batches(train, 20, np.random.default_rng(0))]
    assert sizes == [20, 20, 20, 20]
    assert [len(classes) for _, classes in batches(train, 500, np.random.default_rng(0))] == [96]


def test_a_run_is_a_folder_without_pickle(run: Path) -> None:
    assert sorted(path.name for path in run.iterdir()) == [
        ".lock",
        "config.json",
        "metrics.csv",
        "predictions.csv",
        "results.json",
        "weights.safetensors",
    ]
    config, own = runs.load(run)
    assert (config.name, config.architecture, config.pictures) == ("tiny", ARCHITECTURES["door-small"], {"unknown": 96})
    assert len((run / "metrics.csv").read_text().splitlines()) == 7
    assert not own.training


def test_an_unfinished_or_foreign_run_is_one_clear_line(run: Path, tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="not a finished run"):
        runs.load(tmp_path)
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    (copy / "weights.safetensors").write_bytes(b"garbage")
    with pytest.raises(Rejected, match="not a run of this version"):
        runs.load(copy)
    (copy / "results.json").unlink()
    with pytest.raises(Rejected, match="no readable results"):
        results.load(copy)


def test_a_release_is_whole_and_proves_itself(release: Path) -> None:
    assert sorted(path.name for path in release.iterdir()) == ["CARD.md", "manifest.json", "model.onnx"]
    manifest = Manifest.parse((release / "manifest.json").read_bytes())
    manifest.check_model((release / "model.onnx").read_bytes())
    images = np.frombuffer(manifest.golden.input_bytes(), np.uint8).reshape(manifest.golden.shape)
    for open_model in (runtimes.onnx_runtime, runtimes.opencv):
        answers = open_model(release / "model.onnx")(images).ravel()
        assert answers == pytest.approx(manifest.golden.outputs["probabilities"], abs=1e-5)
    assert manifest.architecture.parameters == 48_082
    assert "test" in manifest.scores


def test_a_release_holds_to_what_its_file_answers(run: Path, tmp_path: Path) -> None:
    config, own = runs.load(run)[0], network().eval()
    with torch.no_grad():
        own.classifier.bias.zero_()
        own.classifier.weight.copy_(torch.tensor([[16.0], [16.0075]]).expand(2, 64))  # 16 bits make both of them 16
        noise = torch.randint(256, (1, 128, 128, 3), dtype=torch.uint8)
        with_mask, without_mask = own(normalise(noise))[0].tolist()
    found = replace(results.load(run), temperature=(without_mask - with_mask) / 0.01)  # p is 0.5025 in torch
    release = export.export(config, own, found, "1", tmp_path)
    assert release.manifest.golden.outputs["probabilities"] == (0.5, 0.5, 0.5, 0.5)
    check_golden(Session(release.model), release.manifest)


def test_exporting_twice_gives_the_same_bytes(run: Path, release: Path, tmp_path: Path) -> None:
    assert trainer("export", run, "--out", tmp_path).returncode == 0
    for name in ("model.onnx", "manifest.json", "CARD.md"):
        assert (tmp_path / name).read_bytes() == (release / name).read_bytes()


def test_no_path_or_source_line_of_this_machine_is_in_the_model(release: Path) -> None:
    data = (release / "model.onnx").read_bytes()
    for leak in (str(Path.home()), os.getcwd(), ".py", "site-packages"):
        assert leak.encode() not in data
    model = onnx.load_from_string(data)
    assert [entry.name for entry in model.graph.input] == ["images"]
    assert [entry.type.tensor_type.elem_type for entry in model.graph.input] == [onnx.TensorProto.UINT8]
    assert not model.metadata_props


def test_what_a_runtime_answers_otherwise_is_not_exported(run: Path) -> None:
    config, own = runs.load(run)
    model = export.to_onnx(export.Deployed(own, 1.0).eval())
    with pytest.raises(DeviceError, match="differs from torch"):
        export.check_parity(export.Deployed(network(seed=9), 1.0).eval(), model)
    assert config.threads >= 1


def test_evaluate_scores_a_release_as_the_run_was_scored(release: Path, data_folder: Path) -> None:
    done = trainer("evaluate", release, "--data", data_folder / "test", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert {"n", "accuracy", "recall_with_mask", "recall_without_mask", "ece", "auroc", "threshold", "by_source"} <= set(report)
    manifest = Manifest.parse((release / "manifest.json").read_bytes())
    assert report["accuracy"] == pytest.approx(manifest.scores["test"].accuracy)
    assert report["threshold"] == manifest.threshold
    shares = f"{report['surely_bare_without_mask']:.1%} | {report['surely_bare_with_mask']:.1%} |"
    assert next(line for line in (release / "CARD.md").read_text().splitlines() if line.startswith("| test |")).endswith(shares)
    assert "surely bare" in trainer("evaluate", release, "--data", data_folder / "test").stdout


def test_measure_gives_counts_latencies_and_memory(release: Path) -> None:
    done = trainer("measure", release, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["params"], report["flops"]) == (48_082, 2 * report["macs"])
    assert set(report["runtimes"]) == {"onnxruntime", "opencv"}
    for row in report["runtimes"].values():
        assert 0 < row["p50_ms"] <= row["p95_ms"]
        assert 1e6 < row["memory_bytes"] < 1e8
    assert report["machine"]["repeats"] == 100


def test_latencies_take_turns() -> None:
    turns: list[str] = []
    cv2.setNumThreads(2)
    measure.latencies({"a": lambda: turns.append("a"), "b": lambda: turns.append("b")})
    assert cv2.getNumThreads() == 1
    assert turns == ["a", "b"] * (measure.WARM_UP + measure.REPEATS)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("train", "/none"), "no folder 'with_mask'"),
        (("train", "/none", "--architecture", "huge"), "choose one of"),
        (("export", "/none", "--out", "/tmp/none"), "not a finished run"),
        (("evaluate", "/none", "--data", "/none"), "not a release folder"),
        (("measure", "/none"), "not a release folder"),
    ],
)
def test_a_bad_argument_is_one_line(arguments: tuple[str, ...], says: str) -> None:
    done = trainer(*arguments)
    assert done.returncode == 1
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_corrupt_picture_is_named_and_training_goes_on(data_folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(data_folder, tmp_path / "data"))
    (copy / "train" / "with_mask" / "broken.png").write_bytes(b"\x89PNG nothing")
    done = trainer("train", copy, "--architecture", "small", "--epochs", 1, "--runs", tmp_path / "runs")
    assert done.returncode == 0, done.stderr
    assert "left out, not a picture: train/with_mask/broken.png" in done.stderr
    assert cv2.imread(str(copy / "train" / "with_mask" / "000.png")) is not None


def test_the_shipped_classifier_on_the_real_test_pictures(data: Path, classifier_release: Path) -> None:
    done = trainer("evaluate", classifier_release, "--data", data / "faces" / "test", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["n"] == 1392
    assert report["accuracy"] >= 0.97
    assert min(row["accuracy"] for row in report["by_source"].values()) >= 0.97
