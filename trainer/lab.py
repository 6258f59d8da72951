"""The commands around training: look at the data, distil, prune, quantise, run the whole study, report."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from protocol.errors import Reason, Rejected
from trainer.console import Json, Seed, err, follow, out, show

Data = Annotated[Path, typer.Argument(help="Folder with train/, val/ and test/, or with with_mask/ and without_mask/.")]
Runs = Annotated[Path, typer.Option(help="Where run folders are read and written.")]
Epochs = Annotated[int, typer.Option(min=1)]

BRIEF = {
    "model": "name",
    "params": "params",
    "zero": "params_zero",
    "non-zero": "params_nonzero",
    "MACs": "macs",
    "FLOPs": "flops",
    "bytes": "size_bytes",
    "ms": "onnxruntime_ms",
    "likelier": "likelier_mean",
    "spread": "likelier_sd",
    "accuracy": "accuracy_mean",
    "masked": "recall_with_mask",
    "bare": "recall_without_mask",
    "ECE": "ece",
}
"""Columns of the table that `compress` prints."""


def add_to(app: typer.Typer) -> None:
    """Makes the commands of this module commands of the program."""
    for command in (audit, distil, prune, quantise, crops, mistakes, compress, report):
        app.command()(command)


def audit(data: Data, as_json: Json = False) -> None:
    """Looks for duplicates, leaks between splits, unreadable files and classes that differ in more than masks; exit code 1 on a leak."""
    from trainer import audit as auditor

    found = auditor.audit(data)
    if not found.pictures:
        raise Rejected(Reason.BAD_INPUT, f"{data}: holds no readable picture in with_mask/ or without_mask/")
    show(found.as_document(), list(found.table), as_json)
    if not as_json:
        show({}, list(found.classes), as_json=False)
        if found.uneven:
            out.print(found.uneven, soft_wrap=True)
        for name in ("unreadable", "passed_over", "duplicates", "leaks", "contradictions"):
            rows = getattr(found, name)
            out.print(f"{name.replace('_', ' ')}: {len(rows)}")
            for row in rows[:20]:
                out.print(f"  {row if isinstance(row, str) else f'{row.one}  {row.other}  ({row.bits} bits)'}")
    if found.leaks:
        raise typer.Exit(1)


def distil(
    student: Annotated[str, typer.Argument(help="Architecture of the student.")],
    data: Data,
    teacher: Annotated[str, typer.Option(help="A finished run in --runs to learn from: its name or its folder.")],
    start: Annotated[str, typer.Option(help="A finished run in --runs to prune the student from, instead of starting at random.")] = "",
    ratio: Annotated[float, typer.Option(help="With --start: share of its channels to cut; 0.75 of teacher has the shape of small.")] = 0.75,
    features: Annotated[bool, typer.Option(help="Teach the teacher's features beside its answers.")] = True,
    name: str = "",
    epochs: Epochs = 60,
    seed: Seed = 0,
    runs: Runs = Path("runs"),
) -> None:
    """Trains a student on a teacher's softened answers and features beside the labels."""
    from trainer.models import ARCHITECTURES
    from trainer.prune import pruned
    from trainer.runs import Lineage, load_student, name_in
    from trainer.train import Recipe

    teacher, start = name_in(runs, teacher), name_in(runs, start)
    if start:
        shape = pruned(load_student(runs / start)[0].architecture, ratio)
        if shape != ARCHITECTURES.get(student):
            raise Rejected(Reason.BAD_SETTING, f"{start} without {ratio:g} of its channels has not the shape of {student!r}: {shape}")
    lineage = Lineage(teacher=teacher, start=start, ratio=ratio if start else 0.0, features=features)
    make(name or f"{student}-from-{teacher}", student, Recipe(epochs=epochs, seed=seed), lineage, data, runs)


def prune(
    start: Annotated[str, typer.Argument(help="A finished run in --runs to prune: its name or its folder.")],
    data: Data,
    ratio: Annotated[str, typer.Option(help="Shares of the channels to cut, one run for each.")] = "0.3,0.5,0.7",
    steps: Annotated[int, typer.Option(min=1, help="Cut in so many steps, each followed by its part of the epochs.")] = 1,
    teacher: Annotated[
        str, typer.Option(help="A finished run to learn from while mending; by default the start itself, `none` for labels only.")
    ] = "",
    epochs: Epochs = 30,
    seed: Seed = 0,
    runs: Runs = Path("runs"),
) -> None:
    """Cuts the weakest channels of a run out and fine-tunes what is left."""
    from trainer.job import FINE_TUNING_RATE
    from trainer.prune import pruned
    from trainer.runs import Lineage, load, name_in
    from trainer.train import Recipe

    teacher, start = name_in(runs, teacher), name_in(runs, start)
    config, _ = load(runs / start)
    recipe = Recipe(epochs=epochs, seed=seed, learning_rate=FINE_TUNING_RATE)
    named = [(f"{start}-pruned{share * 100:g}", share) for share in _numbers(ratio, float, "--ratio")]
    if len(dict(named)) < len(named):
        raise Rejected(Reason.BAD_SETTING, f"--ratio {ratio}: two of these are the same")
    for _, share in named:
        pruned(config.architecture, share)  # raises where nothing would be left, before any other was mended
    for name, share in named:
        lineage = Lineage(teacher="" if teacher == "none" else teacher or start, start=start, ratio=share, steps=steps)
        make(name, config.architecture_name, recipe, lineage, data, runs)


