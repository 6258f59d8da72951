"""What a report says, in tables: figures of finished runs, shaped for reading."""

from dataclasses import dataclass
from typing import Any

from trainer import tables
from trainer.original import ORIGINAL
from trainer.tables import Run


@dataclass(frozen=True)
class Section:
    """A heading, what to know, and rows."""

    title: str
    note: str
    rows: list[dict[str, Any]]


def sections(finished: tuple[Run, ...], latency: dict[str, Any]) -> list[Section]:
    """What the report says, in tables."""
    rows = tables.models(finished, latency)
    machine = latency.get("machine", {})
    where = f"Latency: median of {machine['repeats']} runs, one thread, {machine['system']}." if machine else "Latency was not measured."
    ablation = [row for row in rows if row["name"] == "small" or row["name"].startswith("small-")]
    return [
        Section(
            "Models",
            "Mean and spread (standard deviation) over seeds, on test pictures that chose nothing; by the likelier class, then, with the "
            f"recalls, at the threshold of the costs, which a network that is unsure pays for with masked faces. {where}",
            [_brief(row) for row in rows],
        ),
        Section(
            "Cost",
            "Counted by thop; FLOPs are 2 x MACs. A pruned network is dense and small: nothing in it is zero. Memory: what a process grows by when "
            "ONNX Runtime loads the file and answers.",
            [_cost(row) for row in rows],
        ),
        Section("Beside the original study", "Its times are from a Jetson Nano: compare ratios, not milliseconds.", _beside(rows)),
        Section("Five ways to small", "At equal epochs.", [_brief(row) for row in ablation]),
        Section(
            "Sources", "Accuracy on each source of the test; 95 % Wilson interval.", [_interval(row, "source") for row in tables.sources(finished)]
        ),
        Section(
            "A source never seen",
            "Trained, distilled and calibrated without the source, tested on all its pictures; 95 % Wilson interval of the mean.",
            [_interval(row, "held_out") for row in tables.folds(finished)],
        ),
        Section(
            "Eight bits",
            "Static INT8 (QDQ) in ONNX Runtime against what `export` writes, in one run, accuracy on val; kept only where faster and not worse.",
            [_eight_bits(row) for row in tables.eight_bits(finished)],
        ),
        Section("Faces as detectors cut them", "Faces that the detector finds in whole frames; recall of detection is not part of it.", _crops(rows)),
    ]


def cell(value: Any) -> str:
    """A value as a table shows it."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _brief(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "model": row["name"],
        "how": row["how"],
        "params": row["params"],
        "bytes": row["size_bytes"],
        "torch ms": row["torch_ms"],
        "ONNX Runtime ms": row["onnxruntime_ms"],
        "cv2.dnn ms": row["opencv_ms"],
        "epochs": row["epochs"],
        "seeds": row["seeds"],
        "likelier class": _with_spread(row, "likelier"),
        "accuracy": _with_spread(row),
        "masked recall": _share(row["recall_with_mask"]),
        "bare recall": _share(row["recall_without_mask"]),
        "ECE": row["ece"],
    }


def _cost(row: dict[str, Any]) -> dict[str, Any]:
    channels = "-".join(map(str, row["channels"]))
    return {
        "model": row["name"],
        "channels": channels,
        "input": row["input_px"],
        **{k: row[k] for k in ("params", "params_zero", "params_nonzero", "macs", "flops", "memory_bytes")},
    }


def _beside(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    ours = {row["name"]: row for row in rows}
    return [
        {
            "model": name,
            "params, original": theirs.params,
            "params": ours[name]["params"],
            "FLOPs, original": 2 * theirs.macs,
            "FLOPs": ours[name]["flops"],
            "MB, original": theirs.size_mb,
            "MB": ours[name]["size_bytes"] and ours[name]["size_bytes"] / 1e6,
            "Nano ms, distillation": theirs.distillation_ms,
            "Nano ms, pruning": theirs.pruning_ms,
            "torch ms": ours[name]["torch_ms"],
            "ONNX Runtime ms": ours[name]["onnxruntime_ms"],
            "accuracy": _with_spread(ours[name], "likelier"),
        }
        for name, theirs in ORIGINAL.items()
        if name in ours
    ]


def _interval(row: dict[str, Any], by: str) -> dict[str, Any]:
    interval = f"{row['accuracy_low']:.1%} to {row['accuracy_high']:.1%}"
    recalls = {"masked recall": _share(row["recall_with_mask"]), "bare recall": _share(row["recall_without_mask"])}
    return {"model": row["name"], by.replace("_", " "): row[by], "n": row["n"], "accuracy": _with_spread(row), "interval": interval, **recalls}


def _eight_bits(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "model": row["name"],
        "float ms": row["float_ms"],
        "int8 ms": row["int8_ms"],
        "float val": _share(row["float_accuracy"]),
        "int8 val": _share(row["int8_accuracy"]),
        "float bytes": row["float_bytes"],
        "int8 bytes": row["int8_bytes"],
        "kept": "yes" if row["is_kept"] else "no",
    }


def _crops(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = [row for row in rows if row["crops_yunet"] or row["crops_haar"]]
    return [{"model": row["name"], "cut by YuNet": _share(row["crops_yunet"]), "cut by Haar": _share(row["crops_haar"])} for row in found]


def _with_spread(row: dict[str, Any], what: str = "accuracy") -> str:
    middle, spread = row[f"{what}_mean"], row[f"{what}_sd"]
    if middle is None:
        return "-"
    return f"{middle:.2%}" + (f" ± {spread:.2%}" if spread is not None else "")


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
