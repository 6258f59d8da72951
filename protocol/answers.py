"""What was answered: a command that comes again (QoS 1 may repeat) is answered again, and not carried out again."""

from collections import deque
from typing import Annotated, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from protocol.errors import Rejected
from protocol.messages import MAX_ID, MAX_TEXT, Command, CommandAck
from protocol.rollouts import RolloutAck, RolloutCommand

A = TypeVar("A", CommandAck, RolloutAck)

REMEMBERED = 100


class _Asked(BaseModel):
    model_config = ConfigDict(strict=True)

    id: Annotated[str, Field(min_length=1)] | int | FiniteFloat


def refused(ack: type[A], payload: bytes, error: Rejected) -> A | None:
    """The answer to a command that cannot be read; None where it has no id. A number is answered as text, a long id as its beginning."""
    try:
        id_ = str(_Asked.model_validate_json(payload).id)[:MAX_ID]
    except ValidationError:
        return None
    return ack(id=id_, ok=False, reason=str(error)[:MAX_TEXT])


class Answers(Generic[A]):
    """The latest commands that were carried out or refused, with their answers."""

    def __init__(self) -> None:
        self._given: deque[tuple[Command | RolloutCommand, A]] = deque(maxlen=REMEMBERED)

    def to(self, command: Command | RolloutCommand) -> A | None:
        """The answer that a command had; a refusal when its id was another's; None when it is new."""
        for known, answer in self._given:
            if known.id == command.id:
                if known == command.model_copy(update={"expires": known.expires}):
                    return answer
                reason = f"this id was another command's ({known.op[:100]}): each takes one of its own"
                return answer.model_copy(update={"ok": False, "reason": reason})
        return None

    def keep(self, command: Command | RolloutCommand, answer: A) -> None:
        """Remembers an answer."""
        self._given.append((command, answer))