def quantise(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    data: Annotated[Path, typer.Option(help="The data that it was trained on.")],
    to: Annotated[Path, typer.Option("--out", help="Release folder to write.")],
    version: str = "1",
) -> None:
    """Writes a run as a release of 8-bit integers, if that is measured faster and not worse; else says so and exits with 1."""
    from trainer import quantise as quantiser
    from trainer import results, splits
    from trainer import runs as run_folders

    config, network = run_folders.load_student(run)
    compared = quantiser.make(config, network, results.load(run), splits.read(data), version, to)
    out.print(f"{run.name}: {compared}")
    if not compared.is_kept:
        raise Rejected(Reason.BAD_INPUT, f"{run}: not quantised, for here that is not both faster and as good")


def crops(
    release: Annotated[Path, typer.Argument(help="Release folder.")],
    frames: Annotated[Path, typer.Option(help="Whole frames with annotations.json (COCO).")],
    yunet: Annotated[Path | None, typer.Option(help="A detector in YuNet's format.")] = None,
    as_json: Json = False,
) -> None:
    """Scores a release on faces as detectors cut them out of frames."""
    import numpy as np

    from trainer import evaluate, runtimes
    from trainer import study as whole
    from trainer.data import resize
    from trainer.folder import read_release

    manifest, model = read_release(release, "classifier")
    run = runtimes.onnx_runtime(model)
    document: dict[str, Any] = {}
    for name, cut in whole.cuts(frames, yunet).items():
        images_NHWC = np.stack([resize(image, manifest.input.width_px) for image in cut.pictures.images_NHWC])
        p_no_mask = runtimes.in_batches(run, images_NHWC)[:, evaluate.WITHOUT_MASK].astype(float)
        document[name] = {**vars(evaluate.score(p_no_mask, cut.pictures.classes_N, manifest.threshold)), "annotated": cut.annotated}
    shown = ("n", "accuracy", "accuracy_low", "accuracy_high", "recall_with_mask", "recall_without_mask", "ece")
    show(document, [{"detector": name, **{key: row[key] for key in shown}} for name, row in document.items()], as_json)


def mistakes(
    frames: Annotated[Path, typer.Argument(help="Whole frames with annotations.json (COCO).")],
    detector: Annotated[Path, typer.Argument(help="A detector in YuNet's format.")],
    to: Annotated[Path, typer.Option("--out", help="Folder to write pictures to.")],
    source: Annotated[str, typer.Option(help="The data set that the frames are of.")] = "unknown",
    most: Annotated[int, typer.Option(min=1, help="So many pictures, drawn at random where there are more.")] = 800,
    score: Annotated[float, typer.Option(min=0, max=1, help="From which score on a detection counts.")] = 0.15,
    seed: Seed = 0,
) -> None:
    """Cuts out what a detector takes for a face where nobody noted one: pictures for `compress --no-faces`."""
    from trainer import crops as cutter

    cut = cutter.mistakes(frames, cutter.yunet(detector, score), most, seed)
    cutter.write_pictures(cut, source, to)
    out.print(f"{to}: {len(cut)} pictures without a face")


