"""One network to be made, from nothing or from others, and making it: the run folder is complete when its results are in it."""

import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from protocol.errors import Reason, Rejected
from trainer import backbone, results, runs, views
from trainer.data import NO_FACE, Pictures, join, uneven
from trainer.distil import Teaching, distillation, told
from trainer.folder import write_whole
from trainer.models import ARCHITECTURES, Architecture, MaskNet, Network
from trainer.prune import prune_in_steps, pruned
from trainer.runs import Lineage
from trainer.splits import Splits, apart, without_source
from trainer.train import Epoch, Recipe, fit, log_counts, predict

PREDICTIONS_FILE = "predictions.csv"
FINE_TUNING_RATE = 1e-3
"""Learning rate of a network that was pruned and is to be mended, not made anew."""


@dataclass(frozen=True)
class Job:
    """What to make; teacher and start are names of other runs in the same folder."""

    name: str
    architecture: str
    recipe: Recipe
    lineage: Lineage = field(default_factory=Lineage)

    @property
    def needs(self) -> tuple[str, ...]:
        """The runs that must be finished before."""
        return tuple(sorted({self.lineage.teacher, self.lineage.start} - {""}))


@dataclass(frozen=True)
class Predictions:
    """What a run answered to pictures that it did not learn from."""

    splits: tuple[str, ...]
    """`val` or `test`, of each picture."""
    files: tuple[str, ...]
    sources: tuple[str, ...]
    classes_N: NDArray[np.int64]
    logits_N2: NDArray[np.float64]
    """Before the temperature."""


def is_complete(folder: Path) -> bool:
    """Whether a run has ended; results are written last."""
    return (folder / results.RESULTS_FILE).is_file()


def is_made(job: Job, splits: Splits, data: Path, folder: Path) -> bool:
    """Whether `folder`/NAME holds the finished run of the job; raises Rejected when that has other settings, for it may have been dear,
    or was made of uneven classes when these did not count alike.
    """
    here = folder / job.name
    if not is_complete(here):
        return False
    pictures = learned_from(job, splits)
    runs.check_settings(here, configuration(job, pictures, apart(pictures, splits, job.lineage.held_out), data, folder))
    # Older ones do not tell how many are surely bare.
    if uneven(splits.train.classes_N) and (found := results.load(here)).scores and not found.surely_bare:
        raise Rejected(
            Reason.BAD_SETTING, f"{here}: learned when classes of more pictures counted for more; give another name or --runs, or remove it"
        )
    return True


def with_held_out(job: Job, splits: Splits, folder: Path) -> Job:
    """The job without the source that its teacher or its start was not shown, unless it names one itself or there is no picture of it.

    Raises Rejected when teacher and start were not shown different ones, or are missing.
    """
    held_out = {name: runs.load(folder / name)[0].lineage.held_out for name in job.needs}
    found = set(held_out.values()) & set(splits.sources)
    if len(found) > 1:
        said = " and ".join(f"{name} learned nothing from {source}" for name, source in held_out.items())
        raise Rejected(Reason.BAD_INPUT, f"{job.name}: {said}; one source can be held out")
    if job.lineage.held_out or not found:
        return job
    return replace(job, lineage=replace(job.lineage, held_out=found.pop()))


def run(job: Job, splits: Splits, data: Path, folder: Path) -> Iterator[Epoch]:
    """Makes the network in `folder`/NAME, epoch by epoch; afterwards the folder is complete. A finished run stays as it is, without an epoch.

    Raises Rejected as `is_made`, when a teacher or start is missing, when the start cannot be pruned so far, or in more steps than there are
    epochs; what was in the folder is still there then.
    """
    if is_made(job, splits, data, folder):
        return
    here = folder / job.name
    all_pictures = learned_from(job, splits)
    rows = apart(all_pictures, splits, job.lineage.held_out)
    if job.lineage.held_out:
        splits = without_source(splits, job.lineage.held_out)
    config = configuration(job, all_pictures, rows, data, folder)
    parts = _parts(job.recipe.epochs, job.lineage.steps)
    teacher = runs.load(folder / job.lineage.teacher)[1] if job.lineage.teacher else None
    torch.manual_seed(job.recipe.seed)
    network = backbone.fresh(config.architecture)
    objective = _objective(job, teacher, splits.train)
    labelled = _labelled(job, teacher, all_pictures, rows, folder)
    cuts = _cuts(job, folder)

    def learn() -> Iterator[Epoch]:
        if not job.lineage.start:
            yield from fit(network, splits.train, splits.val, job.recipe, objective, labelled)
            return
        number = 0
        for smaller, epochs in zip(cuts, parts, strict=True):
            for epoch in fit(smaller, splits.train, splits.val, replace(job.recipe, epochs=epochs), objective, labelled):
                number += 1
                yield replace(epoch, number=number)
            last = smaller
        network.load_state_dict(last.state_dict(), strict=True)

    yield from runs.record(here, config, network, learn())
    network.eval()
    _save_predictions(network, {"val": splits.val, "test": splits.test}, here)
    results.save(results.find(network, splits.val, splits.test if len(splits.test) else None), here)


