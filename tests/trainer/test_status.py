"""The operator's view of rollouts."""

import pytest
from rich.console import Console

from trainer import status


@pytest.mark.parametrize("text", ["see [/ops/12]", "open[/dev/video0] failed", "lost [link] today", "[red]"])
def test_what_others_wrote_is_shown_as_it_is(text: str) -> None:
    one = {"rollout": "r-1", "name": text, "version": "1", "phase": "paused", "wave": 1, "waves": 4, "reason": text}
    document = {"coordinator": "online", "rollouts": [one | dict.fromkeys(status.COUNTS, 0)]}
    console = Console(width=400, record=True, quiet=False)
    with console.capture() as shown:
        console.print(status.table(document, [text]))
    assert shown.get().count(text) == 3
