"""Frames of a GStreamer pipeline that runs as a child process.

pip's OpenCV has no GStreamer, and a hung read of a CSI camera can only be ended by killing its process. So the pipeline
is a child in a process group of its own that writes raw frames to a pipe, and ends with its group. The pipe is not its
standard output: plugins print there, as the Jetson's camera does.
"""

import contextlib
import fcntl
import itertools
import os
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
from typing import IO

from edge_agent.buffers import Buffers
from edge_agent.scene import Image
from protocol.errors import DeviceError, Reason, Rejected

LAUNCH, INSPECT = "gst-launch-1.0", "gst-inspect-1.0"
PIPE_BYTES = 1 << 20
"""As large as Linux lets a user's pipe be: fewer turns for a frame."""
START_S = 25.0
"""So long a child may take to its first frame: the first look at a fresh machine builds a registry of all plugins, and the camera's daemon starts."""
SILENT_S = 4.5
"""A child that gave frames and gives none for this long is ended. Later than the camera is called stalled, so that this is said first."""
GAP_S = 1.0
"""After a longer pause the frames that lay in the pipe and the queue are old, and not shown as new."""
LATE_FRAMES = 2.5
"""No pause shorter than so many frames of a slow camera counts: one may be lost, and the next be late."""
FRAMES_UNDER_WAY = 2
SAID_KEPT = 4000
READ_BYTES = 1 << 16
TAIL = (
    "videoconvert ! videoscale ! video/x-raw,format=BGR,width={width},height={height}"
    " ! queue leaky=downstream max-size-buffers=1 max-size-bytes=0 max-size-time=0 ! fdsink fd={pipe} sync=false"
)
"""What follows the camera's part. Leaky: when nobody reads, the newest frame wins."""
ENDS_WITH_US = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execvp(sys.argv[1], sys.argv[1:])"
"""Runs what follows, killed (9) when the thread that started it dies (1): a silent pipeline would not notice, and would keep the sensor."""
PACKAGES = "Debian: apt-get install gstreamer1.0-tools gstreamer1.0-plugins-base gstreamer1.0-plugins-good"


class GStreamerSource:
    """`source` (the pipeline up to its raw video), scaled and converted to BGR frames of the size asked for."""

    media_s = None

    def __init__(self, source: str, width: int, height: int, fps: int) -> None:
        """Starts the child; raises Rejected when `source` is no command line, DeviceError when there is no GStreamer.

        `width` is a multiple of 4.
        """
        self.got = f"{width}x{height} at {fps} fps"
        self.frame_s = 1 / fps
        self._buffers, self._shape = Buffers(), (height, width, 3)
        self._said = b""
        self._last_s: float | None = None
        try:
            words = shlex.split(source)
        except ValueError as error:
            raise Rejected(Reason.BAD_SETTING, f"csi_source: {error}") from None
        if shutil.which(LAUNCH) is None:
            raise DeviceError(f"{LAUNCH} is not installed ({PACKAGES})")
        try:
            self._child, self._frames = _launch(words, width, height)
        except OSError as error:
            raise DeviceError(f"{LAUNCH}: {error.strerror}") from None
        assert self._child.stdout is not None
        self._out, self._texts = self._frames.fileno(), self._child.stdout.fileno()
        _widen(self._out)
        os.set_blocking(self._out, False)
        os.set_blocking(self._texts, False)

    def read(self) -> Image:
        """The next frame; raises DeviceError when the child falls silent or ends."""
        image = self._read()
        now_s = time.monotonic()
        if self._last_s is not None and now_s - self._last_s > max(GAP_S, LATE_FRAMES * self.frame_s):
            for _ in range(FRAMES_UNDER_WAY):
                image = self._read()
        self._last_s = time.monotonic()
        return image

    def end(self) -> None:
        """Ends the child and all that it started, also when it is stopped or hung: a read ends with them."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGKILL)

    def close(self) -> None:
        self.end()
        self._child.wait()
        self._frames.close()
        if self._child.stdout is not None:
            self._child.stdout.close()

    def _read(self) -> Image:
        image = self._buffers.take(self._shape)
        rest = image.data.cast("B")
        poll = select.poll()
        poll.register(self._out, select.POLLIN)
        poll.register(self._texts, select.POLLIN)
        limit_s = START_S if self._last_s is None else SILENT_S
        deadline_s = time.monotonic() + limit_s
        while rest:
            ready = dict(poll.poll(max(0.0, deadline_s - time.monotonic()) * 1000))
            if self._texts in ready and not self._listen():
                poll.unregister(self._texts)
            if self._out in ready:
                count = os.readv(self._out, [rest])
                if count == 0:
                    raise DeviceError(f"the pipeline ended{self._reason()}")
                rest = rest[count:]
            elif time.monotonic() >= deadline_s:
                raise DeviceError(f"no frame for {limit_s:g} s{self._reason()}")
        return image

    def _listen(self) -> bool:
        """Takes what the child says, so that it never waits for us; False at the end."""
        said = os.read(self._texts, READ_BYTES)
        self._said = (self._said + said)[-SAID_KEPT:]
        return bool(said)

    def _reason(self) -> str:
        """The first error that GStreamer or a plugin told, in one line."""
        lines = [line.strip() for line in self._said.decode(errors="replace").splitlines() if line.strip()]
        errors = [line for line in lines if "error" in line.lower() or "warning" in line.lower()] or lines
        return f": {errors[0][:200]}" if errors else ""


def _launch(source: list[str], width: int, height: int) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    """The child, whose `stdout` is all that it says, and the pipe that its frames come out of; raises OSError."""
    out, into = os.pipe()
    frames = os.fdopen(out, "rb", buffering=0)
    try:
        child = subprocess.Popen(
            [sys.executable, "-ISc", ENDS_WITH_US, LAUNCH, "-q", *source, "!", *TAIL.format(width=width, height=height, pipe=into).split()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=[into],
            start_new_session=True,
        )
    except BaseException:
        frames.close()
        raise
    finally:
        os.close(into)  # the child's own is the only one: when it ends, so do the frames
    return child, frames


def _widen(pipe: int) -> None:
    with contextlib.suppress(OSError):  # more than this user may have; the usual size works as well
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


def _first_words(pipeline: str) -> list[str]:
    """The first word of each part between two `!`, of which those in quotes are none."""
    lexer = shlex.shlex(pipeline, posix=True, punctuation_chars="!")
    lexer.whitespace_split, lexer.commenters = True, ""
    try:
        words = ["!", *lexer]
    except ValueError as error:
        raise Rejected(Reason.BAD_SETTING, f"csi_source: {error}") from None
    return [word for before, word in itertools.pairwise(words) if before == "!" != word]


def missing_elements(source: str) -> list[str]:
    """The elements of the whole pipeline behind `source` that are not installed here; raises DeviceError when GStreamer itself is not.

    Raises Rejected when `source` is no command line.
    """
    names = [name for name in _first_words(f"{source} ! {TAIL}") if "/" not in name]  # what holds a slash is a media type
    try:
        return [name for name in dict.fromkeys(names) if subprocess.run([INSPECT, "--exists", name], check=False, timeout=START_S).returncode]
    except FileNotFoundError:
        raise DeviceError(f"{INSPECT} is not installed ({PACKAGES})") from None
    except subprocess.TimeoutExpired:
        raise DeviceError(f"{INSPECT} does not answer in {START_S:g} s") from None
