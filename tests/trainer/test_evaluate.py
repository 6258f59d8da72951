import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.decide import Rules
from trainer import calibrate
from trainer.data import Pictures
from trainer.evaluate import SURE_P, auroc, calibration_error, named, report, score, wilson
from trainer.results import Results, load, save, scored


def test_wilson_is_the_textbooks() -> None:
    assert wilson(50, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert wilson(100, 100) == pytest.approx((0.9630, 1.0), abs=1e-4)
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_share(counts: tuple[int, int]) -> None:
    low, high = wilson(*counts)
    share = counts[0] / counts[1]
    assert 0 <= low <= share + 1e-9
    assert share - 1e-9 <= high <= 1


def test_scores_of_a_known_case() -> None:
    p = np.array([0.1, 0.6, 0.9, 0.4])
    classes = np.array([0, 0, 1, 1])
    found = score(p, classes, threshold=0.5)
    assert (found.n, found.accuracy, found.recall_with_mask, found.recall_without_mask) == (4, 0.5, 0.5, 0.5)
    assert found.auroc == 0.75
    assert score(p, classes, threshold=0.35).recall_without_mask == 1.0


def test_surely_bare_is_what_an_agent_alerts_of() -> None:
    assert Rules().least_p == SURE_P
    found = score(np.array([0.1, 0.9, 0.89, 0.4, 0.95]), np.array([0, 0, 1, 1, 1]), threshold=0.3)
    assert (found.surely_bare_with_mask, found.surely_bare_without_mask) == (0.5, pytest.approx(1 / 3))


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    """And those of before, which knew of no sureness."""
    pictures = Pictures(np.zeros((3, 1, 1, 3), np.uint8), np.array([0, 1, 1]), ("a", "b", "c"), ("x", "x", "y"), ())
    found = scored(Results(1.0, 0.5, (0.4, 0.6), {}), np.array([0.1, 0.95, 0.6]), pictures)
    save(found, tmp_path)
    assert load(tmp_path) == found
    assert found.surely_bare == {"test": (0.0, 0.5), "x": (0.0, 1.0), "y": (None, 0.0)}
    document = json.loads((tmp_path / "results.json").read_text())
    del document["surely_bare"]
    (tmp_path / "results.json").write_text(json.dumps(document))
    assert load(tmp_path) == replace(found, surely_bare={})


def test_auroc_counts_ties_as_half() -> None:
    assert auroc(np.array([0.5, 0.5]), np.array([True, False])) == 0.5
    assert auroc(np.array([0.5]), np.array([True])) is None


def test_calibration_error_is_the_gap_between_confidence_and_truth() -> None:
    always_sure = np.full(100, 0.99)
    is_bare = np.arange(100) < 80
    assert calibration_error(always_sure, is_bare) == pytest.approx(0.19)
    assert calibration_error(np.full(100, 0.8), is_bare) == pytest.approx(0.0, abs=1e-9)


def test_a_set_of_one_class_has_no_recall_of_the_other() -> None:
    found = score(np.array([0.9]), np.array([1]), 0.5)
    assert (found.recall_with_mask, found.recall_without_mask, found.auroc) == (None, 1.0, None)
    assert (found.surely_bare_with_mask, found.surely_bare_without_mask) == (None, 1.0)


def test_the_report_tells_sources_apart() -> None:
    pictures = Pictures(np.zeros((4, 1, 1, 3), np.uint8), np.array([0, 1, 0, 1]), ("a", "b", "c", "d"), ("x", "x", "y", "y"), ())
    found = report(np.array([0.1, 0.9, 0.9, 0.9]), pictures, 0.5)
    assert found["accuracy"] == 0.75
    assert {name: row["accuracy"] for name, row in found["by_source"].items()} == {"x": 1.0, "y": 0.5}


def test_a_source_that_is_called_like_the_whole_does_not_take_its_place() -> None:
    pictures = Pictures(np.zeros((4, 1, 1, 3), np.uint8), np.array([0, 1, 0, 1]), ("a", "b", "c", "d"), ("test", "test", "web", "web"), ())
    found = scored(Results(1.0, 0.5, (0.4, 0.6), {}), np.array([0.1, 0.9, 0.9, 0.9]), pictures)
    assert {name: (row.n, row.accuracy) for name, row in found.scores.items()} == {"test": (4, 0.75), "source test": (2, 1.0), "web": (2, 0.5)}
    rows = named(report(np.array([0.1, 0.9, 0.9, 0.9]), replace(pictures, sources=("all", "all", "web", "web")), 0.5), "all")
    assert {name: row["n"] for name, row in rows.items()} == {"all": 4, "source all": 2, "web": 2}


def drawn(temperature: float, spread: float, n: int = 4000) -> tuple[torch.Tensor, np.ndarray]:
    """Logits that fit their classes best when they are divided by this."""
    rng = np.random.default_rng(0)
    true_logits = rng.normal(0, spread, n)
    classes = (rng.random(n) < 1 / (1 + np.exp(-true_logits))).astype(np.int64)
    return torch.tensor(np.stack([np.zeros(n), temperature * true_logits], 1)), classes


@pytest.mark.parametrize("spread", [1.5, 3, 10])
@pytest.mark.parametrize("true", [0.1, 0.3, 0.7, 1, 3, 10])
def test_temperature_fits_whatever_a_networks_scale_is(true: float, spread: float) -> None:
    logits, classes = drawn(true, spread)
    found = calibrate.temperature(logits, classes)
    assert found == pytest.approx(true, rel=0.1)
    losses = {t: float(torch.nn.functional.cross_entropy(logits / t, torch.from_numpy(classes))) for t in found * np.linspace(0.8, 1.2, 401)}
    assert found == pytest.approx(min(losses, key=losses.get), rel=0.02)


@pytest.mark.parametrize("n", [12, 120, 1200])
@pytest.mark.parametrize("scale", [0.6, 5])
def test_a_network_without_an_error_is_sure_within_reason(scale: float, n: int) -> None:
    classes = np.arange(n) % 2
    margins = scale * (2 * classes - 1) * np.random.default_rng(0).uniform(0.5, 1.5, n)
    logits = torch.tensor(np.stack([-margins / 2, margins / 2], 1), dtype=torch.float32)
    p = (logits / calibrate.temperature(logits, classes)).softmax(1)
    error = 1 - float(p[torch.arange(n), torch.from_numpy(classes)].mean())
    assert 0.01 / n < error < 1 / n


@pytest.mark.parametrize("copies", [2, 50])
def test_a_class_of_many_pictures_says_no_more_of_the_temperature(copies: int) -> None:
    logits, classes = drawn(0.7, 1.5)
    logits[classes == 1] *= 1.5  # the classes want different ones
    many = np.concatenate([np.arange(len(classes)), np.repeat(np.flatnonzero(classes == 0), copies - 1)])
    assert calibrate.temperature(logits[many], classes[many]) == pytest.approx(calibrate.temperature(logits, classes), rel=0.001)


@given(st.lists(st.tuples(st.floats(width=32), st.floats(width=32), st.integers(0, 1)), min_size=1, max_size=20))
def test_every_temperature_is_one_to_divide_by(answers: list[tuple[float, float, int]]) -> None:
    logits, classes = torch.tensor([answer[:2] for answer in answers]), np.array([answer[2] for answer in answers])
    least, most = calibrate.TEMPERATURES
    assert least <= calibrate.temperature(logits, classes) <= most


@pytest.mark.parametrize("cost", [0.2, 1, 5])
def test_the_threshold_costs_least_where_probabilities_are_true(cost: float) -> None:
    rng = np.random.default_rng(0)
    p = rng.random(200_000)
    is_bare = rng.random(200_000) < p
    costs = {t: cost * (is_bare & (p < t)).mean() + (~is_bare & (p >= t)).mean() for t in np.linspace(0.05, 0.95, 37)}
    assert calibrate.threshold(cost, masked_per_bare=1) == pytest.approx(min(costs, key=costs.get), abs=0.05)


def test_the_more_wear_masks_the_surer_an_alarm_must_be() -> None:
    assert calibrate.threshold(5, masked_per_bare=1) < calibrate.threshold(5) < calibrate.threshold(5, masked_per_bare=4)


@given(st.floats(0.2, 0.8))
def test_the_threshold_lies_in_its_unsure_band(at: float) -> None:
    low, high = calibrate.unsure_band(at)
    assert 0 < low < at < high < 1
