"""`maskfleet simulate`: one rollout, by the real coordinator, to simulated cameras."""

import asyncio
import contextlib
import os
import random
import resource
import secrets
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from compose.broker import embedded_broker
from compose.simulated import Camera, Faults, cameras
from compose.throwaway import shipped, sign_release
from protocol.broker import Broker
from protocol.errors import LinkError
from protocol.link import Link
from protocol.messages import Status
from protocol.rollouts import CoordinatorStatus, Desired, Reported, RolloutState, UpdateState
from protocol.signature import TrustedKeys, public_text, trusted_keys
from protocol.tasks import end, end_all
from protocol.topics import Address, Fleet, RolloutAddress
from trainer.order import order
from trainer.publish import RATE_BYTES_S
from trainer.shelf import Shelf
from trainer.watch import SHELF_FOLDER, Coordinator, WatchSettings

BASE = "maskfleet-simulation"
"""With a number that no other simulation has: on a broker that real cameras use, they hear nothing of this."""
ENDED = ("done", "paused", "aborted")
CONNECT_S = 60.0

ReleaseFault = Literal["none", "signature", "counter", "truncated"]
RELEASE_FAULTS = get_args(ReleaseFault)
OLD_COUNTER, COUNTER = 1, 3
"""Below and above that of what the cameras run."""


@dataclass(frozen=True)
class Simulation:
    """What is simulated."""

    cameras: int
    url: str | None = None
    """A broker of one's own; the embedded one when None."""
    size_bytes: int = 400_000
    faults: Faults = field(default_factory=Faults)
    release_fault: ReleaseFault = "none"
    """The release is signed by a key that nobody trusts, its counter is not above the installed one's, or chunks are cut short on the way."""
    waves: tuple[str, ...] = ("1", "10%", "50%", "100%")
    soak_s: float = 0.5
    answer_s: float = 120.0
    rate_bytes_s: float = RATE_BYTES_S
    most_s: float = 600.0
    """After so long the figures are taken as they are."""


async def simulate(what: Simulation, show: Callable[[str], None]) -> dict[str, Any]:
    """Runs one rollout and returns its figures; raises LinkError when the broker or the cameras do not come."""
    async with contextlib.AsyncExitStack() as stack:
        broker = Broker.parse(what.url) if what.url else await stack.enter_async_context(embedded_broker())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"maskfleet-simulate-{os.getpid()}-", dir=_memory())))
        key = Ed25519PrivateKey.generate()
        keys = trusted_keys([public_text(key.public_key())])
        base = f"{BASE}-{secrets.token_hex(3)}"
        release = _release(what, folder, key)
        faults = what.faults if what.release_fault != "truncated" else replace(what.faults, truncates=True)
        fleet = cameras(broker, base, folder / "cameras", keys, range(what.cameras), faults)
        operator = await stack.enter_async_context(Link(broker, f"{base}-operator"))
        if what.url:
            stack.push_async_callback(_tidy, operator, fleet)
        async with (
            coordinating(broker, base, folder / "coordinator", what.rate_bytes_s) as coordinator,
            living(fleet),
            trials(operator, base) as tried,
        ):
            await _gather(operator, coordinator, what.cameras, show)
            start_s = asyncio.get_running_loop().time()
            last = await _roll_out(operator, base, what, release, show)
            seconds = asyncio.get_running_loop().time() - start_s
            return {**_figures(what, last, fleet, coordinator.bytes_sent, seconds), "back_s": tried.back_s}


@contextlib.asynccontextmanager
async def coordinating(
    broker: Broker, base: str, state_dir: Path, rate_bytes_s: float, trusted: TrustedKeys | None = None
) -> AsyncIterator[Coordinator]:
    """A coordinator that runs; an error of its own comes out at the end."""
    settings = WatchSettings(broker, base, state_dir, trusted or {}, rate_bytes_s=rate_bytes_s, tick_s=0.1)
    coordinator, stop = Coordinator(settings), asyncio.Event()
    running = asyncio.create_task(coordinator.run(stop))
    try:
        yield coordinator
    finally:
        stop.set()
        await running


@contextlib.asynccontextmanager
async def living(fleet: list[Camera]) -> AsyncIterator[None]:
    """Cameras that run; they start spread over a moment, for a broker is not met by a thousand at once."""

    async def start(camera: Camera) -> None:
        await asyncio.sleep(random.uniform(0, len(fleet) / 200))
        await camera.run()

    tasks = [asyncio.create_task(start(camera)) for camera in fleet]
    try:
        yield
    finally:
        await end_all(*tasks)


