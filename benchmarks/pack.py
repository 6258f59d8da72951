"""Where the face-mask data pack lies."""

import os
import sys
from pathlib import Path

DATA = Path(os.environ.get("MASKFLEET_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")


def need(*paths: Path) -> None:
    """Ends with one line when one of the paths is not there."""
    for path in paths:
        if not path.exists():
            sys.exit(f"error: {path}: no such file or folder (docs/performance.md says what the data pack is and where it goes)")
