"""The whole study, small: its order, its interruption, its table, and what it says when something is wrong."""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from rig import wait_until
from trainer_faces import write_sources, write_splits

from protocol.errors import Rejected
from trainer import job, runs, tables
from trainer.compress import Options, Step, execute, plan, possible
from trainer.data import NO_FACE
from trainer.models import ARCHITECTURES, REFERENCES, MaskNet
from trainer.runs import Lineage
from trainer.splits import Splits, read
from trainer.train import Epoch, Recipe

QUICK = ("--epochs", 1, "--door-epochs", 1, "--seeds", 0, "--students", "door-small")


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "trainer", *map(str, arguments)]


def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=300, check=False, **options)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Splits of two sources, which the index tells apart."""
    return write_sources(tmp_path_factory.mktemp("data"), n=6)


def test_the_plan_holds_every_run_after_what_it_needs() -> None:
    steps = plan(Options(), {"a": 300, "b": 50, "c": 50})
    names = [step.job.name for step in steps]
    assert len(set(names)) == len(names) == 3 * (6 + 4) + (1 + 3) + 3 * (1 + 3)
    for number, step in enumerate(steps):
        assert set(step.job.needs) <= set(names[:number])
    assert {step.job.recipe.epochs for step in steps if step.job.architecture == "small"} == {30}
    epochs = {step.job.lineage.held_out: step.job.recipe.epochs for step in steps if step.job.architecture == "gate-96"}
    assert epochs == {"": 100, "a": 400, "b": 114, "c": 114}, "as many steps without a source as with all"


def test_only_takes_what_is_needed_along() -> None:
    steps = plan(Options(seeds=(0,), only=("pruned50-s0",)), {})
    assert [step.job.name for step in steps] == ["teacher-s0", "pruned50-s0"]
    assert {step.group for step in plan(Options(only=("folds",)), {"a": 1, "b": 1})} == {"folds"}
    with pytest.raises(Rejected, match="no such group"):
        plan(Options(only=("nonsense",)), {})
    with pytest.raises(Rejected, match="student 'nobody'"):
        plan(Options(students=("nobody",)), {})
    for seeds, said in (((0, -1), "seed -1: "), ((10**23,), "seed 1"), ((), "seed missing: ")):
        with pytest.raises(Rejected, match=said):
            plan(Options(seeds=seeds), {})


def test_processes_for_one_seed_each_make_the_runs_of_the_whole_study() -> None:
    counts = {"a": 300, "b": 50}
    parts = [plan(Options(only=(f"*-s{seed}",)), counts) for seed in (0, 1, 2)]
    assert {step.job.name: step for part in parts for step in part} == {step.job.name: step for step in plan(Options(), counts)}
    names = [{step.job.name for step in part} for part in parts]
    assert names[0] & names[1] == {"lite0-s0", "lite0-without-a-s0", "lite0-without-b-s0"}, "the teachers of all seeds"


def test_one_source_gives_no_folds() -> None:
    assert not [step for step in plan(Options(), {"web": 9}) if step.group == "folds"]


def with_sources(splits: Splits, name: Callable[[int, int], str]) -> Splits:
    """The splits with the source that each picture has by its class and its place."""
    parts = {part: getattr(splits, part) for part in ("train", "val", "test")}
    return replace(splits, **{k: replace(p, sources=tuple(name(int(c), n) for n, c in enumerate(p.classes_N))) for k, p in parts.items()})


def test_any_name_of_a_source_makes_names_of_folders(tmp_path: Path, data: Path) -> None:
    sources = ("andrewmvd/face-mask-detection", "..", "my cameras", "a-b", "a/b", "a%2Fb")
    steps = plan(Options(seeds=(0,)), dict.fromkeys(sources, 9))
    names = [step.job.name for step in steps]
    assert len(set(names)) == len(names)
    assert all(Path(name).name == name for name in names)
    assert {"lite0-without-a-b-s0", "lite0-without-..-s0"} <= set(names), "what can be, stays"
    slashed = with_sources(read(data), lambda number, place: "door" if place % 2 else "some/one")
    one = Step("folds", job.Job("", "door-small", Recipe(epochs=1, batch=4), Lineage(held_out="some/one")))
    one = replace(one, job=replace(one.job, name=f"door-small{one.job.lineage.ending}-s0"))
    assert execute((one,), slashed, data, tmp_path, lambda name, total, epochs: list(epochs)) == (one.job.name,)
    assert [(row["name"], row["held_out"]) for row in tables.folds(tables.collect(tmp_path))] == [("door-small", "some/one")]


def test_a_source_with_the_only_bare_faces_is_not_held_out_and_a_line_says_so(data: Path) -> None:
    splits = with_sources(read(data), lambda number, place: "bare" if number else "web" if place % 2 else "door")
    said: list[str] = []
    steps = possible(plan(Options(seeds=(0, 1)), splits.counts), splits, said.append)
    assert {step.job.lineage.held_out for step in steps} == {"", "web", "door"}
    assert len(said) == 1
    assert said[0].startswith("no fold without bare: what is left without source 'bare' holds no picture of without_mask")


def test_a_line_says_how_many_pictures_a_fold_is_without(data: Path) -> None:
    splits = read(data)
    images, (door, web) = splits.train.images_NHWC.copy(), (splits.train.sources.index(source) for source in ("door", "web"))
    images[door] = images[web]
    splits = replace(splits, train=replace(splits.train, images_NHWC=images))
    said: list[str] = []
    steps = plan(Options(only=("folds",)), splits.counts)
    assert possible(steps, splits, said.append) == steps
    assert said == [f"without {source}: left out, for they look like its pictures: 1 of other sources" for source in ("door", "web")]


def test_killed_and_started_again_it_finishes(tmp_path: Path, data: Path) -> None:
    folder = tmp_path / "runs"
    first = subprocess.Popen(command("compress", data, *QUICK, "--runs", folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: len(list(folder.glob("*/results.json"))) >= 3, 120)
    first.send_signal(signal.SIGKILL)
    first.wait()
    finished = {path: path.stat().st_mtime_ns for path in folder.glob("*/results.json")}
    assert finished
    assert not (folder / "table.json").exists()

    again = run("compress", data, *QUICK, "--runs", folder, "--json")
    assert again.returncode == 0, again.stderr
    assert all(path.stat().st_mtime_ns == at for path, at in finished.items()), "what was finished is not made again"
    document = json.loads(again.stdout)
    rows = {row["name"]: row for row in document["models"]}
    assert set(REFERENCES) <= set(rows)
    assert len(rows) == 6 + 4 + 2
    assert [rows[name]["params"] for name in REFERENCES] == [93_954, 53_186, 6_210, 45_195, 23_938, 8_556]
    assert rows["pruned70"]["macs"] == 18_005_618
    assert rows["pruned70"]["flops"] == 2 * 18_005_618
    assert rows["small"]["size_bytes"] < 30_000
    assert 0 < rows["small"]["onnxruntime_ms"] < rows["teacher"]["onnxruntime_ms"]
    assert 0 <= rows["small"]["accuracy_mean"] <= 1
    assert rows["small"]["how"] == "distilled from teacher with features"
    assert rows["small-pruned"]["how"] == "pruned 75% of teacher, fine-tuned"
    assert {(row["name"], row["held_out"]) for row in document["folds"]} == {(n, s) for n in ("lite0", "door-small") for s in ("door", "web")}
    assert document["machine"]["threads"] == 1
    assert (folder / "report.html").stat().st_size > 10_000

    other = run("compress", data, *QUICK, "--epochs", 2, "--runs", folder)
    assert other.returncode == 1
    assert "made with other settings" in other.stderr


def test_it_counts_an_interrupted_run_as_not_made(tmp_path: Path, data: Path) -> None:
    steps = plan(Options(epochs=2, seeds=(0,), only=("small-scratch-s0",)), {})
    pictures = read(data)

    def interrupted(name: str, total: int, epochs: object) -> None:
        next(epochs)
        raise KeyboardInterrupt

    def whole(name: str, total: int, epochs: object) -> None:
        assert all(isinstance(epoch, Epoch) for epoch in epochs)

    with pytest.raises(KeyboardInterrupt):
        execute(steps, pictures, data, tmp_path, interrupted)
    assert not job.is_complete(tmp_path / "small-scratch-s0")
    with pytest.raises(Rejected, match="not a finished run"):
        runs.load(tmp_path / "small-scratch-s0")
    assert execute(steps, pictures, data, tmp_path, whole) == ("small-scratch-s0",)
    assert execute(steps, pictures, data, tmp_path, whole) == ()


def test_a_finished_run_of_other_data_or_settings_is_refused(tmp_path: Path, data: Path) -> None:
    pictures, steps = read(data), plan(Options(epochs=1, seeds=(0,), only=("small-scratch-s0",)), {})

    def made(steps: tuple[Step, ...] = steps, pictures: Splits = pictures, data: Path = data) -> tuple[str, ...]:
        return execute(steps, pictures, data, tmp_path, lambda name, total, epochs: list(epochs))

    assert made() == ("small-scratch-s0",)
    assert made() == ()
    fewer = replace(pictures, train=pictures.train.select(np.arange(1, len(pictures.train))))
    elsewhere = replace(pictures, train=replace(pictures.train, sources=("elsewhere",) * len(pictures.train)))
    own = steps[0].job
    wider = (replace(steps[0], job=replace(own, architecture="door-small")),)
    slower = (replace(steps[0], job=replace(own, recipe=replace(own.recipe, learning_rate=1e-4))),)
    for other, says in (
        ({"data": tmp_path / "others"}, f"data {data.name}, asked for others"),
        ({"pictures": fewer}, "pictures "),
        ({"pictures": elsewhere}, "pictures "),
        ({"steps": wider}, "architecture small, asked for door-small"),
        ({"steps": slower}, "learning_rate "),
    ):
        with pytest.raises(Rejected, match=f"made with other settings \\({says}") as caught:
            made(**other)
        assert "\n" not in str(caught.value)
    assert made() == ()


def test_other_pictures_without_a_face_are_other_data(tmp_path: Path, data: Path) -> None:
    pictures = read(data)
    noise = replace(pictures.train.select(np.arange(3)), classes_N=np.full(3, NO_FACE), sources=("garden",) * 3)
    one = Step("door", job.Job("door", "door-small", Recipe(epochs=1, batch=4), Lineage(no_faces=True)))
    here = tmp_path / "door"
    learned = job.learned_from(one.job, replace(pictures, no_faces=noise))
    network = MaskNet(ARCHITECTURES["door-small"])
    list(runs.record(here, job.configuration(one.job, learned, np.arange(len(learned)), data, tmp_path), network, iter(())))
    (here / "results.json").write_bytes(b"{}")
    follow = lambda name, total, epochs: list(epochs)  # noqa: E731
    assert execute((one,), replace(pictures, no_faces=noise), data, tmp_path, follow) == ()
    with pytest.raises(Rejected, match=r"made with other settings .*garden"):
        execute((one,), replace(pictures, no_faces=noise.select(np.arange(2))), data, tmp_path, follow)


@pytest.mark.parametrize("trouble", ["corrupt", "empty class", "one class", "missing"])
def test_bad_data_is_one_line(tmp_path: Path, trouble: str) -> None:
    data = tmp_path / "faces"
    if trouble != "missing":
        write_splits(data, n=4)
    if trouble == "corrupt":
        (data / "train" / "with_mask" / "000.png").write_bytes(b"\x89PNG broken")
    elif trouble == "empty class":
        for path in (data / "val" / "without_mask").iterdir():
            path.unlink()
    elif trouble == "one class":
        (data / "train" / "without_mask").rename(tmp_path / "elsewhere")
    done = run("compress", data, *QUICK, "--runs", tmp_path / "runs")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert str(data) in done.stderr


def test_a_corrupt_picture_can_be_left_out(tmp_path: Path) -> None:
    data = write_splits(tmp_path / "faces", n=4)
    (data / "test" / "with_mask" / "000.png").write_bytes(b"")
    done = run("compress", data, *QUICK, "--only", "small-scratch-s0", "--runs", tmp_path / "runs", "--skip-unreadable", "--no-measure")
    assert done.returncode == 0, done.stderr


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    """The file size that a process may write stands in for the disk's: writing the weights fails in the same place."""
    data = write_splits(tmp_path / "faces", n=4)

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, 8_000))

    only = ("--only", "small-scratch-s0", "--runs", tmp_path / "runs")
    done = run("compress", data, *QUICK, *only, preexec_fn=limit, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
    assert done.returncode == 1
    assert "error: " in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs" / "small-scratch-s0" / "weights.safetensors").exists()
    assert run("compress", data, *QUICK, *only, "--no-measure").returncode == 0


def test_a_flat_folder_does_as_well(tmp_path: Path) -> None:
    data = tmp_path / "faces"
    for label, seed in (("with_mask", 0), ("without_mask", 100)):
        (data / label).mkdir(parents=True)
        for number in range(12):
            noise = np.random.default_rng(seed + number).integers(0, 256, (8, 8, 3)).astype(np.uint8)
            cv2.imwrite(str(data / label / f"{number}.png"), cv2.resize(noise, (100, 100)))
    done = run("train", data, "--architecture", "door-small", "--epochs", 1, "--runs", tmp_path / "runs")
    assert done.returncode == 0, done.stderr
    answers = job.load_predictions(tmp_path / "runs" / "door-small-0")
    assert set(answers.splits) == {"val", "test"}
