"""The self-test in its child process: good models pass, and what bad ones do to it, the caller only hears of."""

import json
from pathlib import Path

import made_models
import pytest
from made_releases import Made, shipped

from edge_agent.selftest import prove
from protocol.errors import Reason, Rejected
from protocol.rollouts import Kind


async def refusal(kind: Kind, release: Path, time_s: float = 60) -> Reason:
    with pytest.raises(Rejected) as caught:
        await prove(kind, release, shipped(kind), time_s)
    assert "\n" not in str(caught.value)
    return caught.value.reason


@pytest.mark.parametrize("kind", ["classifier", "detector"])
async def test_the_same_network_in_other_bytes_passes(tmp_path: Path, kind: Kind) -> None:
    await prove(kind, Made(kind, "2", 1).write(tmp_path / "new"), shipped(kind))


@pytest.mark.parametrize("kind", ["classifier", "detector"])
async def test_wrong_golden_answers_are_found(tmp_path: Path, kind: Kind) -> None:
    release = Made(kind, "2", 1).write(tmp_path / "new")
    document = json.loads((release / "manifest.json").read_bytes())
    first = next(iter(document["golden"]["outputs"].values()))
    first[0] += 0.5
    (release / "manifest.json").write_text(json.dumps(document))
    assert await refusal(kind, release) is Reason.WRONG_GOLDEN


async def test_a_truncated_model_is_found(tmp_path: Path) -> None:
    release = Made("classifier", "2", 1).write(tmp_path / "new")
    (release / "model.onnx").write_bytes((release / "model.onnx").read_bytes()[:-1000])
    assert await refusal("classifier", release) is Reason.WRONG_DIGEST


async def test_what_is_no_model_is_found(tmp_path: Path) -> None:
    assert await refusal("detector", Made("detector", "2", 1, lambda _: b"no model").write(tmp_path / "new")) is Reason.BAD_RELEASE


async def test_a_slow_model_is_found(tmp_path: Path) -> None:
    assert await refusal("classifier", Made("classifier", "2", 1, made_models.slow).write(tmp_path / "new")) is Reason.TOO_SLOW


async def test_a_greedy_model_is_stopped_by_the_memory_limit(tmp_path: Path) -> None:
    assert await refusal("classifier", Made("classifier", "2", 1, made_models.greedy).write(tmp_path / "new")) in (
        Reason.CRASHED,
        Reason.BAD_RELEASE,
    )


async def test_a_test_that_does_not_end_is_ended(tmp_path: Path) -> None:
    assert await refusal("classifier", Made("classifier", "2", 1).write(tmp_path / "new"), time_s=0.2) is Reason.TIMED_OUT
