"""How often in a row the agent has gone down while an installed model saw: one that takes the whole process along leaves no other trace."""

import contextlib
import time
from pathlib import Path

FILE = "crashes"
MAX_CRASHES = 3
"""So many are the model's fault: fewer can be power cuts."""
SAFE_S = 60.0
"""A model that has seen for so long does not take the agent down at each start."""


class Crashes:
    """A count on disk: one more from an installed model's first frame on, none once it has seen for long, or the agent is stopped.

    It is not synced: a power cut in the first seconds leaves no trace, and is no crash.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._since_s: float | None = None
        self._is_over = False

    def count(self) -> int:
        """So often in a row, up to now."""
        try:
            return int(self._path.read_text())
        except (OSError, ValueError):
            return 0

    def sees(self) -> None:
        """An installed model is about to see a frame. To be called from one thread."""
        now_s = time.monotonic()
        if self._since_s is None:
            self._since_s = now_s
            with contextlib.suppress(OSError):  # a full disk must not end the camera
                self._path.write_text(f"{self.count() + 1}\n")
        elif not self._is_over and now_s - self._since_s > SAFE_S:
            self._is_over = True
            self.forget()

    def forget(self) -> None:
        """Nothing went wrong, or what did is answered."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
