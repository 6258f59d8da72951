"""The whole study as an ordered list of runs: the references, the ablation, and the door's own models with each source held out once.

A run that is finished is skipped, so whatever was interrupted is finished by starting it again. Several processes may
share a folder: each run is made by the first that comes to it.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path

from protocol.errors import Reason, Rejected
from trainer import job
from trainer.folder import alone
from trainer.job import FINE_TUNING_RATE, Job
from trainer.models import ARCHITECTURES, REFERENCES
from trainer.runs import Lineage
from trainer.splits import Splits, without_source
from trainer.train import LARGEST_SEED, Epoch, Recipe

log = logging.getLogger(__name__)

RATIOS = {"pruned30": 0.3, "pruned50": 0.5, "pruned70": 0.7}
SMALL_RATIO = 0.75
"""The teacher pruned by this has exactly the shape of small."""
TEACHER = "lite0"
TEACHER_RECIPE = Recipe(epochs=6, batch=48, learning_rate=5e-4, weight_decay=0.02, ema_decay=0.99)
"""A pretrained teacher needs few passes, and gentle ones."""
GROUPS = ("references", "ablation", "door", "folds")


@dataclass(frozen=True)
class Options:
    """How long, how often, and which."""

    epochs: int = 30
    """Of every reference and of every arm of the ablation alike."""
    door_epochs: int = 100
    """Of every door model, as long as it learns from all pictures; with a source held out there are more, for as many steps."""
    seeds: tuple[int, ...] = (0, 1, 2)
    students: tuple[str, ...] = ("gate-96",)
    views: int = 12
    """Of each picture, labelled once by the teacher."""
    no_faces: bool = False
    """Whether the students learn from pictures without a face as well."""
    bfloat16: bool = False
    only: tuple[str, ...] = ()
    """Groups, or patterns of run names; what they need is made as well. Empty: all."""


@dataclass(frozen=True)
class Step:
    """One run of the study."""

    group: str
    job: Job


def plan(options: Options, counts: Mapping[str, int]) -> tuple[Step, ...]:
    """All runs in the order in which they can be made; sources are held out one by one when there are several.

    `counts` are the training pictures of each source. Raises Rejected for an unknown student, no seed or an
    impossible one, or a pattern that no run matches.
    """
    possible = [name for name in ARCHITECTURES if name not in (*REFERENCES, TEACHER)]
    unknown = [name for name in options.students if name not in possible]
    if unknown:
        raise Rejected(Reason.BAD_SETTING, f"student {unknown[0]!r}: choose of {', '.join(possible)}")
    bad = [seed for seed in options.seeds if not 0 <= seed <= LARGEST_SEED]
    if bad or not options.seeds:
        raise Rejected(Reason.BAD_SETTING, f"seed {bad[0] if bad else 'missing'}: give whole numbers from 0 to {LARGEST_SEED}")
    steps = [step for seed in options.seeds for step in (*_references(options, seed), *_ablation(options, seed))]
    for seed in options.seeds:
        steps += _door(options, seed, options.door_epochs)
    all_pictures = sum(counts.values())
    for seed in options.seeds:
        for source in counts if len(counts) > 1 else ():
            epochs = round(options.door_epochs * all_pictures / (all_pictures - counts[source]))
            steps += _door(options, seed, epochs, held_out=source)
    return _chosen(steps, options.only) if options.only else tuple(steps)


def possible(steps: tuple[Step, ...], splits: Splits, say: Callable[[str], None]) -> tuple[Step, ...]:
    """The steps without the folds of sources that cannot be held out, as when all bare faces are of one.

    `say` is told in a line why, and of how many pictures other folds are without, for they look like held-out ones.
    """
    impossible = set()
    for source in dict.fromkeys(step.job.lineage.held_out for step in steps if step.job.lineage.held_out):
        try:
            fold = without_source(splits, source)
        except Rejected as error:
            impossible.add(source)
            say(f"no fold without {source}: {error}")
        else:
            if fold.too_near:
                say(f"without {source}: left out, for they look like its pictures: {fold.too_near} of other sources")
    return tuple(step for step in steps if step.job.lineage.held_out not in impossible)


def execute(
    steps: tuple[Step, ...], splits: Splits, data: Path, folder: Path, follow: Callable[[str, int, Iterator[Epoch]], None]
) -> tuple[str, ...]:
    """Makes all runs that are not finished, in order; the names of those that it made.

    `follow` is given each training's name, its epochs and the trainings themselves, and runs them. Raises Rejected
    when a finished run was made with other settings.
    """
    made = []
    folder.mkdir(parents=True, exist_ok=True)
    for number, step in enumerate(steps, 1):
        here = folder / step.job.name
        here.mkdir(exist_ok=True)
        with alone(here / ".lock"):
            if job.is_made(step.job, splits, data, folder):
                continue
            log.info("%d of %d: %s", number, len(steps), step.job.name)
            follow(f"{number}/{len(steps)} {step.job.name}", step.job.recipe.epochs, job.run(step.job, splits, data, folder))
            made.append(step.job.name)
    return tuple(made)


def _references(options: Options, seed: int) -> list[Step]:
    """The six models of the original study: one teacher, two distilled students, three pruned."""
    recipe = Recipe(epochs=options.epochs, seed=seed, bfloat16=options.bfloat16)
    mend = replace(recipe, learning_rate=FINE_TUNING_RATE)
    teacher = f"teacher-s{seed}"
    jobs = [Job(teacher, "teacher", recipe)]
    jobs += [Job(f"{name}-s{seed}", name, recipe, Lineage(teacher=teacher, features=True)) for name in ("medium", "small")]
    jobs += [Job(f"{name}-s{seed}", name, mend, Lineage(teacher=teacher, start=teacher, ratio=ratio)) for name, ratio in RATIOS.items()]
    return [Step("references", one) for one in jobs]


def _ablation(options: Options, seed: int) -> list[Step]:
    """Five ways to small at equal epochs; the second, distilled from a random start, is the reference `small`."""
    recipe = Recipe(epochs=options.epochs, seed=seed, bfloat16=options.bfloat16)
    mend = replace(recipe, learning_rate=FINE_TUNING_RATE)
    teacher = f"teacher-s{seed}"
    start = Lineage(start=teacher, ratio=SMALL_RATIO)
    ways = {
        "scratch": (recipe, Lineage()),
        "pruned": (mend, start),
        "pruned-distilled": (mend, replace(start, teacher=teacher)),
        "distilled-from-pruned": (recipe, replace(start, teacher=teacher, features=True)),
    }
    return [Step("ablation", Job(f"small-{way}-s{seed}", "small", own, lineage)) for way, (own, lineage) in ways.items()]


def _door(options: Options, seed: int, epochs: int, held_out: str = "") -> list[Step]:
    """The teacher that knows ImageNet, and its students; the first seed's teacher teaches the students of all seeds."""
    recipe = Recipe(epochs=epochs, seed=seed, bfloat16=options.bfloat16)
    end, first = Lineage(held_out=held_out).ending, options.seeds[0]
    teacher = f"{TEACHER}{end}-s{first}"
    jobs = [Job(teacher, TEACHER, replace(TEACHER_RECIPE, seed=seed, bfloat16=options.bfloat16), Lineage(held_out=held_out))] if seed == first else []
    lineage = Lineage(teacher=teacher, views=options.views, no_faces=options.no_faces, held_out=held_out)
    jobs += [Job(f"{name}{end}-s{seed}", name, replace(recipe, keeps_last=True), lineage) for name in options.students]
    return [Step("folds" if held_out else "door", one) for one in jobs]


def _chosen(steps: list[Step], only: tuple[str, ...]) -> tuple[Step, ...]:
    for pattern in only:
        if not any(pattern == step.group or fnmatch(step.job.name, pattern) for step in steps):
            raise Rejected(Reason.BAD_SETTING, f"--only {pattern}: no such group ({', '.join(GROUPS)}) and no such run")
    wanted = {step.job.name for step in steps for pattern in only if pattern == step.group or fnmatch(step.job.name, pattern)}
    for step in reversed(steps):  # what is needed stands before what needs it
        if step.job.name in wanted:
            wanted |= set(step.job.needs)
    return tuple(step for step in steps if step.job.name in wanted)
