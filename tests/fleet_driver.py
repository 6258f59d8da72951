"""A rollout as the coordinator's machine sees it, driven by hand: events in, what was asked and noted out."""

from typing import Any

from protocol.rollouts import UpdateState as U
from trainer.rollout import Step, step
from trainer.rollout_state import (
    Answered,
    Fate,
    Heard,
    Note,
    Plan,
    Rollout,
    Rules,
    Tell,
    Tick,
    Told,
)

SOAK_S, ANSWER_S = 10.0, 100.0
RULES = Rules(soak_s=SOAK_S, answer_s=ANSWER_S)


def rollout(rules: Rules = RULES, **plan: Any) -> Rollout:
    given_plan = {"rollout": "r1", "kind": "classifier", "name": "door", "version": "2", "digest": "d" * 64, "counter": 2, **plan}
    return Rollout(plan=Plan(rules=rules, **given_plan))


class Driver:
    """A rollout, the time, and what has been asked."""

    def __init__(self, cameras: int = 20, rules: Rules = RULES, **plan: Any) -> None:
        self.state = rollout(rules, **plan)
        self.now_s, self.seq = 1000.0, 0
        self.notes: list[Note] = []
        self.names = [f"hall/c{number:03}" for number in range(cameras)]
        for name in self.names:
            self(Heard, name)

    def __call__(self, kind: type, *arguments: Any, **named: Any) -> Step:
        done = step(self.state, kind(self.now_s, *arguments, **named))
        self.state = done.state
        self.notes += [action for action in done.actions if isinstance(action, Note)]
        for tell in [action for action in done.actions if isinstance(action, Tell)]:
            self(Told, tell.camera, tell.attempt, tell.asked)
        return done

    def answer(self, name: str, state: U = U.COMMITTED, **changes: Any) -> None:
        self.seq += 1
        said = {"rollout": "r1", "attempt": self.state.cameras[name].attempt, "digest": "d" * 64, "boot": f"boot-{name}", "seq": self.seq}
        self(Answered, name, state=state, **{**said, **changes})

    def of(self, fate: Fate) -> list[str]:
        return [name for name, own in self.state.cameras.items() if own.fate is fate]

    def wave(self) -> None:
        """The cameras that are asked commit, and the soak passes."""
        for name in self.of(Fate.UPDATING):
            self.answer(name)
        self.now_s += SOAK_S
        self(Tick)
