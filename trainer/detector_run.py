"""The life of a detector: label the pictures, train, choose the threshold on held-out frames, score on the test frames."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from protocol import release
from protocol.errors import Reason, Rejected
from trainer import detector_eval
from trainer.detector import check_recipe, fit_detector, load_run
from trainer.detector_data import Teacher, build_library, held_out, is_held_out
from trainer.detector_dense import DenseTeacher
from trainer.detector_net import SIZES, export
from trainer.detector_recipe import TIMES_FALSE, DetectorRecipe
from trainer.folder import read_release, write_whole
from trainer.frames import read_frames

LABELS_FILE, RESULTS_FILE = "labels.npz", "detector.json"


def run_detector(data: Path, teacher: Path, run: Path, recipe: DetectorRecipe, console: Console, start: Path | None = None) -> dict[str, Any]:
    """Trains in `run`, or goes on from its checkpoint, with a progress bar; then scores. Returns what `run`/detector.json holds.

    `start` is a release of a detector: the training begins with its weights, as far as they fit, and looks more often at what it
    wrongly finds.

    `data` has frames_train/ (COCO-style), faces/ (index.csv) and, to be scored, frames/. Raises Rejected for a bad setting or
    folder, DeviceError for a teacher that OpenCV cannot load.
    """
    if recipe.size not in SIZES:
        raise Rejected(Reason.BAD_SETTING, f"size {recipe.size!r}: choose one of {', '.join(SIZES)}")
    if recipe.steps < 2:
        raise Rejected(Reason.BAD_SETTING, f"steps {recipe.steps}: at least 2")
    exported, threshold = b"", None
    if start:
        manifest, model = read_release(start, "detector")
        exported = model.read_bytes()
        recipe = replace(recipe, start=manifest.digest)
        threshold = None if recipe.holds_out else manifest.threshold
    elif not recipe.holds_out:
        raise Rejected(Reason.BAD_SETTING, "nothing is held out to choose a threshold on: name a release to start from, whose threshold to keep")
    _check_frames(data, recipe.holds_out)
    watched = Teacher(teacher)
    recipe = replace(recipe, teacher=watched.digest)
    check_recipe(run, recipe)
    with console.status("labelling pictures"):
        library = build_library(data, watched, run / LABELS_FILE, Teacher(start / release.MODEL_FILE) if start else None, holds_out=recipe.holds_out)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(run.name, total=recipe.steps)
        for progress in fit_detector(library, recipe, run, DenseTeacher(teacher), exported):
            losses = " ".join(f"{name} {value:.2f}" for name, value in progress.losses.items())
            bar.update(task, completed=progress.step, description=f"{run.name}: {losses}")
    with console.status("scoring"):
        return score_detector(data, teacher, run, threshold)


def _check_frames(data: Path, holds_out: bool) -> None:
    """What could not be scored after hours of training is refused before them."""
    frames = read_frames(data / "frames_train")
    files = [frame.file for frame in frames]
    if holds_out and not 0 < sum(map(is_held_out, files)) < len(files):
        raise Rejected(Reason.BAD_INPUT, f"{data / 'frames_train'}: of {len(files)} frames, none are left to train on or to validate on; add more")
    if holds_out:
        detector_eval.check_countable([frame for frame in frames if is_held_out(frame.file)])
    if (data / "frames").is_dir():
        detector_eval.check_countable(read_frames(data / "frames"))


def score_detector(data: Path, teacher: Path, run: Path, threshold: float | None = None) -> dict[str, Any]:
    """Scores (on `data`/frames) of a trained run, as written to `run`/detector.json; without a threshold, one is chosen on held-out frames."""
    model = run / release.MODEL_FILE
    write_whole(model, export(load_run(run).network))
    results: dict[str, Any] = {}
    if threshold is None:
        frames = held_out(data)
        # Rounded up: a lower threshold would let more through than it may.
        threshold = math.ceil(round(detector_eval.threshold_like(model, teacher, frames, TIMES_FALSE) * 100, 6)) / 100
        results["held_out"] = detector_eval.compare(model, threshold, teacher, frames)
    results["threshold"] = threshold
    if (data / "frames").is_dir():
        results["test"] = detector_eval.compare(model, threshold, teacher, read_frames(data / "frames"))
    write_whole(run / RESULTS_FILE, json.dumps(results, indent=1).encode())
    return results
