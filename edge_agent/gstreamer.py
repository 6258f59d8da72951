"""Frames of a GStreamer pipeline that runs as a child process.

pip's OpenCV has no GStreamer, and a hung read of a CSI camera can only be ended by killing its process. So the pipeline
is a child in a process group of its own that writes raw frames to a pipe, and ends with its group.
"""

import contextlib
import fcntl
import itertools
import os
import select
import shlex
import signal
import subprocess
import time

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
STDERR_KEPT = 2000
READ_BYTES = 1 << 16
TAIL = (
    "videoconvert ! videoscale ! video/x-raw,format=BGR,width={width},height={height}"
    " ! queue leaky=downstream max-size-buffers=1 max-size-bytes=0 max-size-time=0 ! fdsink fd=1 sync=false"
)
"""What follows the camera's part. Leaky: when nobody reads, the newest frame wins."""
PACKAGES = "Debian: apt-get install gstreamer1.0-tools gstreamer1.0-plugins-base gstreamer1.0-plugins-good"


class GStreamerSource:
    """`source` (the pipeline up to its raw video), scaled and converted to BGR frames of the size asked for."""

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
            pipeline = shlex.split(f"{source} ! {TAIL.format(width=width, height=height)}")
        except ValueError as error:
            raise Rejected(Reason.BAD_SETTING, f"csi_source: {error}") from None
        try:
            self._child = subprocess.Popen(
                [LAUNCH, "-q", *pipeline],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except FileNotFoundError:
            raise DeviceError(f"{LAUNCH} is not installed ({PACKAGES})") from None
        except OSError as error:
            raise DeviceError(f"{LAUNCH}: {error.strerror}") from None
        assert self._child.stdout is not None
        assert self._child.stderr is not None
        self._out, self._err = self._child.stdout.fileno(), self._child.stderr.fileno()
        _widen(self._out)
        os.set_blocking(self._out, False)
        os.set_blocking(self._err, False)

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
        for pipe in (self._child.stdout, self._child.stderr):
            if pipe is not None:
                pipe.close()

    def _read(self) -> Image:
        image = self._buffers.take(self._shape)
        rest = image.data.cast("B")
        poll = select.poll()
        poll.register(self._out, select.POLLIN)
        poll.register(self._err, select.POLLIN)
        limit_s = START_S if self._last_s is None else SILENT_S
        deadline_s = time.monotonic() + limit_s
        while rest:
            ready = dict(poll.poll(max(0.0, deadline_s - time.monotonic()) * 1000))
            if self._err in ready and not self._listen():
                poll.unregister(self._err)
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
        said = os.read(self._err, READ_BYTES)
        self._said = (self._said + said)[-STDERR_KEPT:]
        return bool(said)

    def _reason(self) -> str:
        """The first error that GStreamer told, in one line."""
        lines = [line.strip() for line in self._said.decode(errors="replace").splitlines() if line.strip()]
        errors = [line for line in lines if "ERROR" in line or "WARNING" in line] or lines
        return f": {errors[0][:200]}" if errors else ""


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
