"""The study in rows: made from the finished run folders alone, so that a table can be had while the rest is still being trained."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

from protocol.errors import Reason, Rejected
from trainer import evaluate, job, measure, results, runs
from trainer.crops import Cut
from trainer.folder import write_whole
from trainer.job import Predictions
from trainer.models import LABELS, Network
from trainer.results import Results
from trainer.runs import Config
from trainer.train import predict

CROPS_FILE, LATENCY_FILE, INT8_FILE = "crops.json", "latency.json", "int8.json"


@dataclass(frozen=True)
class Run:
    """A finished run, as far as tables need it."""

    folder: Path
    config: Config
    results: Results
    network: Network

    @property
    def key(self) -> str:
        """What it is, whatever its seed and held-out source: runs of one key are averaged."""
        name = self.config.name.removesuffix(f"-s{self.config.recipe.seed}")
        return name.removesuffix(self.config.lineage.ending)

    @property
    def held_out(self) -> str:
        return self.config.lineage.held_out

    @property
    def how(self) -> str:
        """How it was made, in words."""
        line = self.config.lineage
        parts = [f"pruned {line.ratio:.0%} of {self._parent(line.start)}"] if line.start else []
        if line.steps > 1:
            parts.append(f"in {line.steps} steps")
        if line.teacher:
            parts.append(f"distilled from {self._parent(line.teacher)}" + (" with features" if line.features else ""))
        elif line.start:
            parts.append("fine-tuned")
        return ", ".join(parts) or "labels only"

    def predictions(self) -> Predictions:
        """What it answered."""
        return job.load_predictions(self.folder)

    def _parent(self, name: str) -> str:
        """What a run that this one comes from is, whatever its seed and the held-out source that both have."""
        return re.sub(r"-s\d+$", "", name).removesuffix(self.config.lineage.ending)


def collect(folder: Path) -> tuple[Run, ...]:
    """The finished runs in a folder, in the order in which they were begun."""
    found = []
    for here in folder.iterdir() if folder.is_dir() else ():
        if job.is_complete(here):
            config, network = runs.load(here)
            found.append(Run(here, config, results.load(here), network))
    return tuple(sorted(found, key=lambda run: (run.config.created, run.config.name)))


def by_key(finished: tuple[Run, ...], is_fold: bool = False) -> dict[str, list[Run]]:
    """Runs of one kind together; those with a held-out source apart from those without."""
    keys: dict[str, list[Run]] = {}
    for run in finished:
        if bool(run.held_out) == is_fold:
            keys.setdefault(run.key, []).append(run)
    return keys


def score(run: Run, split: str = "test") -> evaluate.Scores | None:
    """A run's scores on one of its splits; None when that holds no picture."""
    p, classes = probabilities(run, split)
    return evaluate.score(p, classes, run.results.threshold) if len(p) else None


