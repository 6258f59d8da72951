"""The self-test in its child process: good models pass, and what bad ones do to it, the caller only hears of."""

import asyncio
import contextlib
import json
import os
import signal
from pathlib import Path

import made_models
import numpy as np
import onnx
import pytest
from made_releases import Made, shipped

from edge_agent.load import read_manifest
from edge_agent.runtime import Session
from edge_agent.selftest import STARTS, prove
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


async def test_a_model_for_single_faces_is_found(tmp_path: Path) -> None:
    """It would see one person, pass its trial, and fail at the second."""

    def single(model: bytes) -> bytes:
        proto = onnx.load_from_string(model)
        proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
        return bytes(proto.SerializeToString())

    golden = read_manifest(shipped("classifier")).golden
    image = np.frombuffer(golden.input_bytes(), np.uint8).reshape(golden.shape)[:1]
    session = Session(single((shipped("classifier") / "model.onnx").read_bytes()))
    outputs = {name: tuple(map(float, answer.ravel())) for name, answer in zip(session.outputs, session.run(image), strict=True)}
    one = golden.model_copy(update={"shape": image.shape, "outputs": outputs})
    assert await refusal("classifier", Made("classifier", "2", 1, single, golden=one).write(tmp_path / "new")) is Reason.CRASHED


async def test_a_test_that_somebody_ends_is_begun_again(tmp_path: Path) -> None:
    """Service managers and shells tell the child to stop as well: that is no verdict."""
    proving = asyncio.create_task(prove("classifier", Made("classifier", "2", 1).write(tmp_path / "new"), shipped("classifier")))
    os.kill(await _child(), signal.SIGTERM)
    await proving


async def test_a_test_that_is_ended_again_and_again_is_over_at_last(tmp_path: Path) -> None:
    proving = asyncio.create_task(prove("classifier", Made("classifier", "2", 1).write(tmp_path / "new"), shipped("classifier")))
    for _ in range(STARTS):
        child = await _child()
        os.kill(child, signal.SIGTERM)
        while Path(f"/proc/{child}").exists():
            await asyncio.sleep(0.01)
    with pytest.raises(Rejected) as caught:
        await proving
    assert caught.value.reason is Reason.CRASHED


async def _child() -> int:
    """The self-test that runs under this process, once it is Python's."""
    while True:
        for status in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                parent = int(status.read_text().rsplit(")", 1)[1].split()[1])
                if parent == os.getpid() and b"edge_agent.selftest" in (status.parent / "cmdline").read_bytes():
                    return int(status.parent.name)
        await asyncio.sleep(0.01)


async def test_a_test_that_does_not_end_is_ended(tmp_path: Path) -> None:
    assert await refusal("classifier", Made("classifier", "2", 1).write(tmp_path / "new"), time_s=0.2) is Reason.TIMED_OUT
