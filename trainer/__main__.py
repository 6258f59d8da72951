"""`maskfleet-trainer`: the commands. What a command does is in the module it calls."""

import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from protocol.errors import FleetError, Reason, Rejected, in_one_line
from trainer import detector_commands, lab, rollout_commands, signing_commands
from trainer.console import Json, Seed, err, fail, out, show

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="Makes the fleet's models.")
lab.add_to(app)
detector_commands.add_to(app)
signing_commands.add_to(app)
rollout_commands.add_to(app)


def main() -> None:
    """Runs a command; whatever is wrong with what it was given is one line and exit code 1."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        app()
    except ModuleNotFoundError as error:
        fail(f"the trainer needs {error.name}: pip install '.[trainer]' in the repository")
    except (FleetError, OSError) as error:
        fail(in_one_line(error))


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
    show({"models": rows}, [{key: row[key] for key in shown} for row in rows], as_json)


@app.command()
def train(
    data: Annotated[
        Path, typer.Argument(help="Folder with train/, val/ and, to be scored, test/; or with with_mask/ and without_mask/, to be split.")
    ],
    architecture: Annotated[str, typer.Option(help="Which architecture to train.")] = "door",
    name: Annotated[str, typer.Option(help="Name of the run and of its release.")] = "",
    epochs: Annotated[int, typer.Option(min=1)] = 60,
    seed: Seed = 0,
    hold_out: Annotated[str, typer.Option(help="A source to learn nothing from; the test is then all its pictures.")] = "",
    runs: Annotated[Path, typer.Option(help="Where run folders are written.")] = Path("runs"),
) -> None:
    """Trains a classifier and writes runs/NAME with its configuration, metrics, weights and results."""
    from trainer.models import ARCHITECTURES
    from trainer.runs import Lineage
    from trainer.train import Recipe

    if architecture not in ARCHITECTURES:
        raise Rejected(Reason.BAD_SETTING, f"architecture {architecture!r}: choose one of {', '.join(ARCHITECTURES)}")
    lab.make(name or f"{architecture}-{seed}", architecture, Recipe(epochs=epochs, seed=seed), Lineage(held_out=hold_out), data, runs)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    to: Annotated[Path, typer.Option("--out", help="Release folder to write.")],
    version: str = "1",
    name: Annotated[str, typer.Option(help="What the release is called; by default the run's name, of a detector `face`.")] = "",
) -> None:
    """Writes a run as a release folder: model.onnx, manifest.json, CARD.md."""
    if detector_commands.is_detector_run(run):
        detector_commands.export_detector_run(run, to, version, name or "face")
        return
    from trainer import export as exporter
    from trainer import results
    from trainer import runs as run_folders

    config, network = run_folders.load_student(run)
    release = exporter.export(replace(config, name=name or config.name), network, results.load(run), version, to)
    out.print(f"{to}: {release.manifest.name} {version}, {len(release.model):,} bytes, sha256 {release.manifest.digest[:12]}")


@app.command()
def evaluate(
    release: Annotated[Path, typer.Argument(help="Release folder.")],
    data: Annotated[Path, typer.Option(help="Folder with with_mask/ and without_mask/; for a detector, of annotated frames (COCO).")],
    reference: Annotated[Path | None, typer.Option(help="For a detector: one in YuNet's format to stand beside it.")] = None,
    unnoted: Annotated[
        Path | None, typer.Option(help="For a detector: faces that the annotators left out, as JSON (boxes by file name), where nothing is false.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Scores a release: a classifier on face pictures, in all and for each source; a detector on annotated frames."""
    from trainer.folder import read_release

    manifest, model = read_release(release)
    if manifest.kind == "detector":
        from trainer.detector_eval import evaluate_release

        detector_commands.show_detector(evaluate_release(release, data, reference, unnoted), as_json)
        return
    import numpy as np

    from trainer import evaluate as evaluator
    from trainer import runtimes
    from trainer.data import INCORRECT, read_folder, read_incorrect, resize

    pictures = read_folder(data)
    run = runtimes.onnx_runtime(model)

    def p_of(images_NHWC: np.ndarray) -> np.ndarray:
        resized_NHWC = np.stack([resize(image, manifest.input.width_px) for image in images_NHWC])
        p: np.ndarray = runtimes.in_batches(run, resized_NHWC)[:, evaluator.WITHOUT_MASK].astype(float)
        return p

    report = evaluator.report(p_of(pictures.images_NHWC), pictures, manifest.threshold)
    incorrect_NHWC = read_incorrect(data)
    if len(incorrect_NHWC):
        report[INCORRECT] = {"n": len(incorrect_NHWC), "called_without_mask": float((p_of(incorrect_NHWC) >= manifest.threshold).mean())}
    recalls = ("recall_with_mask", "recall_without_mask", "surely_bare_with_mask", "surely_bare_without_mask")
    shown = ("n", "accuracy", "accuracy_low", "accuracy_high", *recalls, "ece", "auroc")
    rows = [{"data": name, **{key: row[key] for key in shown}} for name, row in evaluator.named(report, "all").items()]
    show(report, rows, as_json)
    if not as_json:
        out.print(f"surely bare: p(without_mask) is {evaluator.SURE_P} at least, as an agent's bare votes must be on average to open an incident")
    if INCORRECT in report and not as_json:
        out.print(f"{INCORRECT}: {report[INCORRECT]['n']}, of which {report[INCORRECT]['called_without_mask']:.1%} are called bare")
    for file in report["unreadable"]:
        err.print(f"left out, not a picture: {file}")


@app.command()
def measure(release: Annotated[Path, typer.Argument(help="Release folder.")], as_json: Json = False) -> None:
    """Measures a release on this machine: latency of 100 runs and memory in each runtime, counts and size."""
    from trainer import measure as measurer
    from trainer import memory
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
    runtimes = {
        name: {**asdict(latency), "memory_bytes": memory.resident(model, name, manifest.input.width_px)} for name, latency in latencies.items()
    }
    show({**counts, "runtimes": runtimes, "machine": measurer.machine()}, [{"runtime": name, **row} for name, row in runtimes.items()], as_json)


if __name__ == "__main__":
    main()
