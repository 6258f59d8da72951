"""What people ask of the coordinator: each order is carried out once, and answered."""

import logging
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from protocol import topics
from protocol.answers import Answers, refused
from protocol.errors import DeviceError, FleetError, Reason, Rejected, in_one_line
from protocol.messages import MAX_TEXT, RawMessage
from protocol.rollouts import RolloutAck, RolloutCommand
from trainer.book import Book, StartArgs
from trainer.rollout import allows
from trainer.rollout_state import Abort, Pause, Phase, Resume

log = logging.getLogger(__name__)


class AnyOrder(RawMessage):
    """A command to the coordinator as bytes: what cannot be read must be answered, not vanish."""

    topic = topics.ROLLOUT_COMMAND
    max_bytes = RolloutCommand.max_bytes


class Orders:
    """Takes orders about the rollouts of a book."""

    def __init__(self, book: Book, find_cameras: Callable[[], Awaitable[None]], decide_now: Callable[[], None]) -> None:
        """`find_cameras` returns when it is known which are there; `decide_now` lets all that was heard count."""
        self._book = book
        self._find_cameras = find_cameras
        self._decide_now = decide_now
        self._answers = Answers[RolloutAck]()

    async def answer(self, payload: bytes) -> RolloutAck | None:
        """Carries out an order that is new, as it was sent, and says how that went; None when nobody can be answered."""
        try:
            command = RolloutCommand.decode(payload)
        except Rejected as error:
            log.warning("a rollout command is refused: %s", error)
            return refused(RolloutAck, payload, error)
        if command.op in ("start", "rollback"):
            await self._find_cameras()
        return self._answers.to(command) or _expired(command) or self.carry_out(command)

    def carry_out(self, command: RolloutCommand) -> RolloutAck:
        """Carries out an order, and says how that went; raises DeviceError when the journal fails."""
        self._decide_now()
        try:
            rollout = self._do(command)
            entry = self._book.entries.get(rollout)
            ack = RolloutAck(id=command.id, ok=True, rollout=rollout, cameras=len(entry.state.cameras) if entry else None)
        except DeviceError:
            raise
        except (FleetError, OSError) as error:  # the second: a release on the shelf that cannot be read
            ack = RolloutAck(id=command.id, ok=False, rollout=command.rollout, reason=in_one_line(error)[:MAX_TEXT])
        log.info("rollout command %r (%s): %s", command.id, command.op, ack.reason or "done")
        self._answers.keep(command, ack)
        return ack

    def _do(self, command: RolloutCommand) -> str:
        """Does it, and returns the rollout that it is about; raises Rejected."""
        if command.op == "start":
            return self._book.start(StartArgs.parse(command.args))
        rollout = command.rollout or self._book.current()
        if command.op == "status":
            self._book.say_all()
            return rollout
        if rollout not in self._book.entries:
            raise Rejected(Reason.BAD_PAYLOAD, self._not_open(rollout))
        reason = str(command.args.get("reason") or "asked for")[:200]
        if command.op == "rollback":
            return self._book.roll_back(rollout, str(command.args.get("release", "")), reason)
        now_s = time.time()
        event = {"pause": Pause(now_s, reason), "resume": Resume(now_s), "abort": Abort(now_s, reason)}[command.op]
        state = self._book.entries[rollout].state
        if not allows(state, type(event)):
            stands = "superseded by a newer one" if state.is_superseded else state.phase
            raise Rejected(Reason.BAD_PAYLOAD, f"rollout {rollout} is {stands}: it cannot {command.op}")
        self._book.do(rollout, event)
        state = self._book.entries[rollout].state
        if command.op == "resume" and state.phase is Phase.PAUSED:
            raise Rejected(Reason.BAD_PAYLOAD, f"rollout {rollout} stays paused: {state.reason}; resume again to let that pass")
        return rollout

    def _not_open(self, rollout: str) -> str:
        which = f"no rollout {rollout!r} is open" if rollout else "no rollout is open"
        return f"{which}; open are {', '.join(self._book.entries)}" if self._book.entries else which


def _expired(command: RolloutCommand) -> RolloutAck | None:
    """The refusal of an order that came too late, or whose sender's clock is behind ours; None when it did not."""
    now = datetime.now(UTC)
    if command.expires is None or command.expires > now:
        return None
    log.warning("rollout command %r (%s): expired, refused", command.id, command.op)
    reason = f"expired at {command.expires.astimezone(UTC):%F %T} UTC, and the coordinator's clock shows {now:%F %T}: is one of the clocks wrong?"
    return RolloutAck(id=command.id, ok=False, rollout=command.rollout, reason=reason)
