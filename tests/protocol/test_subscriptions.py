"""Subscriptions that a broker refuses, as a cluster does that has just lost a node. What it grants is real: mosquitto does."""

import asyncio
import signal
from collections.abc import Callable
from typing import Any

import aiomqtt
import pytest
from greetings import CAMERA, HEALTH, broker, eventually, presence, unanswered

from protocol.link import Link
from protocol.messages import Health, NoMask, Status

NO_MASK = NoMask.topic.filter("maskfleet")


class Refusing:
    """Takes what clients subscribe to, and refuses of it what `refuses` says; that may look at what was `asked` until now."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, refuses: Callable[[str], bool]) -> None:
        self.asked: list[list[str]] = []
        self.ended: list[list[str]] = []
        subscribe, unsubscribe = aiomqtt.Client.subscribe, aiomqtt.Client.unsubscribe

        async def some(client: aiomqtt.Client, filters: list[tuple[str, int]], **settings: Any) -> list[Any]:
            self.asked.append([topic for topic, _ in filters])
            refused = [refuses(topic) for topic, _ in filters]
            granted = [pair for pair, is_refused in zip(filters, refused, strict=True) if not is_refused]
            codes = iter(await subscribe(client, granted, **settings) if granted else ())
            return [128 if is_refused else next(codes) for is_refused in refused]

        async def note(client: aiomqtt.Client, topics: list[str], **settings: Any) -> None:
            self.ended.append(topics)
            await unsubscribe(client, topics, **settings)

        monkeypatch.setattr(aiomqtt.Client, "subscribe", some)
        monkeypatch.setattr(aiomqtt.Client, "unsubscribe", note)


async def test_what_is_refused_at_first_is_asked_for_again_and_nothing_else(mosquitto, monkeypatch) -> None:
    refusing = Refusing(monkeypatch, lambda topic: topic == NO_MASK and len(refusing.asked) <= 2)
    sessions: list[int] = []
    async with Link(broker(mosquitto), "camera", presence(sessions)) as link, link.receive("maskfleet", Health, NoMask):
        await link.wait_online()
    assert [len(topics) for topics in refusing.asked] == [3, 1, 1]
    assert refusing.asked[1] == refusing.asked[2] == [NO_MASK]
    assert sessions[-1] == 1


async def test_what_is_always_refused_ends_connections_at_growing_intervals(mosquitto, monkeypatch, caplog) -> None:
    """However long each takes to fail: a fleet must not wear down a broker that is weak already."""
    attempts: list[int] = []
    Refusing(monkeypatch, lambda _: True)
    monkeypatch.setattr("protocol.link.ASK_AGAIN_AFTER_S", (0, 0.1))
    monkeypatch.setattr("protocol.link.STEADY_S", 0.05)
    monkeypatch.setattr("protocol.link.backoff_s", lambda attempt, _: attempts.append(attempt) or 0)
    async with Link(broker(mosquitto), "camera", presence()) as link:
        await eventually(lambda: len(attempts) == 4)
        assert not link.is_online
    assert attempts[:4] == [0, 1, 2, 3]
    assert "did not grant the subscription to maskfleet/camera/lobby/door-1/status" in caplog.text


async def test_who_is_always_refused_is_never_online(mosquitto, monkeypatch) -> None:
    """Whoever asked it anything would wait for ever."""
    sessions: list[int] = []
    async with Link(broker(mosquitto), "watcher") as watcher, watcher.receive("maskfleet", Status) as statuses:
        await watcher.wait_online()
        Refusing(monkeypatch, lambda _: True)
        monkeypatch.setattr("protocol.link.ASK_AGAIN_AFTER_S", (0, 0.1))
        monkeypatch.setattr("protocol.link.backoff_s", lambda *_: 0)
        async with Link(broker(mosquitto), "camera", presence(sessions)):
            await eventually(lambda: len(sessions) == 3)
        assert [(await anext(statuses)).message for _ in range(3)] == [Status(value="offline")] * 3
    assert len(sessions) == 3


async def test_who_was_offline_greets_once(mosquitto) -> None:
    """What the broker keeps of it from before is no late will."""
    sessions: list[int] = []
    for _ in range(3):
        async with Link(broker(mosquitto), "camera", presence(sessions)) as link:
            await link.wait_online()
            await asyncio.sleep(0.2)
    assert sessions == [1, 1, 1]


async def test_what_is_refused_in_mid_connection_is_insisted_on_and_costs_the_others_nothing(mosquitto, monkeypatch, caplog) -> None:
    """A camera that fetches a model subscribes then: it would wait for the chunks for ever."""
    monkeypatch.setattr("protocol.link.ASK_AGAIN_AFTER_S", (0,))
    monkeypatch.setattr("protocol.link.INSIST_S", 0.02)
    refusing = Refusing(monkeypatch, lambda topic: topic == NO_MASK and len(refusing.asked) <= 4)
    sessions: list[int] = []
    async with Link(broker(mosquitto), "camera", presence(sessions)) as link, link.receive("maskfleet", Health) as others:
        await link.wait_online()
        async with link.receive("maskfleet", NoMask) as messages:
            assert f"did not grant the subscription to {NO_MASK}" in caplog.text
            later = HEALTH.model_copy(update={"restarts": 1})
            await link.send(CAMERA, later)
            async with asyncio.timeout(5):
                assert [(await anext(others)).message for _ in range(2)] == [HEALTH, later]
                await link.send(CAMERA, NoMask(value="ON"))
                assert (await anext(messages)).message == NoMask(value="ON")
    assert sessions == [1]
    assert refusing.asked[1:] == [[NO_MASK]] * 4


async def test_what_nobody_wants_any_more_is_not_insisted_on(mosquitto, monkeypatch) -> None:
    monkeypatch.setattr("protocol.link.ASK_AGAIN_AFTER_S", (0, 0.05, 0.05, 0.05))
    monkeypatch.setattr("protocol.link.INSIST_S", 0.02)
    refusing = Refusing(monkeypatch, lambda topic: topic == NO_MASK)
    async with Link(broker(mosquitto), "camera", presence()) as link:
        await link.wait_online()
        async with link.receive("maskfleet", NoMask):
            pass
        count = len(refusing.asked)
        async with link.receive("maskfleet", Health) as others:
            async with asyncio.timeout(5):
                assert (await anext(others)).message == HEALTH
        await asyncio.sleep(0.3)
    assert refusing.asked[count:] == [[Health.topic.filter("maskfleet")]]
    assert refusing.ended[0] == [NO_MASK]


async def test_what_ends_while_the_link_introduces_itself_is_not_asked_for_again(mosquitto, monkeypatch) -> None:
    monkeypatch.setattr("protocol.link.ASK_AGAIN_AFTER_S", (0, 0.3))
    refusing = Refusing(monkeypatch, lambda topic: topic == NO_MASK)
    async with Link(broker(mosquitto), "camera", presence()) as link:
        async with link.receive("maskfleet", NoMask):
            await eventually(lambda: len(refusing.asked) == 1)
        await link.wait_online()
    assert len(refusing.asked) == 1


async def test_a_subscription_without_an_answer_is_not_called_refused(mosquitto, monkeypatch, caplog) -> None:
    async with unanswered(mosquitto, monkeypatch, NoMask):
        pass
    (warning,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warning == f"not subscribed to {NO_MASK}: Operation timed out; trying again"


async def test_a_broker_that_dies_in_mid_subscription_is_not_waited_for(mosquitto) -> None:
    """The subscription is made at the next connection."""
    async with Link(broker(mosquitto), "camera", presence()) as link, asyncio.timeout(20):
        await link.wait_online()
        mosquitto.freeze()
        asyncio.get_running_loop().call_later(0.3, mosquitto.stop, signal.SIGKILL)
        async with link.receive("maskfleet", Health) as messages:
            mosquitto.start()
            assert (await anext(messages)).message == HEALTH


async def test_what_is_granted_at_once_is_not_waited_for(mosquitto, monkeypatch) -> None:
    monkeypatch.setattr("protocol.link.ASK_AGAIN_AFTER_S", (0, 60))
    async with Link(broker(mosquitto), "camera", presence()) as link, asyncio.timeout(10):
        await link.wait_online()
        async with link.receive("maskfleet", NoMask):
            pass