def compress(
    data: Data,
    epochs: Annotated[int, typer.Option(min=1, help="Of each reference and each arm of the ablation.")] = 30,
    door_epochs: Annotated[int, typer.Option(min=1, help="Of each door model, over all pictures; as many steps where a source is held out.")] = 100,
    seeds: Annotated[str, typer.Option(help="One repetition for each.")] = "0,1,2",
    students: Annotated[str, typer.Option(help="Architectures that learn from `lite0`.")] = "gate-96",
    only: Annotated[
        str, typer.Option(help="Only these groups (references, ablation, door, folds) or run names, * allowed, and what they need.")
    ] = "",
    runs: Runs = Path("runs/compress"),
    frames: Annotated[Path | None, typer.Option(help="Annotated whole frames (COCO), to score faces as detectors cut them.")] = None,
    yunet: Annotated[Path | None, typer.Option(help="A detector in YuNet's format for --frames.")] = None,
    no_faces: Annotated[Path | None, typer.Option(help="Pictures that show no face (see `mistakes`), for the door models to be unsure of.")] = None,
    bfloat16: Annotated[bool, typer.Option(help="Compute in 16 bits, on processors that can.")] = False,
    skip_unreadable: Annotated[bool, typer.Option(help="Leave out files that are no pictures, instead of stopping.")] = False,
    measure: Annotated[bool, typer.Option(help="Measure latencies.")] = True,
    as_json: Json = False,
) -> None:
    """Runs the whole study, or what is left of it, and writes its table and report."""
    import torch

    from trainer import compress as plans
    from trainer import splits, study
    from trainer.data import read_no_faces

    torch.set_num_threads(1)
    if yunet and not frames:
        raise Rejected(Reason.BAD_SETTING, f"--yunet {yunet}: cuts faces out of --frames, which are not given")
    options = plans.Options(
        epochs,
        door_epochs,
        tuple(_numbers(seeds, int, "--seeds")),
        _words(students),
        no_faces=no_faces is not None,
        bfloat16=bfloat16,
        only=_words(only),
    )
    pictures = splits.read(data)
    unreadable = [data / file for file in pictures.unreadable]
    if no_faces is not None:
        no_face = read_no_faces(no_faces)
        pictures = replace(pictures, no_faces=no_face)
        unreadable += [no_faces / file for file in no_face.unreadable]
    if unreadable and not skip_unreadable:
        more = f" and {len(unreadable) - 1} more" if len(unreadable) > 1 else ""
        raise Rejected(Reason.BAD_INPUT, f"{unreadable[0]}{more}: no picture; remove it or give --skip-unreadable")
    steps = plans.possible(plans.plan(options, pictures.counts), pictures, lambda line: err.print(line, soft_wrap=True))
    found = study.cuts(frames, yunet) if frames else {}  # what is wrong with them is said before hours of training
    plans.execute(steps, pictures, data, runs, follow)
    document = study.finish(runs, data, pictures, found, measure=measure)
    show(document, [{title: row[key] for title, key in BRIEF.items()} for row in document["models"]], as_json)
    err.print(f"report: {runs / 'report.html'}")


def report(
    runs: Annotated[Path, typer.Argument(help="Folder of run folders.")],
    data: Annotated[Path | None, typer.Option(help="The data, to show the worst mistakes.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="A second place for the Markdown.")] = None,
) -> None:
    """Writes what is finished as RUNS/report.html and RUNS/report.md."""
    from trainer import report as reporter

    out.print(str(reporter.write(runs, data, markdown)))


def make(name: str, architecture: str, recipe: Any, lineage: Any, data: Path, runs: Path) -> None:
    """Makes a run unless it is finished, and says in one line how that ended."""
    from trainer import job, results, splits
    from trainer.data import uneven
    from trainer.folder import alone

    pictures = splits.read(data)
    for file in pictures.unreadable:
        err.print(f"left out, not a picture: {file}")
    one = job.with_held_out(job.Job(name, architecture, recipe, lineage), pictures, runs)
    if one.lineage.held_out != lineage.held_out:
        err.print(f"{name}: learns nothing from {one.lineage.held_out}, for what it comes from did not", soft_wrap=True)
    held_out = one.lineage.held_out
    shown = splits.without_source(pictures, held_out) if held_out else pictures
    if shown.too_near:
        err.print(f"left out, for they look like pictures of {held_out}: {shown.too_near} of other sources", soft_wrap=True)
    if line := uneven(shown.train.classes_N):
        err.print(line, soft_wrap=True)
    (runs / name).mkdir(parents=True, exist_ok=True)
    with alone(runs / name / ".lock"):  # the same command beside this one waits, and finds the run finished
        if job.is_made(one, pictures, data, runs):
            out.print(f"{runs / name}: finished before with these settings, left as it is", soft_wrap=True)
            return
        follow(name, recipe.epochs, job.run(one, pictures, data, runs))
    found = results.load(runs / name)
    out.print(f"{runs / name}: threshold {found.threshold}, " + ", ".join(f"{k} {s.accuracy:.1%}" for k, s in found.scores.items()))


def _numbers(text: str, kind: type, option: str) -> list[Any]:
    try:
        return [kind(word) for word in _words(text)]
    except ValueError:
        raise Rejected(Reason.BAD_SETTING, f"{option} {text}: give numbers with commas between") from None


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())
