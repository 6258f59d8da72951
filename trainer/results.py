"""What a finished network is found to be: its calibration on `val`, and its scores on `test`, kept with the run."""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from protocol.errors import Reason, Rejected
from protocol.release import Score
from trainer import calibrate, evaluate
from trainer.data import Pictures
from trainer.folder import write_whole
from trainer.models import Network
from trainer.train import predict
from trainer.views import weathered

RESULTS_FILE = "results.json"


@dataclass(frozen=True)
class Results:
    """What export needs to know beside the weights."""

    temperature: float
    threshold: float
    unsure: tuple[float, float]
    scores: dict[str, Score]
    """By data set: `test`, and each source in it."""
    surely_bare: dict[str, tuple[float | None, float | None]] = field(default_factory=dict)
    """By data set: the shares of the masked and of the bare faces that are bare surely enough for an alert; empty in older runs."""


def find(network: Network, val: Pictures, test: Pictures | None) -> Results:
    """Calibrates on `val` and worse views of it, and scores `test`; nothing is chosen by `test`.

    On clean pictures of known sources alone a network errs so seldom that it would be taught to be too sure.
    """
    shown = weathered(val)
    logits = predict(network, shown)
    temperature = round(calibrate.temperature(logits, shown.classes_N), 4)
    threshold = calibrate.threshold()
    found = Results(temperature, threshold, calibrate.unsure_band(threshold), {})
    return scored(found, p_no_mask(predict(network, test), temperature), test) if test is not None else found


def scored(found: Results, p_no_mask_N: np.ndarray, test: Pictures) -> Results:
    """The results with what a manifest and a card say of a test: in all, and of each source."""
    rows = evaluate.named(evaluate.report(p_no_mask_N, test, found.threshold), "test")
    return replace(
        found,
        scores={name: Score.model_validate(row) for name, row in rows.items()},
        surely_bare={name: (row["surely_bare_with_mask"], row["surely_bare_without_mask"]) for name, row in rows.items()},
    )


def p_no_mask(logits_N2: Tensor, temperature: float) -> np.ndarray:
    """p(without_mask) [N] of logits."""
    column: np.ndarray = (logits_N2 / temperature).softmax(1)[:, evaluate.WITHOUT_MASK].double().numpy()
    return column


def save(results: Results, folder: Path) -> None:
    """Writes the results into a run's folder."""
    document = {**asdict(results), "scores": {name: score.model_dump() for name, score in results.scores.items()}}
    write_whole(folder / RESULTS_FILE, json.dumps(document, indent=1).encode())


def load(folder: Path) -> Results:
    """The results in a run's folder; raises Rejected when there are none."""
    try:
        raw = json.loads((folder / RESULTS_FILE).read_bytes())
        read = {name: Score.model_validate(row) for name, row in raw["scores"].items()}
        surely_bare = {name: (row[0], row[1]) for name, row in raw.get("surely_bare", {}).items()}
        return Results(raw["temperature"], raw["threshold"], (raw["unsure"][0], raw["unsure"][1]), read, surely_bare)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise Rejected(Reason.BAD_INPUT, f"{folder}: no readable {RESULTS_FILE}; is the run finished? ({type(error).__name__})") from None
