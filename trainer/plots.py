"""Plots of finished runs, as PNG."""

import base64
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import numpy as np  # the backend is chosen first
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from trainer.evaluate import WITHOUT_MASK

INK, BLUE, ORANGE, GREY = "#1c2b33", "#1769aa", "#d9662b", "#9aa5ab"


class Plot:
    """A picture that a page can hold."""

    png: bytes = b""

    @property
    def uri(self) -> str:
        """The picture as a data address."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode()


@contextmanager
def _plot(width: float, height: float, x: str, y: str) -> Iterator[tuple[Plot, Axes]]:
    plot = Plot()
    figure, axes = plt.subplots(figsize=(width, height), dpi=110, layout="constrained")
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    yield plot, axes
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    plt.close(figure)
    plot.png = buffer.getvalue()


def pareto(rows: list[dict[str, Any]]) -> Plot | None:
    """Accuracy against latency in ONNX Runtime; the line joins the models that no other beats in both. None without latencies."""
    points = [(r["onnxruntime_ms"], r["likelier_mean"], r["likelier_sd"], r["name"]) for r in rows if r["onnxruntime_ms"] and r["likelier_mean"]]
    if not points:
        return None
    with _plot(8, 4.6, "latency, ms (ONNX Runtime, one thread, log)", "accuracy on test, by the likelier class") as (plot, axes):
        front: list[tuple[float, float]] = []
        for ms, accuracy, spread, name in sorted(points):
            is_best = not front or accuracy > front[-1][1]
            axes.errorbar(ms, accuracy, yerr=spread or 0, fmt="o", color=BLUE if is_best else GREY, capsize=3)
            axes.annotate(name, (ms, accuracy), textcoords="offset points", xytext=(6, 5), fontsize=8, color=INK)
            if is_best:
                front.append((ms, accuracy))
        axes.step(*zip(*front, strict=True), where="post", color=BLUE, alpha=0.5)
        axes.set_xscale("log")
        axes.margins(x=0.15)
    return plot


def reliability(before_N: np.ndarray, after_N: np.ndarray, classes_N: np.ndarray, bins: int = 10) -> Plot:
    """How often p(without_mask) comes true, before and after the temperature."""
    with _plot(4.4, 4, "p(without_mask)", "share without mask") as (plot, axes):
        axes.plot([0, 1], [0, 1], color=GREY, linestyle=":")
        for p, colour, label in ((before_N, ORANGE, "before"), (after_N, BLUE, "after calibration")):
            where = np.minimum((p * bins).astype(int), bins - 1)
            used = [b for b in range(bins) if (where == b).any()]
            is_bare = classes_N == WITHOUT_MASK
            axes.plot([p[where == b].mean() for b in used], [is_bare[where == b].mean() for b in used], "o-", color=colour, label=label)
        axes.legend(frameon=False)
    return plot


def precision_recall(p_N: np.ndarray, classes_N: np.ndarray, threshold: float) -> Plot:
    """Precision and recall of bare faces over all thresholds; the chosen one is marked."""
    with _plot(4.4, 4, "recall of bare faces", "precision") as (plot, axes):
        is_bare = classes_N == WITHOUT_MASK
        order = np.argsort(-p_N)
        hits = np.cumsum(is_bare[order])
        axes.plot(hits / max(1, is_bare.sum()), hits / np.arange(1, len(hits) + 1), color=BLUE)
        says = p_N >= threshold
        if says.any() and is_bare.any():
            at = ((says & is_bare).sum() / is_bare.sum(), (says & is_bare).sum() / says.sum())
            axes.plot(*at, "o", color=ORANGE)
            axes.annotate(f"threshold {threshold}", at, textcoords="offset points", xytext=(-8, -14), ha="right", fontsize=9, color=INK)
        axes.set_ylim(min(0.9, axes.get_ylim()[0]), 1.005)
    return plot


def sources(rows: list[dict[str, Any]], by: str) -> Plot | None:
    """Accuracy of each model on each source, with its interval; None without rows."""
    if not rows:
        return None
    names, groups = list(dict.fromkeys(r["name"] for r in rows)), list(dict.fromkeys(r[by] for r in rows))
    with _plot(8, 1.4 + 0.17 * len(rows), "accuracy", "") as (plot, axes):
        colours = [BLUE, ORANGE, "#3b8f5a", "#7a5ca8", "#a8842c", GREY]
        for number, row in enumerate(rows):
            y = names.index(row["name"]) + 0.18 * (groups.index(row[by]) - (len(groups) - 1) / 2)
            middle = row["accuracy_mean"]
            error = [[max(0, middle - row["accuracy_low"])], [max(0, row["accuracy_high"] - middle)]]
            first = all(other[by] != row[by] for other in rows[:number])
            axes.errorbar(middle, y, xerr=error, fmt="o", capsize=3, color=colours[groups.index(row[by]) % 6], label=row[by] if first else None)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.legend(frameon=False, fontsize=8)
    return plot
