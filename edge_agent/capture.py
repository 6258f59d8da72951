"""A camera in a thread of its own: the newest frame is there to be taken, what was dropped is counted, silence is said."""

import logging
import random
import threading
import time
from dataclasses import dataclass, replace
from typing import Literal

from edge_agent.camera_uri import CameraUri
from edge_agent.gstreamer import LATE_FRAMES
from edge_agent.scene import Frame, Image
from edge_agent.sources import NVARGUS, Source, open_source, opener
from protocol.errors import DeviceError, Reason, Rejected

log = logging.getLogger(__name__)

STALLED_S = 3.0
HUNG_S = 6.0
"""A read that takes longer than this is left behind; sources that have a time-out of their own are quicker."""
LOST_S = 60.0
"""When the reader after one that was left behind hangs for so long, too, only a new start of the agent helps."""
FIRST_S = 30.0
"""So long opening and the first frame may take together: longer than any source's own time-outs for both."""
OPEN_S = 10.0
"""So long an agent that starts waits for its camera to open; what opens later is seen all the same."""
FAILED_AFTER = 2
"""So many attempts in a row without a frame, and `restarting` becomes `failed`; it goes on trying."""
RESTART_CAP_S = 8.0
LONGEST_PAUSE_S = 10.0
"""A longer gap between two frames of a recording, as where nothing moved, is not sat out; decisions count it in full."""


@dataclass(frozen=True)
class CaptureState:
    """How the camera is, at one moment."""

    capture: Literal["ok", "stalled", "restarting", "failed"]
    reason: str
    got: str
    last_frame_s: float | None
    """On the monotonic clock; None before the first frame."""
    restarts: int
    frames: int
    dropped: int
    has_ended: bool
    """Recorded material is over."""


