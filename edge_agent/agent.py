"""Wiring: builds the parts, owns the tasks and the worker thread, and stops them in order."""

import asyncio
import contextlib
import functools
import logging
import platform
import secrets
import time
from collections.abc import Iterator
from importlib.metadata import version

from edge_agent.capture import Camera, CaptureState
from edge_agent.check import Owner
from edge_agent.command import AnyCommand, obey
from edge_agent.crashes import Crashes
from edge_agent.discovery import discovery
from edge_agent.disk import in_thread
from edge_agent.fetch import fetch
from edge_agent.install import Installer
from edge_agent.installed import folder_of, pinned, recall, slots_of
from edge_agent.load import Eyes, load_eyes, load_pipeline
from edge_agent.outbox import Outbox, warn_of_others
from edge_agent.pipeline import Seen
from edge_agent.prometheus import Exporter
from edge_agent.publish import Publisher, Teller
from edge_agent.scene import Frame, Incident
from edge_agent.settings import Settings
from edge_agent.sight import Sight
from edge_agent.snapshot import Snapshots
from edge_agent.updating import Updates
from edge_agent.vitals import Vitals
from protocol.answers import REMEMBERED
from protocol.errors import DeviceError, LinkError, Reason, Rejected
from protocol.link import Link, Presence
from protocol.messages import MAX_TEXT, Birth, Command, Discovery, Health, Message
from protocol.tasks import end_all
from protocol.topics import SnapshotAddress

log = logging.getLogger(__name__)

HEALTH_S = 60.0
"""Health is said on each change, and at least this often."""
AGENT_VERSION = version("maskfleet")
LOOK_S = 0.5
"""How often the camera's state is looked at."""


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """One camera, until `stop` is set or recorded material ends; then open incidents are closed and `offline` is said.

    Raises Rejected when the settings ask for something that cannot be, DeviceError when a model, the disk or the camera fails for good.
    """
    eyes = load_eyes(settings)
    await Agent(settings, eyes).run(stop)


