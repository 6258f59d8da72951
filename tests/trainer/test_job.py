"""What is refused, or interrupted, and what then becomes of the run that was there."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result
from trainer_faces import write_sources, write_splits
from typer.testing import CliRunner

from protocol.errors import DeviceError, FleetError, Rejected
from trainer import backbone, job, results, runs, splits
from trainer.__main__ import app
from trainer.job import Job
from trainer.runs import Lineage
from trainer.train import Recipe

RECIPE = Recipe(epochs=1, batch=8)
PLAIN = Job("door", "door-small", RECIPE)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_splits(tmp_path_factory.mktemp("data"), n=8)


@pytest.fixture(scope="module")
def pictures(data: Path) -> splits.Splits:
    return splits.read(data)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, data: Path, pictures: splits.Splits) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    list(job.run(PLAIN, pictures, data, folder))
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """Holds the finished run `door`."""
    return Path(shutil.copytree(finished, tmp_path / "runs"))


def files(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.iterdir()}


@pytest.mark.parametrize(
    ("lineage", "says"),
    [
        (Lineage(held_out="typo"), "held_out , asked for typo"),
        (Lineage(teacher="nobody"), "not a finished run"),
        (Lineage(start="nobody", ratio=0.5), "not a finished run"),
        (Lineage(start="door", ratio=1.5), "pruning ratio"),
        (Lineage(no_faces=True), "none are given"),
    ],
)
def test_what_is_refused_leaves_the_finished_run_as_it_was(folder: Path, data: Path, pictures: splits.Splits, lineage: Lineage, says: str) -> None:
    before = files(folder / "door")
    with pytest.raises(FleetError, match=says):
        list(job.run(replace(PLAIN, lineage=lineage), pictures, data, folder))
    assert files(folder / "door") == before


@pytest.mark.parametrize(
    "other", [replace(PLAIN, recipe=replace(RECIPE, seed=1)), replace(PLAIN, architecture="door"), replace(PLAIN, lineage=Lineage(teacher="door"))]
)
def test_a_finished_run_stays_as_it_is_and_has_one_kind_of_settings(folder: Path, data: Path, pictures: splits.Splits, other: Job) -> None:
    before = files(folder / "door")
    with pytest.raises(Rejected, match="was made with other settings"):
        list(job.run(other, pictures, data, folder))
    assert list(job.run(PLAIN, pictures, data, folder)) == []
    assert files(folder / "door") == before


@pytest.mark.parametrize(("epochs", "steps", "of_each"), [(5, 3, [1, 2, 2]), (3, 3, [1, 1, 1]), (4, 1, [4])])
def test_the_steps_of_a_pruning_have_all_its_epochs(
    folder: Path, data: Path, pictures: splits.Splits, monkeypatch: pytest.MonkeyPatch, epochs: int, steps: int, of_each: list[int]
) -> None:
    asked = []
    monkeypatch.setattr(job, "fit", lambda *arguments, real=job.fit: asked.append(arguments[3].epochs) or real(*arguments))
    one = Job("small", "door-small", replace(RECIPE, epochs=epochs), Lineage(start="door", ratio=0.5, steps=steps))
    assert [epoch.number for epoch in job.run(one, pictures, data, folder)] == list(range(1, epochs + 1))
    assert asked == of_each


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (("train", "DATA", "--architecture", "door-small", "--name", "own"), "own"),
        (("distil", "door-small", "DATA", "--teacher", "door"), "door-small-from-door"),
        (("prune", "door", "DATA", "--ratio", "0.5"), "door-pruned50"),
    ],
)
def test_a_command_that_is_given_again_says_that_the_run_is_finished(folder: Path, data: Path, command: tuple[str, ...], name: str) -> None:
    whole = [str(data) if word == "DATA" else word for word in command] + ["--runs", str(folder), "--epochs", "1"]
    assert CliRunner().invoke(app, whole).exit_code == 0
    before = files(folder / name)
    again = CliRunner().invoke(app, whole)
    assert (again.exit_code, again.output) == (0, f"{folder / name}: finished before with these settings, left as it is\n")
    assert files(folder / name) == before
    other = CliRunner().invoke(app, [*whole, "--seed", "1"])
    assert isinstance(other.exception, Rejected)
    assert files(folder / name) == before


def test_a_run_is_named_by_its_folder_as_well(folder: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    shutil.copytree(folder / "door", folder.parent / "other" / "door")
    prune, distil = ["prune", "runs/door", str(data), "--ratio", "0.5"], ["distil", "door-small", str(data), "--teacher", f"{folder}/door/"]
    for command, name in (
        (prune, "door-pruned50"),
        ([*prune[:-1], "0.6", "--teacher", "runs/door"], "door-pruned60"),
        (distil, "door-small-from-door"),
    ):
        done = CliRunner().invoke(app, [*command, "--epochs", "1"])
        assert (done.exit_code, done.exception) == (0, None)
        lineage = runs.load_config(folder / name).lineage
        assert {lineage.teacher, lineage.start} - {""} == {"door"}
    done = CliRunner().invoke(app, ["prune", "other/door", str(data)])
    assert isinstance(done.exception, Rejected)
    assert str(done.exception) == "other/door: not a run in runs; give --runs other for those that are there"
    done = CliRunner().invoke(app, ["prune", "runs/nobody", str(data)])
    assert str(done.exception) == "runs/nobody: not a finished run (no results.json)"
    assert {run.name for run in folder.iterdir()} == {"door", "door-pruned50", "door-pruned60", "door-small-from-door"}


def test_of_two_commands_for_one_run_at_once_one_makes_it(data: Path, tmp_path: Path) -> None:
    train = [sys.executable, "-m", "trainer", "train", str(data), "--architecture", "door-small", "--epochs", "4", "--runs", str(tmp_path)]
    both = [subprocess.Popen(train, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) for _ in range(2)]
    said = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted("finished before" in words for words in said) == [False, True]


def test_a_pruning_of_more_steps_than_epochs_is_refused(folder: Path, data: Path) -> None:
    done = CliRunner().invoke(app, ["prune", "door", str(data), "--runs", str(folder), "--ratio", "0.5", "--epochs", "1", "--steps", "4"])
    assert isinstance(done.exception, Rejected)
    assert "4 steps in 1 epochs" in str(done.exception)
    assert not (folder / "door-pruned50" / "config.json").exists()


@pytest.mark.parametrize(
    ("read", "file", "damage"),
    [
        (job.load_predictions, "predictions.csv", lambda data: data[: data.rindex(b",", 0, -30)]),
        (job.load_predictions, "predictions.csv", lambda data: data + b"a\0b"),
        (job.load_predictions, "predictions.csv", lambda data: data + b'"' + b"a" * 200_000),
        (results.load, "results.json", lambda data: json.dumps({**json.loads(data), "scores": [1]}).encode()),
        (results.load, "results.json", lambda data: json.dumps({**json.loads(data), "unsure": [0.1]}).encode()),
        (runs.load, "config.json", lambda data: json.dumps({**json.loads(data), "architecture": [1]}).encode()),
    ],
)
def test_a_damaged_file_of_a_run_is_one_line(folder: Path, read: Callable[[Path], object], file: str, damage: Callable[[bytes], bytes]) -> None:
    (folder / "door" / file).write_bytes(damage((folder / "door" / file).read_bytes()))
    with pytest.raises(Rejected, match=f"^{folder}/door: no"):
        read(folder / "door")


def test_what_teachers_and_starts_were_trained_on_is_told_of_all_that_come_from_them(folder: Path, data: Path, pictures: splits.Splits) -> None:
    """To the release: who asks whether a model is free of a data set is told of what its teacher's teacher saw, too."""
    config = folder / "door" / "config.json"
    config.write_bytes(json.dumps({**json.loads(config.read_bytes()), "pictures": {"unknown": 3, "imagenet-1k": 1_281_167}}).encode())
    ways = {"student": Lineage(teacher="door"), "pruned": Lineage(start="student", ratio=0.5), "taught": Lineage(teacher="pruned")}
    for name, lineage in ways.items():
        list(job.run(Job(name, "door-small", RECIPE, lineage), pictures, data, folder))
        assert runs.load_config(folder / name).pictures == {"unknown": 16, "imagenet-1k": 1_281_167}
        assert list(job.run(Job(name, "door-small", RECIPE, lineage), pictures, data, folder)) == []
    assert CliRunner().invoke(app, ["export", str(folder / "pruned"), "--out", str(folder / "release")]).exit_code == 0
    assert "imagenet-1k" in (folder / "release" / "CARD.md").read_text()