def configuration(job: Job, pictures: Pictures, rows: NDArray[np.int64], data: Path, folder: Path) -> runs.Config:
    """All that makes the run of a job that learns from these rows of the pictures; raises Rejected as `run`."""
    sources = tuple(pictures.sources[row] for row in rows)
    config = runs.Config.new(job.name, job.architecture, _architecture(job, folder), job.recipe, data, sources, job.lineage)
    knew = [runs.load(folder / parent)[0].pictures for parent in job.needs]
    if job.architecture == backbone.NAME:
        knew.append(backbone.KNEW)
    return replace(config, pictures=_most([config.pictures, *knew]))


def _most(counts: list[dict[str, int]]) -> dict[str, int]:
    """The largest count of each source: pictures of one source are mostly the same ones."""
    sources = dict.fromkeys(source for count in counts for source in count)
    return {source: max(count.get(source, 0) for count in counts) for source in sources}


def _architecture(job: Job, folder: Path) -> Architecture:
    if job.lineage.start:
        config, _ = runs.load_student(folder / job.lineage.start)
        return pruned(config.architecture, job.lineage.ratio)
    if job.architecture not in ARCHITECTURES:
        raise Rejected(Reason.BAD_SETTING, f"architecture {job.architecture!r}: choose one of {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[job.architecture]


def _cuts(job: Job, folder: Path) -> Iterator[MaskNet]:
    """The start after each cut."""
    if not job.lineage.start:
        return iter(())
    _, start = runs.load_student(folder / job.lineage.start)
    return prune_in_steps(start, job.lineage.ratio, job.lineage.steps)


def _parts(epochs: int, steps: int) -> list[int]:
    """The epochs of each step; where they cannot be equal the later ones have more, for what was cut last is mended last."""
    if epochs < steps:
        raise Rejected(Reason.BAD_SETTING, f"{steps} steps in {epochs} epochs: each step takes one at least")
    return [epochs * (step + 1) // steps - epochs * step // steps for step in range(steps)]


def _objective(job: Job, teacher: Network | None, train: Pictures) -> Callable[..., torch.Tensor] | None:
    if teacher is None:
        return None
    teaching = Teaching(feature_weight=1.0 if job.lineage.features else 0.0, label_smoothing=job.recipe.label_smoothing)
    if job.lineage.views:
        return told(teaching, log_counts(train.classes_N))
    return distillation(teacher, teaching, log_counts(train.classes_N))


def learned_from(job: Job, splits: Splits) -> Pictures:
    """The training pictures, and those without a face where the job wants them."""
    if not job.lineage.no_faces:
        return splits.train
    if splits.no_faces is None:
        raise Rejected(Reason.BAD_INPUT, f"{job.name}: wants pictures without a face; none are given")
    return join([splits.train, splits.no_faces])


def _labelled(job: Job, teacher: Network | None, pictures: Pictures, rows: NDArray[np.int64], folder: Path) -> views.Views | None:
    """The views of all pictures, of which the job learns from some rows; made and labelled by the first job that needs them."""
    if teacher is None or not job.lineage.views:
        return None
    file = views.file_of_views(pictures, job.lineage.views)
    images = views.make(pictures, job.lineage.views, folder / file)
    asked = rows[pictures.classes_N[rows] != NO_FACE]
    logits = views.ask(teacher, images, asked, folder / job.lineage.teacher / views.file_of_logits(file, teacher, asked))
    return views.Views(images, rows, pictures.classes_N, logits)


def _save_predictions(network: Network, parts: dict[str, Pictures], folder: Path) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(("split", "file", "source", "class", "logit_with_mask", "logit_without_mask"))
    for name, pictures in parts.items():
        if len(pictures):
            logits = predict(network, pictures).tolist()
            writer.writerows(
                (name, f, s, int(c), *row) for f, s, c, row in zip(pictures.files, pictures.sources, pictures.classes_N, logits, strict=True)
            )
    write_whole(folder / PREDICTIONS_FILE, text.getvalue().encode())


def load_predictions(folder: Path) -> Predictions:
    """What a finished run answered; raises Rejected when that cannot be read."""
    try:
        with (folder / PREDICTIONS_FILE).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return Predictions(
            splits=tuple(row["split"] for row in rows),
            files=tuple(row["file"] for row in rows),
            sources=tuple(row["source"] for row in rows),
            classes_N=np.array([int(row["class"]) for row in rows]),
            logits_N2=np.array([(float(row["logit_with_mask"]), float(row["logit_without_mask"])) for row in rows]).reshape(-1, 2),
        )
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:  # the fourth: a line that was cut has fewer cells
        raise Rejected(Reason.BAD_INPUT, f"{folder}: no readable {PREDICTIONS_FILE} ({type(error).__name__})") from None
