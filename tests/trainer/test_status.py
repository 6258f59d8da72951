"""The operator's view of rollouts."""

import asyncio
import time
from datetime import UTC, datetime

import pytest
from rich.console import Console

from protocol.broker import Broker
from protocol.errors import Reason, Rejected
from protocol.rollouts import CoordinatorStatus, RolloutState
from protocol.tasks import end
from protocol.topics import Fleet, RolloutAddress
from trainer import status
from trainer.order import connected


@pytest.mark.parametrize("text", ["see [/ops/12]", "open[/dev/video0] failed", "lost [link] today", "[red]"])
def test_what_others_wrote_is_shown_as_it_is(text: str) -> None:
    one = {"rollout": "r-1", "name": text, "version": "1", "phase": "paused", "wave": 1, "waves": 4, "reason": text}
    document = {
        "coordinator": "online",
        "rollouts": [one | dict.fromkeys(status.COUNTS, 0) | {"failures": [{"camera": text, "fate": "rolled_back", "reason": "too_slow"}]}],
    }
    console = Console(width=400, record=True, quiet=False, markup=False)
    with console.capture() as shown:
        console.print(status.table(document, [text]))
    assert shown.get().count(text) == 4
    assert f"{text} rolled back: too_slow" in shown.get()


async def test_a_fleet_that_is_never_quiet_is_told_in_time(mosquitto) -> None:
    """Two rollouts: of one a new state comes ten times a second, the other's is retained."""
    figures = dict.fromkeys(("epoch", "seq", "counter", "wave", "waves", *status.COUNTS), 0)
    words = {"phase": "running", "kind": "classifier", "name": "gate", "version": "2", "digest": "d"}
    state = RolloutState(**figures, **words, updated=datetime.now(UTC))

    async def chatter() -> None:
        for seq in range(1, 1000):
            await speaker.send(RolloutAddress("maskfleet", "busy"), state.model_copy(update={"seq": seq}))
            await asyncio.sleep(0.1)

    broker = Broker(port=mosquitto.port)
    async with connected(broker, "maskfleet") as speaker, connected(broker, "maskfleet") as link:
        await speaker.send(RolloutAddress("maskfleet", "still"), state)
        await speaker.send(Fleet("maskfleet"), CoordinatorStatus(value="online"))
        chattering, began_s = asyncio.create_task(chatter()), time.monotonic()
        document = await status.once(link, "maskfleet")
        assert time.monotonic() - began_s < status.MOST_S + 2
        await end(chattering)
    assert document["coordinator"] == "online"
    assert {one["rollout"] for one in document["rollouts"]} == {"busy", "still"}
    assert max(one["seq"] for one in document["rollouts"]) > 10


async def test_a_refusal_is_told_and_what_is_known_is_shown(mosquitto, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    """As where one of the clocks is wrong."""

    async def refuse(*_: object) -> None:
        raise Rejected(Reason.EXPIRED, "expired at 08:00, and the coordinator's clock shows 08:05")

    monkeypatch.setattr(status, "order", refuse)
    async with connected(Broker(port=mosquitto.port), "maskfleet") as link:
        await link.send(Fleet("maskfleet"), CoordinatorStatus(value="online"))
        document = await status.once(link, "maskfleet")
    assert document == {"coordinator": "online", "rollouts": []}
    assert "the coordinator does not say them again: expired at 08:00" in caplog.text