@dataclass
class Trials:
    """When new models began to decide, and how soon the old one did again."""

    begun_s: dict[Address, float] = field(default_factory=dict)
    back_s: float | None = None
    """The longest time from a trial's beginning to the old model's return, as reported; None when no camera went back."""

    def note(self, address: Address, state: UpdateState, now_s: float) -> None:
        """Takes what a camera reports."""
        if state is UpdateState.TRIAL:
            self.begun_s.setdefault(address, now_s)
        elif state is UpdateState.ROLLED_BACK and address in self.begun_s:
            self.back_s = round(max(self.back_s or 0.0, now_s - self.begun_s.pop(address)), 2)


@contextlib.asynccontextmanager
async def trials(link: Link, base: str) -> AsyncIterator[Trials]:
    """The trials that cameras report meanwhile."""
    found = Trials()

    async def listen() -> None:
        async with link.receive(base, Reported) as reports:
            async for address, report, _ in reports:
                found.note(address, report.state, asyncio.get_running_loop().time())

    listening = asyncio.create_task(listen())
    try:
        yield found
    finally:
        await end(listening)


def _release(what: Simulation, folder: Path, key: Ed25519PrivateKey) -> str:
    """A signed release on the coordinator's shelf; its name there."""
    manifest, _ = shipped()
    signer = Ed25519PrivateKey.generate() if what.release_fault == "signature" else key
    model = random.randbytes(what.size_bytes)
    written = sign_release(folder / "release", manifest, model, "2", OLD_COUNTER if what.release_fault == "counter" else COUNTER, signer)
    return Shelf(folder / "coordinator" / SHELF_FOLDER, {}).put(written).name


async def _gather(operator: Link, coordinator: Coordinator, count: int, show: Callable[[str], None]) -> None:
    try:
        async with asyncio.timeout(CONNECT_S + count / 20):
            await operator.wait_online()
            while (here := coordinator.online) < count:
                await asyncio.sleep(0.1)
    except TimeoutError:
        here = coordinator.online
        raise LinkError(f"only {here} of {count} cameras are connected after {CONNECT_S + count / 20:.0f} s; is the broker running?") from None
    show(f"{here} cameras are online")


async def _roll_out(operator: Link, base: str, what: Simulation, release: str, show: Callable[[str], None]) -> RolloutState:
    """Starts the rollout and follows it to its end, or to the end of the time; its last state."""
    last: RolloutState | None = None
    async with operator.receive(base, RolloutState) as states:
        begun = await order(operator, base, "start", release=release, waves=list(what.waves), soak_s=what.soak_s, answer_s=what.answer_s)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(what.most_s):
                async for address, state, _ in states:
                    if address.rollout != begun.rollout:
                        continue
                    if last is None or (state.phase, state.wave) != (last.phase, last.wave):
                        show(line(state))
                    last = state
                    if state.phase in ENDED:
                        break
    if last is None:
        raise LinkError("the coordinator says nothing of the rollout")
    return last


def line(state: RolloutState) -> str:
    """A rollout's state in one readable line."""
    counts = ", ".join(f"{getattr(state, what)} {what.replace('_', ' ')}" for what in ("committed", "updating", "waiting", "offline"))
    bad = state.rejected + state.failed + state.rolled_back
    why = f" ({state.reason})" if state.reason else ""
    return f"{state.name} {state.version}: {state.phase} wave {state.wave} of {state.waves}: {counts}, {bad} bad{why}"


def _figures(what: Simulation, last: RolloutState, fleet: list[Camera], bytes_sent: int, seconds: float) -> dict[str, Any]:
    installed = Counter(camera.slots.load().classifier.digest == last.digest for camera in fleet)
    return {
        "cameras": what.cameras,
        "committed": last.committed,
        "failed": last.failed + last.rejected,
        "rolled_back": last.rolled_back,
        "seconds": round(seconds, 2),
        "bytes_sent": bytes_sent,
        "bytes_ratio": round(bytes_sent / what.size_bytes, 3),
        "memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "phase": last.phase,
        "reason": last.reason,
        "offline": last.offline,
        "on_new_model": installed[True],
        "restarts": sum(camera.starts - 1 for camera in fleet),
    }


async def _tidy(operator: Link, fleet: list[Camera]) -> None:
    """Takes back what the broker retains of the simulation."""
    with contextlib.suppress(LinkError):
        for camera in fleet:
            for kind in (Desired, Reported, Status):
                await operator.clear(camera.address, kind)
        for counter in (OLD_COUNTER, COUNTER):
            await operator.clear(RolloutAddress(fleet[0].address.base, f"classifier-{counter}"), RolloutState)
        await operator.clear(Fleet(fleet[0].address.base), CoordinatorStatus)


def _memory() -> str | None:
    """A folder in memory, where there is one: cameras have a disk each, and share one here."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108
