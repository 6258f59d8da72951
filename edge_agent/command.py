"""What a user may ask of a camera while it runs."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime

from protocol import topics
from protocol.answers import Answers, refused
from protocol.errors import FleetError, LinkError, Reason, Rejected
from protocol.link import Link
from protocol.messages import MAX_TEXT, Command, CommandAck, RawMessage
from protocol.receiver import Received

log = logging.getLogger(__name__)

Operation = Callable[[Command], Awaitable[None]]


class AnyCommand(RawMessage):
    """A command as bytes: what cannot be read must be answered, not vanish."""

    topic = topics.COMMAND


def refusal(command: Command, is_retained: bool, now: datetime) -> str:
    """Why a command must not be carried out; empty when it may."""
    if is_retained:
        return "a retained command is ignored"
    if command.expires is not None and command.expires <= now:
        return "expired"
    return ""


async def obey(link: Link, commands: AsyncIterator[Received[AnyCommand]], operations: Mapping[str, Operation]) -> None:
    """Carries out and answers each command that comes, until cancelled."""
    answers = Answers[CommandAck]()
    async for address, message, is_retained in commands:
        ack = await _answer(message.payload, is_retained, operations, answers)
        if ack is not None:
            try:
                await link.send(address, ack)
            except LinkError as error:
                log.warning("command %r: answer not sent: %s", ack.id, error)


async def _answer(payload: bytes, is_retained: bool, operations: Mapping[str, Operation], answers: Answers[CommandAck]) -> CommandAck | None:
    """Carries out a command that is new; None when it is to be ignored."""
    try:
        command = Command.decode(payload)
    except Rejected as error:
        log.warning("a command is refused: %s", error)
        return None if is_retained else refused(CommandAck, payload, error)
    why_not = refusal(command, is_retained, datetime.now(UTC))
    if why_not:
        log.warning("command %r (%r): %s", command.id, command.op, why_not)
        return None
    ack = answers.to(command)
    if ack is None:
        ack = await _carry_out(command, operations)
        log.info("command %r (%r): %s", command.id, command.op, ack.reason or "done")
        answers.keep(command, ack)
    return ack


async def _carry_out(command: Command, operations: Mapping[str, Operation]) -> CommandAck:
    try:
        if command.op not in operations:
            raise Rejected(Reason.BAD_PAYLOAD, f"no such operation; known are {', '.join(operations)}")
        await operations[command.op](command)
    except FleetError as error:
        return CommandAck(id=command.id, ok=False, reason=str(error)[:MAX_TEXT])
    return CommandAck(id=command.id, ok=True)
