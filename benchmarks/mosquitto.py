"""A mosquitto of a benchmark's own."""

import getpass
import os
import shutil
import socket
import sys
from pathlib import Path

PERSISTENT = ("persistence true", "autosave_interval 1")
"""It keeps what it acknowledged for at most a second in memory."""


def free_port() -> int:
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        return int(own.getsockname()[1])


def command(folder: Path, port: int, *lines: str) -> list[str]:
    """What starts one with its files in a folder; ends the benchmark with one line where none is installed."""
    program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if program is None:
        sys.exit("error: mosquitto is not installed (apt-get install mosquitto)")
    basic = (f"listener {port} 127.0.0.1", "allow_anonymous true", "max_queued_messages 100000", f"user {getpass.getuser()}")
    config = folder / "mosquitto.conf"
    config.write_text("\n".join([*basic, f"persistence_location {folder}/", *lines, ""]))
    return [program, "-c", str(config)]
