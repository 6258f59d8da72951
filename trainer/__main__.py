"""`maskfleet-trainer`: the commands. What a command does is in the module it calls."""

import json
import logging
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from protocol.errors import FleetError, Reason, Rejected

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="Makes the fleet's models.")
out, err = Console(), Console(stderr=True)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]


def main() -> None:
    """Runs a command; whatever is wrong with what it was given is one line and exit code 1."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        app()
    except FleetError as error:
        err.print(f"[red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(1)
    except OSError as error:
        err.print(f"[red]error:[/] {escape(str(error.filename or ''))}: {error.strerror}", highlight=False, soft_wrap=True)
        sys.exit(1)


@app.command()
def models(as_json: Json = False) -> None:
    """Lists the reference architectures and what each costs."""
    from trainer import measure
    from trainer.models import REFERENCES, MaskNet

    rows = []
    for name, architecture in REFERENCES.items():
        network = MaskNet(architecture)
        cost = measure.cost(network)
        rows.append(
            {
                "name": name,
                "channels": list(architecture.channels),
                "params": cost.params,
                "params_zero": cost.params_zero,
                "params_nonzero": cost.params_nonzero,
                "macs": cost.macs,
                "flops": cost.flops,
                "size_bytes": measure.state_bytes(network),
            }
        )
    shown = ("name", "channels", "params", "macs", "flops", "size_bytes")
    _show({"models": rows}, [{key: row[key] for key in shown} for row in rows], as_json)


@app.command()
def train(
    data: Annotated[Path, typer.Argument(help="Folder with train/, val/ and, to be scored, test/.")],
    architecture: Annotated[str, typer.Option(help="Which architecture to train.")] = "door",
    name: Annotated[str, typer.Option(help="Name of the run and of its release.")] = "",
    epochs: Annotated[int, typer.Option(min=1)] = 60,
    seed: int = 0,
    runs: Annotated[Path, typer.Option(help="Where run folders are written.")] = Path("runs"),
) -> None:
    """Trains a classifier and writes runs/NAME with its configuration, metrics, weights and results."""
    from trainer import results
    from trainer import runs as run_folders
    from trainer.data import read_folder
    from trainer.models import ARCHITECTURES, MaskNet
    from trainer.train import Recipe, fit

    if architecture not in ARCHITECTURES:
        raise Rejected(Reason.BAD_SETTING, f"architecture {architecture!r}: choose one of {', '.join(ARCHITECTURES)}")
    training, val = read_folder(data / "train"), read_folder(data / "val")
    test = read_folder(data / "test") if (data / "test").is_dir() else None
    for split in (training, val, *([test] if test else [])):
        for file in split.unreadable:
            err.print(f"left out, not a picture: {file}", highlight=False)
    recipe = Recipe(epochs=epochs, seed=seed)
    name = name or f"{architecture}-{seed}"
    config = run_folders.Config.new(name, architecture, ARCHITECTURES[architecture], recipe, data, training.sources)
    network = _seeded(lambda: MaskNet(config.architecture), seed)
    folder = runs / name
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err) as progress:
        task = progress.add_task(name, total=epochs)
        for epoch in run_folders.record(folder, config, network, fit(network, training, val, recipe)):
            progress.update(task, advance=1, description=f"{name}: val {epoch.val_accuracy:.3f}")
    found = results.find(network, val, test)
    results.save(found, folder)
    out.print(f"{folder}: threshold {found.threshold}, " + ", ".join(f"{k} {s.accuracy:.1%}" for k, s in found.scores.items()), highlight=False)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    to: Annotated[Path, typer.Option("--out", help="Release folder to write.")],
    version: str = "1",
) -> None:
    """Writes a run as a release folder: model.onnx, manifest.json, CARD.md."""
    from trainer import export as exporter
    from trainer import results
    from trainer import runs as run_folders

    config, network = run_folders.load(run)
    release = exporter.export(config, network, results.load(run), version, to)
    out.print(f"{to}: {release.manifest.name} {version}, {len(release.model):,} bytes, sha256 {release.manifest.digest[:12]}", highlight=False)


@app.command()
def evaluate(
    release: Annotated[Path, typer.Argument(help="Release folder.")],
    data: Annotated[Path, typer.Option(help="Folder with with_mask/ and without_mask/.")],
    as_json: Json = False,
) -> None:
    """Scores a release on face pictures, in all and for each source."""
    from trainer import evaluate as evaluator
    from trainer import runtimes
    from trainer.data import read_folder
    from trainer.folder import read_release

    manifest, model = read_release(release, "classifier")
    pictures = read_folder(data)
    run = runtimes.onnx_runtime(model)
    p_no_mask = runtimes.in_batches(run, pictures.images_NHWC)[:, evaluator.WITHOUT_MASK].astype(float)
    report = evaluator.report(p_no_mask, pictures, manifest.threshold)
    shown = ("n", "accuracy", "accuracy_low", "accuracy_high", "recall_with_mask", "recall_without_mask", "ece", "auroc")
    rows = [{"data": name, **{key: row[key] for key in shown}} for name, row in {"all": report, **report["by_source"]}.items()]
    _show(report, rows, as_json)
    for file in report["unreadable"]:
        err.print(f"left out, not a picture: {file}", highlight=False)


@app.command()
def measure(release: Annotated[Path, typer.Argument(help="Release folder.")], as_json: Json = False) -> None:
    """Measures a release on this machine: latency of 100 runs in each runtime, counts and size."""
    from trainer import measure as measurer
    from trainer.folder import read_release

    manifest, model = read_release(release, "classifier")
    latencies = measurer.release_latencies(model, manifest.input.width_px)
    a = manifest.architecture
    counts = {
        "params": a.parameters,
        "params_zero": a.parameters - a.parameters_nonzero,
        "params_nonzero": a.parameters_nonzero,
        "macs": a.macs,
        "flops": a.flops,
        "size_bytes": manifest.size_bytes,
    }
    rows: list[dict[str, Any]] = [{"runtime": name, **asdict(latency)} for name, latency in latencies.items()]
    _show({**counts, "latency": {name: asdict(latency) for name, latency in latencies.items()}, "machine": measurer.machine()}, rows, as_json)


def _seeded(make: Any, seed: int) -> Any:
    import torch

    torch.manual_seed(seed)
    return make()


def _show(document: dict[str, Any], rows: list[dict[str, Any]], as_json: bool) -> None:
    """The document as JSON, or its rows as a table."""
    if as_json:
        print(json.dumps(document))
        return
    table = Table(box=None, padding=(0, 1, 0, 0))
    for key in rows[0]:
        cells = [_cell(row[key]) for row in rows]
        is_text = isinstance(rows[0][key], str | list)
        table.add_column(key.replace("_", " "), justify="left" if is_text else "right", min_width=max(map(len, cells)))
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    out.print(table)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, int):
        return f"{value:,}"
    return "-".join(map(str, value)) if isinstance(value, list) else "-" if value is None else str(value)


if __name__ == "__main__":
    main()
