"""The demo: a broker, a camera, and a subscriber that is an ordinary MQTT client, on one machine."""

import asyncio
import contextlib
import secrets
import signal
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from compose.broker import embedded_broker
from compose.demo_rollout import Rollouts
from edge_agent import agent
from edge_agent.gate import Gate
from edge_agent.settings import BrokerSettings, Settings, UpdateSettings
from protocol.broker import Broker
from protocol.errors import LinkError
from protocol.link import Link
from protocol.messages import Alert, Birth, Health, IncidentEnded, Message, NoMask, Status, Telemetry
from protocol.receiver import Received
from protocol.rollouts import Reported, UpdateState
from protocol.signature import public_text
from protocol.tasks import end_all
from protocol.topics import Address

BASE, SITE, CAMERA = "maskfleet", "demo", "door-1"
TELEMETRY_S = 3.0
CONNECT_S = 10
SHADOW_S, TRIAL_S = 2.0, 3.0
GATE = Gate(fps_share=0.3, latency_ratio=3, latency_slack_ms=100)
"""Wide: seconds of a trial on a machine that does other things, too, measure that machine."""
GREETINGS = (Birth, Health, NoMask, Status)
"""Said again whenever somebody asks, and shown when they are new."""
RETAINED = (*GREETINGS, Reported)
"""What a broker would keep of the camera."""
SHOWN = (Status, Birth, Health, Telemetry, Alert, IncidentEnded, NoMask, Reported)


async def demo(seconds: float, url: str | None, show: Callable[[str], None]) -> dict[str, int]:
    """Runs the demo and returns how many alerts, ended incidents, telemetry messages, committed and called back releases were seen.

    `url` names a broker of one's own instead of the embedded one. Raises LinkError when it cannot be reached,
    Rejected when the URL is wrong.
    """
    counts: Counter[str] = Counter()
    async with contextlib.AsyncExitStack() as stack:
        broker = Broker.parse(url) if url else await stack.enter_async_context(embedded_broker())
        broker_url = url or f"mqtt://{broker.host}:{broker.port}"
        state_dir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="maskfleet-demo-")))
        key = Ed25519PrivateKey.generate()
        updates = UpdateSettings(trusted_keys=(public_text(key.public_key()),), shadow_s=SHADOW_S, trial_s=TRIAL_S, gate=GATE)
        settings = Settings.model_construct(  # not from variables: this camera is the demo's own
            # On a broker of one's own it is apart from the cameras there, and their coordinator.
            base=f"{BASE}-demo-{secrets.token_hex(3)}" if url else BASE,
            site=SITE,
            camera=CAMERA,
            uri="demo:",
            home_assistant=not url,
            telemetry_s=TELEMETRY_S,
            state_dir=state_dir,
            broker=BrokerSettings(url=broker_url),
            updates=updates,
        )
        show(f"broker {broker.host}:{broker.port}, also yours: mosquitto_sub -h {broker.host} -p {broker.port} -v -t '{settings.base}/#'")
        subscriber = await stack.enter_async_context(Link(broker, f"demo-{state_dir.name[-8:]}"))
        await _connect(subscriber)
        if url:
            stack.push_async_callback(_tidy, subscriber, settings.address)  # once nobody listens any more
        messages = await stack.enter_async_context(subscriber.receive(settings.base, *SHOWN))
        rollouts = Rollouts(broker, settings.address, state_dir / "coordinator", key, show)
        listening = asyncio.create_task(_listen(messages, counts, show, rollouts.seen))
        shipping = asyncio.create_task(rollouts.run(subscriber))
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.call_later(seconds, stop.set)
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        await agent.run(settings, stop)
        await asyncio.sleep(0.3)  # what the camera said last is still on its way
        await end_all(shipping, listening)
        await rollouts.tidy(subscriber)
    return {
        "alerts": counts["Alert"],
        "incidents": counts["IncidentEnded"],
        "telemetry": counts["Telemetry"],
        "committed": counts[UpdateState.COMMITTED],
        "rolled_back": counts[UpdateState.ROLLED_BACK],
    }


async def _tidy(link: Link, camera: Address) -> None:
    with contextlib.suppress(LinkError):
        for kind in RETAINED:
            await link.clear(camera, kind)


async def _connect(link: Link) -> None:
    try:
        async with asyncio.timeout(CONNECT_S):
            await link.wait_online()
    except TimeoutError:
        raise LinkError(f"no connection to the broker in {CONNECT_S} s: {link.problem or 'it says nothing'}") from None


async def _listen(
    messages: AsyncIterator[Received[Message]], counts: Counter[str], show: Callable[[str], None], seen: Callable[[Message], None]
) -> None:
    start_s = asyncio.get_running_loop().time()
    state, said = "", dict[type[Message], str]()
    async for address, message, is_retained in messages:
        if address.camera != CAMERA or address.site != SITE or is_retained:
            continue
        if isinstance(message, Reported):
            seen(message)
            word = f"{message.counter} {message.state} {message.update_percentage}"
            if word == state or not message.counter:
                continue
            counts[message.state] += state.split()[:2] != word.split()[:2]
            state = word
        text = line(message)
        if isinstance(message, GREETINGS) and said.get(type(message)) == text:
            continue
        said[type(message)] = text
        counts[type(message).__name__] += 1
        show(f"{asyncio.get_running_loop().time() - start_s:5.1f} s  {address.camera}  {text}")


def line(message: Message) -> str:
    """A message in one readable line."""
    match message:
        case Alert():
            late = f", replayed after {message.delay_s} s" if message.replayed else ""
            return f"ALERT     no mask: p {message.p_no_mask:.2f}, votes {message.votes}, {message.id}{late}"
        case IncidentEnded():
            return f"INCIDENT  ended ({message.ended}) after {message.duration_s or 0:.1f} s, {message.id}"
        case NoMask():
            return f"no_mask   {message.value}"
        case Telemetry():
            return (
                f"telemetry {message.fps_processed:.1f} fps, latency p95 {_ms(message.latency_p95_ms)}, detect {_ms(message.detect_ms)}, "
                f"classify {_ms(message.classify_ms)}, {message.memory_mb:.0f} MB"
            )
        case Health():
            return f"health    capture {message.capture}{f': {message.reason}' if message.reason else ''}"
        case Birth():
            return (
                f"birth     agent {message.agent_version}, {message.classifier.name} {message.classifier.version}, detector {message.detector.name}"
            )
        case Reported():
            share = f" {message.update_percentage} %" if message.update_percentage is not None else ""
            return f"update    {message.latest_version}: {message.state}{share}{f' ({message.reason})' if message.reason else ''}"
        case Status():
            return f"status    {message.value}"
        case _:
            return message.encode().decode(errors="replace")


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"
