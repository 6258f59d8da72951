"""The commands around face detectors: train one, export one, and show what one finds beside others."""

from pathlib import Path
from typing import Annotated, Any

import typer

from trainer.console import Seed, err, out, show
from trainer.detector_card import share

DETECTOR_KIND = b'"kind": "detector"'


def add_to(app: typer.Typer) -> None:
    """Makes the commands of this module commands of the program."""
    app.command()(detector)


def detector(
    data: Annotated[Path, typer.Argument(help="Folder with frames_train/ (COCO), faces/ and, to be scored, frames/.")],
    teacher: Annotated[Path, typer.Option(help="A detector in YuNet's format, which labels what nobody annotated.")],
    name: Annotated[str, typer.Option(help="Name of the run.")] = "detector",
    size: Annotated[str, typer.Option(help="small, medium, lean, keen, deep or large.")] = "medium",
    steps: Annotated[int, typer.Option(min=3)] = 10_000,
    start: Annotated[
        Path | None, typer.Option(help="A detector's release, of any size, whose weights (as far as they fit) and mistakes the training begins with.")
    ] = None,
    learning_rate: Annotated[float, typer.Option(min=0, help="The highest of the cycle.")] = 4e-3,
    plain_share: Annotated[float, typer.Option(min=0, max=1, help="The last part of the steps, in which nothing is painted on scenes.")] = 0.2,
    taught_share: Annotated[
        float,
        typer.Option(min=0, max=0.9, help="Part of the scenes that are learned from what the teacher says at every place, not from annotated boxes."),
    ] = 0.5,
    large_share: Annotated[
        float, typer.Option(min=0, max=1, help="Part of the steps whose scenes are twice as high and wide, for large faces.")
    ] = 0.25,
    hold_out: Annotated[
        bool, typer.Option(help="Hold out one frame in eight to choose the threshold on; without, it is that of the release to start from.")
    ] = True,
    seed: Seed = 0,
    runs: Annotated[Path, typer.Option(help="Where run folders are written.")] = Path("runs"),
) -> None:
    """Distils a face detector; started again, it goes on from its last checkpoint."""
    from trainer.detector_recipe import DetectorRecipe
    from trainer.detector_run import run_detector

    recipe = DetectorRecipe(
        size=size,
        steps=steps,
        learning_rate=learning_rate,
        plain_share=plain_share,
        taught_share=taught_share,
        large_share=large_share,
        holds_out=hold_out,
        seed=seed,
    )
    results = run_detector(data, teacher, runs / name, recipe, err, start)
    if scores := results.get("test", results.get("held_out")):
        show_detector(scores, as_json=False)
    out.print(f"{runs / name}: threshold {results['threshold']}")


def export_detector_run(run: Path, to: Path, version: str, name: str) -> None:
    """Writes a detector's run as a release folder."""
    from trainer.detector_release import export_detector

    manifest = export_detector(run, name, version, to)
    out.print(f"{to}: {manifest.name} {version}, {manifest.size_bytes:,} bytes, sha256 {manifest.digest[:12]}")


def is_detector_run(run: Path) -> bool:
    """Whether a run folder is of a detector."""
    config = run / "config.json"
    return config.is_file() and DETECTOR_KIND in config.read_bytes()


def show_detector(document: dict[str, Any], as_json: bool) -> None:
    """What detectors find on the same frames, as JSON or as three tables: all faces, and by their size in the frame and in the resized picture."""
    rows = []
    for width, found in document["widths"].items():
        for name, row in found.items():
            recalls = {label: row["recall"][label]["share"] for label in ("with_mask", "without_mask")}
            ms = document["time_ms"].get(width, {}).get(name, {}).get("p50_ms")
            rows.append(
                {
                    "width": width,
                    "detector": name,
                    "threshold": row["threshold"],
                    **recalls,
                    "false positives": row["false_positives"],
                    "average precision": row["average_precision"],
                    "ms p50": ms,
                }
            )
    show(document, rows, as_json)
    if not as_json:
        out.print()
        show(document, size_rows(document), as_json)
        out.print()
        show(document, shown_rows(document), as_json)


def size_rows(document: dict[str, Any]) -> list[dict[str, str]]:
    """Which faces each detector finds, by their shorter side in pixels of the frame."""
    return [
        {"width": width, "detector": name, **{f"{size} px": share(cell) for size, cell in row["recall_by_size_px"].items()}}
        for width, found in document["widths"].items()
        for name, row in found.items()
    ]


def shown_rows(document: dict[str, Any]) -> list[dict[str, str]]:
    """Which faces each detector finds, by their shorter side in pixels of the resized picture, at all widths together."""
    found = document["recall_by_shown_px"]
    return [{"in the resized picture": f"{size} px", **{name: share(found[name][size]) for name in found}} for size in found["ours"]]