def test_what_comes_from_a_run_learns_nothing_from_what_was_held_out_of_it(folder: Path) -> None:
    """`typo` stands for a source that is in other data only."""
    data = write_sources(folder.parent / "data")
    for name, held_out in (("without-web", "web"), ("without-door", "door"), ("without-typo", "typo")):
        config = json.loads((Path(shutil.copytree(folder / "door", folder / name)) / "config.json").read_bytes())
        config["lineage"]["held_out"] = held_out
        (folder / name / "config.json").write_bytes(json.dumps(config).encode())

    def command(*words: str) -> Result:
        return CliRunner().invoke(app, [*words, "--runs", str(folder), "--epochs", "1"])

    for name, done in (
        ("without-web-pruned50", command("prune", "without-web", str(data), "--ratio", "0.5", "--teacher", "none")),
        ("told", command("distil", "door-small", str(data), "--teacher", "without-web", "--name", "told")),
    ):
        assert done.exit_code == 0, done.output
        assert f"{name}: learns nothing from web" in done.output
        assert runs.load_config(folder / name).lineage.held_out == "web"
        answers = job.load_predictions(folder / name)
        assert {source for source, split in zip(answers.sources, answers.splits, strict=True) if split == "test"} == {"web"}
    done = command("prune", "without-web", str(data), "--ratio", "0.5", "--teacher", "without-door")
    assert isinstance(done.exception, Rejected)
    assert "one source can be held out" in str(done.exception)
    assert command("prune", "without-typo", str(data), "--ratio", "0.5").exit_code == 0
    assert runs.load_config(folder / "without-typo-pruned50").lineage.held_out == ""