def probabilities(run: Run, split: str = "test", is_calibrated: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """p(without_mask) and class of each picture of a split."""
    import torch

    answers = run.predictions()
    rows = np.array([own == split for own in answers.splits], bool)
    temperature = run.results.temperature if is_calibrated else 1.0
    return results.p_no_mask(torch.from_numpy(answers.logits_N2[rows]), temperature), answers.classes_N[rows]


def models(finished: tuple[Run, ...], latency: dict[str, Any]) -> list[dict[str, Any]]:
    """One row for each kind of model that saw all sources: what it costs, and what it reached over its seeds."""
    rows = []
    for key, same in by_key(finished).items():
        architecture, cost = same[0].network.architecture, measure.cost(same[0].network)
        answers = [(run.results.threshold, *probabilities(run)) for run in same]
        scores, likelier = ([evaluate.score(p, classes, at or own) for own, p, classes in answers if len(p)] for at in (None, 0.5))
        times = latency.get("models", {}).get(key, {})
        rows.append(
            {
                "name": key,
                "how": same[0].how,
                "channels": list(architecture.channels),
                "input_px": architecture.input_px,
                "params": cost.params,
                "params_zero": cost.params_zero,
                "params_nonzero": cost.params_nonzero,
                "macs": cost.macs,
                "flops": cost.flops,
                "size_bytes": times.get("size_bytes"),
                "memory_bytes": times.get("memory_bytes", {}).get("onnxruntime"),
                **{f"{runtime}_ms": times.get(runtime, {}).get("p50_ms") for runtime in ("torch", "onnxruntime", "opencv")},
                "epochs": same[0].config.recipe.epochs,
                "seeds": len(same),
                **_spread("likelier", [s.accuracy for s in likelier]),
                **_spread("accuracy", [s.accuracy for s in scores]),
                "recall_with_mask": _mean([s.recall_with_mask for s in scores]),
                "recall_without_mask": _mean([s.recall_without_mask for s in scores]),
                "ece": _mean([s.ece for s in scores]),
                "auroc": _mean([s.auroc for s in scores]),
                **{f"crops_{name}": _mean([_crops(run).get(name, {}).get("accuracy") for run in same]) for name in ("yunet", "haar")},
            }
        )
    return rows


def folds(finished: tuple[Run, ...]) -> list[dict[str, Any]]:
    """One row for each kind of model and source that it never saw, over the seeds; the interval is Wilson's, of the mean."""
    rows = []
    for key, same in by_key(finished, is_fold=True).items():
        for source in sorted({run.held_out for run in same}):
            scores = [s for s in (score(run) for run in same if run.held_out == source) if s]
            if not scores:
                continue
            accuracy = mean(s.accuracy for s in scores)
            low, high = evaluate.wilson(round(accuracy * scores[0].n), scores[0].n)
            rows.append(
                {
                    "name": key,
                    "held_out": source,
                    "n": scores[0].n,
                    "seeds": len(scores),
                    **_spread("accuracy", [s.accuracy for s in scores]),
                    "accuracy_low": low,
                    "accuracy_high": high,
                    "recall_with_mask": _mean([s.recall_with_mask for s in scores]),
                    "recall_without_mask": _mean([s.recall_without_mask for s in scores]),
                    "auroc": _mean([s.auroc for s in scores]),
                }
            )
    return rows


def sources(finished: tuple[Run, ...]) -> list[dict[str, Any]]:
    """One row for each kind of model and source of the test, over the seeds."""
    rows = []
    for key, same in by_key(finished).items():
        for source in sorted({name for run in same for name in run.results.scores} - {"test"}):
            scores = [run.results.scores[source] for run in same if source in run.results.scores]
            rows.append(
                {
                    "name": key,
                    "source": source,
                    "n": scores[0].n,
                    **_spread("accuracy", [s.accuracy for s in scores]),
                    "accuracy_low": mean(s.accuracy_low for s in scores),
                    "accuracy_high": mean(s.accuracy_high for s in scores),
                    "recall_with_mask": _mean([s.recall_with_mask for s in scores]),
                    "recall_without_mask": _mean([s.recall_without_mask for s in scores]),
                }
            )
    return rows


def eight_bits(finished: tuple[Run, ...]) -> list[dict[str, Any]]:
    """One row for each kind of model whose quantisation was tried."""
    found = ((key, read_json(same[0].folder / INT8_FILE)) for key, same in by_key(finished).items())
    return [{"name": key, **row} for key, row in found if row]


def score_crops(finished: tuple[Run, ...], cuts: dict[str, Cut]) -> None:
    """Writes into each run's folder what it makes of faces as detectors cut them; nothing without such faces."""
    if not cuts:
        return
    for run in finished:
        if run.held_out:
            continue
        found = {}
        for name, cut in cuts.items():
            p = results.p_no_mask(predict(run.network, cut.pictures), run.results.temperature)
            s = evaluate.score(p, cut.pictures.classes_N, run.results.threshold)
            found[name] = {
                **vars(s),
                "annotated": cut.annotated,
                "found": {x: int((cut.pictures.classes_N == i).sum()) for i, x in enumerate(LABELS)},
            }
        write_whole(run.folder / CROPS_FILE, json.dumps(found, indent=1).encode())


def read_json(path: Path) -> dict[str, Any]:
    """A JSON document; empty when there is none; raises Rejected when it is damaged."""
    try:
        return dict(json.loads(path.read_bytes())) if path.is_file() else {}
    except (ValueError, TypeError) as error:
        raise Rejected(Reason.BAD_INPUT, f"{path}: damaged ({type(error).__name__}); remove it") from None


def _crops(run: Run) -> dict[str, Any]:
    return read_json(run.folder / CROPS_FILE)


def _spread(name: str, values: list[float]) -> dict[str, Any]:
    return {f"{name}_mean": _mean(values), f"{name}_sd": stdev(values) if len(values) > 1 else None}


def _mean(values: list[Any]) -> float | None:
    known = [value for value in values if value is not None]
    return mean(known) if known else None