class Newest:
    """Hands over one frame: a newer one replaces it, and the one replaced counts as dropped."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._frame: Frame | None = None
        self._is_closed = False
        self.dropped = 0

    def put(self, frame: Frame, waits: bool = False) -> None:
        """Offers a frame; with `waits` it waits until the last one was taken, and drops none."""
        with self._condition:
            while waits and self._frame is not None and not self._is_closed:
                self._condition.wait()
            if self._frame is not None:
                self.dropped += 1
            self._frame = frame
            self._condition.notify_all()

    def take(self, timeout_s: float) -> Frame | None:
        """The newest frame that was not taken yet; None when there is none in time, or no more."""
        with self._condition:
            self._condition.wait_for(lambda: self._frame is not None or self._is_closed, timeout_s)
            frame, self._frame = self._frame, None
            self._condition.notify_all()
            return frame

    def close(self) -> None:
        """Wakes whoever waits."""
        with self._condition:
            self._is_closed = True
            self._condition.notify_all()


class Camera:
    """Keeps a camera open and its newest frame at hand."""

    def __init__(self, uri: str, csi_source: str = NVARGUS) -> None:
        """Raises Rejected when the URI is wrong, or what it names cannot exist."""
        self.uri = CameraUri.parse(uri)
        opener(self.uri, csi_source)
        self._csi_source = csi_source
        self._loops = self.uri.flag("loop")
        self._has_max_pace = self.uri.options.get("pace", "real") == "max"
        self._newest = Newest()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._state = CaptureState("restarting", "opening", "", None, 0, 0, 0, has_ended=False)
        self._attempt_s: float | None = time.monotonic()
        """When the camera was last opened, or recorded material's next frame was due; None while it waits for that."""
        self._late_s = 0.0
        """So late a live camera's frame may be at its own rate; 0 before that is known."""
        self._media_s = 0.0
        """When the next frame of recorded material is at the earliest: its clock goes on when it is opened again."""
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        """Ends the pause of the thread before it tries again; each thread has its own."""
        self._left_behind: threading.Thread | None = None
        self._left_s = 0.0
        self._hung_since_s: float | None = None
        """Of the last hang that was warned of."""
        self._open: set[Source] = set()
        """With `_lock`: what is being read, also by those left behind."""
        self._was_tried = threading.Event()
        self._refusal: Rejected | None = None

    def start(self) -> None:
        """Opens the camera in the background, and waits a little for that. Raises Rejected when what was asked for cannot exist."""
        self._start_thread()
        self._was_tried.wait(OPEN_S)
        self._was_tried.set()
        if self._refusal is not None:
            raise self._refusal

    def stop(self) -> None:
        """Ends the thread; a read that hangs and cannot be ended is left behind with it."""
        self._stop.set()
        self._was_tried.set()
        self._newest.close()
        with self._lock:
            thread = self._thread
            self._wake.set()
            for source in self._open:
                source.end()
        if thread is not None:
            thread.join(timeout=2)

    def take(self, timeout_s: float) -> Frame | None:
        """The newest frame; None when there is none in time."""
        return self._newest.take(timeout_s)

    @property
    def is_over(self) -> bool:
        """Whether no frame will come any more: stopped, or recorded material at its end."""
        return self._stop.is_set() or self._state.has_ended

    def state(self) -> CaptureState:
        """How the camera is now."""
        with self._lock:
            state = replace(self._state, dropped=self._newest.dropped)
        since_s = self._silent_since_s(state)
        silent_s = 0.0 if since_s is None else time.monotonic() - since_s
        if state.capture in ("ok", "restarting") and silent_s > max(STALLED_S, self._late_s) and not state.has_ended:
            return replace(state, capture="stalled", reason=f"no frame for {silent_s:.0f} s")
        return state

    def watch(self) -> None:
        """To be called now and then: an opening or a read that hangs for too long is left behind, and the camera opened anew.

        Only a source that cannot end its own read comes to this: OpenCV's readers of USB cameras. Raises DeviceError when the
        one after it has hung for long, too: threads that hang end with the agent alone.
        """
        state = self.state()
        has_begun = (state.last_frame_s or 0.0) > (self._attempt_s or 0.0)
        limit_s = max(HUNG_S, self._late_s) if has_begun else FIRST_S
        since_s = self._silent_since_s(state)
        if since_s is None or state.capture not in ("stalled", "failed") or state.has_ended or self.uri.is_recorded:
            return
        silent_s = time.monotonic() - since_s
        if silent_s <= limit_s:
            return
        if since_s != self._hung_since_s:
            log.warning("camera %s: its read hangs", self.uri.text)
            self._hung_since_s = since_s
        try:
            self.restart("its read hung")
        except Rejected as error:
            if silent_s > LOST_S:
                raise DeviceError(f"camera {self.uri.text}: two readers hang, the second for {silent_s:.0f} s; only a new start ends them") from None
            self._set(capture="failed", reason=str(error))

    def restart(self, reason: str) -> None:
        """Opens a live camera anew; its old reader is ended, or left behind where it hangs.

        Raises Rejected for recorded material, and while the reader before the old one has not ended yet.
        """
        if self.uri.is_recorded:
            raise Rejected(Reason.BAD_INPUT, f"{self.uri.text}: recorded material is not opened anew")
        if self._left_behind is not None and self._left_behind.is_alive():
            is_new = time.monotonic() - self._left_s < HUNG_S
            why = "the camera is being opened anew already" if is_new else "an earlier reader of the camera still hangs; restart the agent"
            raise Rejected(Reason.BAD_INPUT, why)
        self._left_behind, self._left_s = self._thread, time.monotonic()
        with self._lock:
            self._state = replace(self._state, capture="restarting", reason=reason, restarts=self._state.restarts + 1)
        self._start_thread()

    def _silent_since_s(self, state: CaptureState) -> float | None:
        """When the camera last gave a frame or should have begun to; None while it waits to be opened again, or for the material's pace."""
        attempt_s = self._attempt_s
        return None if attempt_s is None else max(attempt_s, state.last_frame_s or 0.0)

    def _start_thread(self) -> None:
        self._attempt_s = time.monotonic()
        with self._lock:  # who stops it finds none, or one that has begun
            before, self._wake = self._wake, threading.Event()
            self._thread = threading.Thread(target=self._run, args=(self._wake,), name="capture", daemon=True)
            before.set()
            for source in self._open:  # of those left behind: one that holds the camera would be in the new one's way
                source.end()
            self._thread.start()

    @property
    def _is_ours(self) -> bool:
        """Whether the calling thread still has the say: false when stopped, and for one that hung and was left behind."""
        return threading.current_thread() is self._thread and not self._stop.is_set()

    def _set(self, **changes: object) -> None:
        with self._lock:
            self._state = replace(self._state, **changes)  # type: ignore[arg-type]

    def _run(self, wake: threading.Event) -> None:
        """Reads until stopped or the material ends; opens the camera again, with back-off, when it fails."""
        attempt = 0
        source: Source | None = None
        while self._is_ours:
            frames_before = self._state.frames
            self._attempt_s = time.monotonic()
            try:
                source = open_source(self.uri, self._csi_source)
                with self._lock:
                    self._open.add(source)
                if self._is_ours:
                    self._late_s = 0.0 if self.uri.is_recorded else LATE_FRAMES * source.frame_s
                    self._set(got=source.got)
                self._was_tried.set()
                self._read(source)
            except Exception as error:  # whatever a reader died of, the camera is opened again
                if not self._is_ours:
                    break
                self._set(reason=str(error) or type(error).__name__)
                if isinstance(error, Rejected) and not self._was_tried.is_set():
                    self._refusal = error
                    break
                if self.uri.is_recorded and not (self._loops and self._state.frames):  # what is broken stays broken; what has looped may again
                    self._set(capture="failed")
                    break
                log.log(logging.DEBUG if attempt else logging.WARNING, "camera %s: %s; trying again", self.uri.text, error)
            else:
                break
            finally:
                self._was_tried.set()
                if source is not None:
                    with self._lock:  # what is closed must not be ended any more
                        self._open.discard(source)
                    source.close()
                source = None
            attempt = 0 if self._state.frames > frames_before else attempt + 1
            self._attempt_s = None
            self._set(capture="failed" if attempt >= FAILED_AFTER else "restarting", restarts=self._state.restarts + 1)
            wake.wait(random.uniform(0.5, 1) * min(RESTART_CAP_S, 0.5 * 2.0 ** min(attempt, 8)))
        if threading.current_thread() is self._thread:
            self._set(has_ended=True)
            self._newest.close()

    def _read(self, source: Source) -> None:
        """Hands frames over until stopped or the material ends; raises DeviceError when the camera fails."""
        due_s, media_s, from_s, has_begun = time.monotonic(), 0.0, self._media_s, False
        while self._is_ours:
            image = source.read()
            if image is None and not has_begun:
                raise DeviceError("holds no frame that can be read")
            has_begun = True
            if source.media_s is not None and not self._has_max_pace:
                step_s = source.frame_s if image is None else source.media_s - media_s  # the last frame is shown as long as any
                due_s += min(step_s, max(LONGEST_PAUSE_S, source.frame_s))
                media_s = source.media_s
                self._attempt_s = None
                self._stop.wait(max(0.0, due_s - time.monotonic()))
                self._attempt_s = time.monotonic()
            if image is None or not self._is_ours:
                return
            now_s = time.monotonic()
            time_s = now_s if source.media_s is None else from_s + source.media_s
            self._media_s = time_s + source.frame_s
            self._offer(image, time_s, now_s)
            del image  # megabytes: whoever takes the frame has it now

    def _offer(self, image: Image, time_s: float, now_s: float) -> None:
        with self._lock:
            was = self._state.capture
            self._state = replace(self._state, capture="ok", reason="", last_frame_s=now_s, frames=self._state.frames + 1)
        if was != "ok":
            log.info("camera %s: %s", self.uri.text, self._state.got)
        self._newest.put(Frame(image, time_s, now_s), waits=self._has_max_pace)
