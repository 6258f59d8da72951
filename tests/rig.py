"""A real mosquitto that can be stopped, frozen and started again, and the real data where it lies."""

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("MASKFLEET_DATA") or ROOT.parent / "shared" / "data")
IS_CI = os.environ.get("CI") == "true"
MOSQUITTO = shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")

HEEDS_MODES = (
    "import ctypes, os, sys; [ctypes.CDLL(None).prctl(24, right) for right in (1, 2)]; os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)
"""Runs what follows without root's rights to read and enter all files: those (1, 2) are dropped (24) for good."""


def missing(what: str) -> None:
    """Skips the test, or fails it in CI, where everything must be there."""
    (pytest.fail if IS_CI else pytest.skip)(f"{what} is not here")


def lives(pid: int) -> bool:
    """Whether a process is there that has not ended; one that waits for its parent to ask has no command any more."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False


def wait_until(holds: Callable[[], bool], seconds: float = 10) -> float:
    """Returns after how many seconds something holds; fails when it is not so in time."""
    start = time.monotonic()
    while not holds():
        assert time.monotonic() < start + seconds
        time.sleep(0.01)
    return time.monotonic() - start


def free_port() -> int:
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        return int(own.getsockname()[1])


class Mosquitto:
    """A mosquitto of our own on a free port."""

    def __init__(self, folder: Path, lines: tuple[str, ...] = ("allow_anonymous true",)) -> None:
        self.port = free_port()
        self._config = folder / "mosquitto.conf"
        self._config.write_text("\n".join([f"listener {self.port} 127.0.0.1", f"user {getpass.getuser()}", "max_queued_messages 100000", *lines, ""]))
        self._process: subprocess.Popen[bytes] | None = None

    def retained(self) -> list[str]:
        """Topics that it keeps, and what of each."""
        done = subprocess.run(["mosquitto_sub", "-p", str(self.port), "-t", "#", "-v", "-W", "1"], capture_output=True, text=True, check=False)
        return [line for line in done.stdout.splitlines() if not line.startswith("$SYS")]

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._process = subprocess.Popen([MOSQUITTO, "-c", self._config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(500):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(0.01)
        raise RuntimeError("mosquitto did not start")

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self._process:
            self._process.send_signal(number)
            self._process.send_signal(signal.SIGCONT)
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def running_mosquitto(folder: Path, lines: tuple[str, ...] = ("allow_anonymous true",)) -> Iterator[Mosquitto]:
    """One that runs meanwhile; skips the test where there is none."""
    if MOSQUITTO is None:
        missing("mosquitto")
    broker = Mosquitto(folder, lines)
    broker.start()
    yield broker
    broker.stop()


def shipped_lines(name: str, folder: Path, places: Mapping[str, Path] = MappingProxyType({})) -> tuple[str, ...]:
    """A configuration of compose/ for `Mosquitto`: only the port and the places are the test's."""
    text = (ROOT / "compose" / name).read_text()
    for place, here in {**places, "/mosquitto/data/": f"{folder}/"}.items():
        text = text.replace(place, str(here))
    return tuple(line for line in text.splitlines() if not line.startswith(("listener", "max_queued_messages")))