@pytest.mark.parametrize(
    ("held_out", "learned", "says"),
    [
        ("", {"web": 16}, "come from the same data sets as the training pictures"),
        ("web", {"door": 16}, "are of all pictures of web, of which nothing was learned."),
        ("web", {"door": 16, "web": 9}, "are of all pictures of web, of which what it was made from learned;"),
    ],
)
def test_a_card_says_how_near_the_test_is_to_what_was_learned(folder: Path, held_out: str, learned: dict[str, int], says: str) -> None:
    """The last one: its teacher had been shown what was held out of the run itself."""
    config = json.loads((folder / "door" / "config.json").read_bytes())
    config["lineage"]["held_out"], config["pictures"] = held_out, learned
    (folder / "door" / "config.json").write_bytes(json.dumps(config).encode())
    assert CliRunner().invoke(app, ["export", str(folder / "door"), "--out", str(folder / "release")]).exit_code == 0
    limits = (folder / "release" / "CARD.md").read_text().partition("## Limits")[2]
    assert says in limits
    assert ("the same data sets" in limits) == (held_out == "")


def test_a_student_is_pruned_from_a_start_of_its_own_shape_only(folder: Path, data: Path) -> None:
    distil = ["distil", "small", str(data), "--teacher", "door", "--start", "door", "--runs", str(folder)]
    done = CliRunner().invoke(app, distil)
    assert isinstance(done.exception, Rejected)
    assert "has not the shape of 'small'" in str(done.exception)
    assert [run.name for run in folder.iterdir()] == ["door"]


def test_a_teacher_whose_weights_are_not_installed_leaves_no_run(
    folder: Path, data: Path, pictures: splits.Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backbone, "PACKAGE", "no_such_package")
    with pytest.raises(DeviceError, match="pip install"):
        list(job.run(replace(PLAIN, name="lite0", architecture="lite0"), pictures, data, folder))
    assert [run.name for run in folder.iterdir()] == ["door"]


@pytest.mark.parametrize("lineage", [Lineage(teacher="door"), Lineage(start="door", ratio=0.5)])
def test_a_run_that_was_interrupted_teaches_and_starts_nothing(tmp_path: Path, data: Path, pictures: splits.Splits, lineage: Lineage) -> None:
    begun = job.run(PLAIN, pictures, data, tmp_path)
    next(begun)
    begun.close()
    with pytest.raises(Rejected, match=r"door: not a finished run \(no results\.json\)"):
        list(job.run(Job("student", "door-small", RECIPE, lineage), pictures, data, tmp_path))
    assert not (tmp_path / "student").exists()


@pytest.mark.parametrize(
    "command", [("train", "data"), ("distil", "small", "data", "--teacher", "t"), ("prune", "t", "data"), ("detector", "d", "--teacher", "t")]
)
def test_a_seed_below_zero_is_refused(command: tuple[str, ...]) -> None:
    done = CliRunner().invoke(app, [*command, "--seed", "-1"])
    assert done.exit_code == 2
    assert "seed" in done.output


def test_each_ratio_makes_a_run_of_its_own(folder: Path, data: Path) -> None:
    prune = ["prune", "door", str(data), "--runs", str(folder), "--epochs", "1", "--ratio"]
    for ratios, word in (("0.5,0.505,0.5", "two of these are the same"), ("0.5,1.5", "between 0 and 1"), ("0.5,0.999", "leaves nothing")):
        done = CliRunner().invoke(app, [*prune, ratios])
        assert isinstance(done.exception, Rejected)
        assert word in str(done.exception)
    assert [run.name for run in folder.iterdir()] == ["door"]
    done = CliRunner().invoke(app, [*prune, "0.5,0.505"])
    assert done.exit_code == 0, done.output
    assert {run.name for run in folder.iterdir()} == {"door", "door-pruned50", "door-pruned50.5"}