class Agent:
    """The parts of one camera and how they hang together."""

    def __init__(self, settings: Settings, eyes: Eyes) -> None:
        self._settings = settings
        owner = Owner(settings.updates.owner_keys(), AGENT_VERSION, pinned(settings))
        self._boot = secrets.token_hex(6)
        self._camera = Camera(settings.uri, settings.csi_source)
        self._is_detecting = True
        self._snapshots = Snapshots(**settings.snapshots.model_dump())
        self._session = 0
        self._vitals = Vitals()
        self._exporter = Exporter(settings.address, settings.prometheus_port)
        address = settings.address
        outbox_file = settings.state_dir / f"{address.name}.sqlite"
        self._outbox = Outbox(outbox_file, settings.outbox.limits())
        self._outbox.end_orphans()
        warn_of_others(settings.state_dir, outbox_file)
        broker = settings.broker.broker()
        self._link = Link(broker, address.name, Presence(address, self._greeting))
        self._publisher = Publisher(self._link, address, self._outbox)
        self._teller = Teller(self._boot)
        slots = slots_of(settings, eyes)
        self._crashes = Crashes(folder_of(settings))
        eyes, state, folders = recall(settings, eyes, slots, self._crashes)
        self._pipeline = load_pipeline(settings, eyes)
        self._sight = Sight(settings, eyes, self._pipeline, self._camera.state, lambda: self._is_detecting, folders, self._crashes)
        get_chunks = functools.partial(fetch, self._link, address)
        installer = Installer(slots, state, owner, settings.updates.gate, self._sight, get_chunks, self._link.wait_online)
        self._updates = Updates(self._link, address, installer, self._boot)

    async def run(self, stop: asyncio.Event) -> None:
        """Sees and speaks until stopped."""
        try:
            async with self._exporter, self._link, asyncio.TaskGroup() as tasks:
                speaking = [
                    tasks.create_task(job())
                    for job in (self._publisher.run, self._telemetry, self._health, self._obey, self._updates.run, self._undiscover)
                ]
                stopping = tasks.create_task(self._stop_camera(stop))
                try:
                    # Opening a camera can take seconds.
                    await asyncio.to_thread(self._camera.start)
                    await asyncio.to_thread(self._see, asyncio.get_running_loop())
                finally:
                    stopping.cancel()
                    await self._publisher.flush()
                    await end_all(*speaking)
            state = self._camera.state()
            if state.capture == "failed" and self._camera.uri.is_recorded and not stop.is_set():
                raise DeviceError(f"camera {self._camera.uri.text}: {state.reason}")
        except ExceptionGroup as group:
            raise _first(group) from None
        finally:
            self._camera.stop()
            # In a thread: whoever asks a second time, because a disk hangs, is heard.
            await in_thread(self._publisher.close)
            self._crashes.forget()

    async def _stop_camera(self, stop: asyncio.Event) -> None:
        await stop.wait()
        await asyncio.to_thread(self._camera.stop)

    def _see(self, loop: asyncio.AbstractEventLoop) -> None:
        """The worker thread: frames through the pipeline, until the camera is stopped or its material ends."""
        try:
            while True:
                frame = self._camera.take(timeout_s=LOOK_S)
                if not self._is_detecting:
                    self._tell(loop, self._pipeline.stop())
                if frame is not None and self._is_detecting:
                    self._look(frame, loop)
                    del frame  # megabytes, not to be kept while the next one is waited for
                elif frame is None and self._camera.is_over:
                    break
                elif frame is not None or not self._camera.uri.is_recorded:  # recorded material has a clock of its own, whatever its pace
                    self._tell(loop, self._pipeline.wait())
        finally:  # also when a model fails: nobody is left with an open incident
            self._tell(loop, self._pipeline.stop())

    def _look(self, frame: Frame, loop: asyncio.AbstractEventLoop) -> None:
        seen = self._sight.see(frame)
        loop.call_soon_threadsafe(self._note, seen)
        for shot in self._snapshots.take(frame, seen.incidents, self._pipeline.tracks, self._boot):
            loop.call_soon_threadsafe(self._publisher.show, shot)

    def _tell(self, loop: asyncio.AbstractEventLoop, incidents: tuple[Incident, ...]) -> None:
        if incidents:
            loop.call_soon_threadsafe(self._publish, incidents, self._pipeline.open_incidents, self._pipeline.time_s)

    def _note(self, seen: Seen) -> None:
        self._vitals.note(seen)
        if seen.incidents:
            self._publish(seen.incidents, seen.open_incidents, seen.time_s)

    def _publish(self, incidents: tuple[Incident, ...], open_incidents: int, time_s: float) -> None:
        for incident in incidents:
            log.info("%s", incident)
        self._publisher.tell([self._teller.message_of(incident, self._model, time_s) for incident in incidents], open_incidents)

    async def _telemetry(self) -> None:
        """Says the figures of each interval; what cannot be sent now is worth nothing later."""
        while True:
            await asyncio.sleep(self._settings.telemetry_s)
            telemetry = self._vitals.look(self._camera.state(), self._boot, self._model, self._publisher.depth)
            log.info(
                "%.1f fps of %.1f, p95 %s ms, %.1f faces, %.0f MB, outbox %d",
                telemetry.fps_processed,
                telemetry.fps_capture,
                telemetry.latency_p95_ms,
                telemetry.faces,
                telemetry.memory_mb,
                telemetry.outbox,
            )
            self._exporter.note(telemetry)
            with contextlib.suppress(LinkError):
                await self._link.send(self._settings.address, telemetry)

    async def _health(self) -> None:
        """Says how the camera is whenever that changes, and what it gives and sees with."""
        said: tuple[object, ...] | None = None
        said_s, birth = 0.0, _without_session(self._birth())
        while True:
            await asyncio.sleep(LOOK_S)
            self._camera.watch()
            state = self._camera.state()
            self._exporter.note(self._health_now())
            word = (state.capture, _stable(state), state.restarts, self._is_detecting, self._outbox.lost)
            try:
                if (now := _without_session(self._birth())) != birth:  # the camera's mode is known now, or another model sees
                    await self._link.send(self._settings.address, self._birth())
                    birth = now
                if word != said or time.monotonic() - said_s >= HEALTH_S:
                    await self._link.send(self._settings.address, self._health_now())
                    said, said_s = word, time.monotonic()
            except LinkError:
                said = None

    async def _undiscover(self) -> None:
        """Takes back, once, what Home Assistant was told: not at each connection, for a broker may end one for a topic that it does not allow."""
        told = self._settings.state_dir / f"{self._settings.address.name}.discovered"
        if self._settings.home_assistant:
            with contextlib.suppress(OSError):  # a full disk
                told.touch()
        elif told.exists():
            await self._link.wait_online()
            with contextlib.suppress(LinkError, OSError):  # then at the next start
                await self._link.send(self._settings.address, Discovery(document=None))
                told.unlink()

    async def _obey(self) -> None:
        operations = {"report": self._report, "restart_capture": self._restart_capture, "detect": self._detect, "snapshot": self._snapshot}
        async with self._link.receive(self._settings.address, AnyCommand, max_waiting=REMEMBERED) as commands:
            await obey(self._link, commands, operations)

    async def _report(self, _: Command) -> None:
        await self._link.greet()

    async def _restart_capture(self, _: Command) -> None:
        self._camera.restart("asked for")

    async def _detect(self, command: Command) -> None:
        match command.args:
            case {"on": bool(is_on), **others} if not others:
                self._is_detecting = is_on
                if not is_on:
                    self._snapshots.forget()
            case _:
                raise Rejected(Reason.BAD_PAYLOAD, 'detect needs {"on": true} or {"on": false}, and nothing else')

    async def _snapshot(self, command: Command) -> None:
        if not self._is_detecting or self._camera.state().capture != "ok":
            raise Rejected(Reason.BAD_INPUT, "without frames and detection no face could be blurred")
        SnapshotAddress.of(self._settings.address, command.id)  # may the id stand in a topic?
        self._snapshots.ask(command.id)

    def _greeting(self, session: int) -> Iterator[Message]:
        self._session = session
        yield self._birth()
        yield self._health_now()
        yield self._publisher.no_mask
        yield self._updates.report()
        if self._settings.home_assistant:
            yield discovery(self._settings.address, AGENT_VERSION, self._settings.telemetry_s)

    @property
    def _model(self) -> str:
        """What the classifier in use is called."""
        model = self._sight.eyes.classifier
        return f"{model.name} {model.version}"

    def _birth(self) -> Birth:
        return Birth(
            boot=self._boot,
            session=self._session,
            agent_version=AGENT_VERSION,
            python_version=platform.python_version(),
            classifier=self._sight.eyes.classifier,
            detector=self._sight.eyes.detector,
            camera_asked=self._camera.uri.text[:MAX_TEXT],
            camera_got=self._camera.state().got[:MAX_TEXT],
        )

    def _health_now(self) -> Health:
        state = self._camera.state()
        age_s = None if state.last_frame_s is None else round(max(0.0, time.monotonic() - state.last_frame_s), 2)
        return Health(
            boot=self._boot,
            capture=state.capture,
            reason=state.reason[:MAX_TEXT],
            last_frame_age_s=age_s,
            detecting=self._is_detecting,
            restarts=state.restarts,
            outbox=self._publisher.depth,
            lost=self._outbox.lost,
        )


def _without_session(birth: Birth) -> Birth:
    """What the greeting of the next connection would say again."""
    return birth.model_copy(update={"session": 0})


def _stable(state: CaptureState) -> str:
    """The reason, unless it only counts seconds."""
    return "" if state.capture == "stalled" else state.reason


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first single exception in a group."""
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
