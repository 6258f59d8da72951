"""A detector's card, and the table of detectors side by side, as Markdown."""

from typing import Any

from protocol.release import Manifest
from trainer.detector_recipe import TIMES_FALSE


def table(results: dict[str, Any], reference: str = "YuNet") -> list[str]:
    """One row per width and detector: faces found with their counts, false positives, average precision, time."""
    score = results["reference_score"]
    names = {
        "ours": "ours, its threshold",
        "ours_at_reference": f"ours, at {reference}'s false positives",
        "reference": f"{reference} at {score}",
        "haar": "Haar cascade",
    }
    lines = [
        "| picture | detector | threshold | masked found | bare found | false positives / picture | average precision | ms (p50) |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for width, rows in results["widths"].items():
        for key in [key for key in names if key in rows]:
            row = rows[key]
            times = results["time_ms"].get(width, {}).get(key)
            cells = (
                f"{width} wide" if width.isdigit() else width,
                names[key],
                "-" if row["threshold"] is None else f"{row['threshold']:.2f}",
                share(row["recall"]["with_mask"]),
                share(row["recall"]["without_mask"]),
                f"{row['false_positives_per_picture']:.3f} ({row['false_positives']})",
                f"{row['average_precision']:.3f}",
                f"{times['p50_ms']:.2f}" if times else "-",
            )
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def share(cell: dict[str, Any]) -> str:
    """A part of some faces, with both counts."""
    return f"{cell['share']:.1%} ({cell['found']}/{cell['n']})" if cell["n"] else "-"


def card(manifest: Manifest, results: dict[str, Any]) -> str:
    """The card as Markdown."""
    a = manifest.architecture
    chosen = "that of the release whose weights the training began with: no frame was held out from the last part of it"
    if "held_out" in results:
        chosen = f"chosen on held-out frames: {TIMES_FALSE:g} times the false positives of YuNet at 0.6"
    lines = [
        f"# {manifest.name} {manifest.version}",
        "",
        "A face detector for faces behind masks, in YuNet's ONNX format: `cv2.FaceDetectorYN` loads and decodes it. BGR pictures of any size",
        "whose sides are multiples of 32, values 0 to 255; class, objectness, box and five landmarks at strides 8, 16 and 32.",
        "",
        "| | |",
        "|---|---|",
        f"| architecture | {a.name}, channels {'-'.join(map(str, a.channels[:-1]))}, pyramid {a.channels[-1]} |",
        f"| parameters | {a.parameters:,} ({a.parameters_nonzero:,} not zero) |",
        f"| MACs / FLOPs at {manifest.input.width_px}x{manifest.input.height_px} | {a.macs:,} / {a.flops:,} |",
        f"| size | {manifest.size_bytes:,} bytes |",
        f"| SHA-256 | `{manifest.digest}` |",
        f"| made | {manifest.created:%Y-%m-%d} |",
        f"| threshold | {manifest.threshold}, {chosen} |",
        "",
        "## Measured",
        "",
    ]
    if "test" in results:
        test = results["test"]
        lines += [
            f"On {test['frames']} annotated frames that were not trained on; faces of at least {test['min_px']:.0f} px on their shorter side,",
            f"IoU {test['iou']}. `native`: frames at their own size. Times: one thread of one x86 machine, in turns.",
            "",
            *table(test),
            "",
        ]
    lines += ["## Trained on", "", "| data set | pictures | licence, as far as known |", "|---|---:|---|"]
    lines += [f"| {s.name} | {s.pictures} | {s.licence} |" for s in manifest.sources]
    lines += [
        "",
        "The labels are those of the annotators and, for landmarks and for faces that they left out, of YuNet (Wu, Peng and Yu, 2023; MIT),",
        "whose weights are neither contained nor needed. No picture is contained in the release. Who needs a model free of non-commercial",
        "terms should train without those data sets.",
        "",
        "## Limits",
        "",
        "The test frames come from the same data set as the training frames, though not from the same photographs: expect less elsewhere.",
        "Few pictures, hence few kinds of faces, light and cameras. Profiles, faces from above and faces below 12 px are found poorly;",
        "painted and printed faces are faces to it. It finds faces and knows no one.",
        "",
    ]
    return "\n".join(lines)
