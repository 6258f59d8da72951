"""Where pictures come from, one at a time: what each kind of camera URI opens."""

import contextlib
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from edge_agent.buffers import Buffers
from edge_agent.camera_uri import CameraUri
from edge_agent.demo_scene import FPS, HEIGHT, WIDTH, DemoScene
from edge_agent.files import pictures_in, read_picture
from edge_agent.gstreamer import GStreamerSource
from edge_agent.scene import Image
from protocol.errors import DeviceError, Reason, Rejected, printable

NETWORK_TIMEOUT_MS = 5000


class Source(Protocol):
    """An open camera."""

    got: str
    """What it gives, such as `1280x720 at 30 fps`."""
    frame_s: float
    """Seconds between two pictures, as far as that is known: live cameras and many videos set a pace of their own."""

    @property
    def media_s(self) -> float | None:
        """When the picture read last is on the clock of recorded material, which begins with 0 and never goes back; None for a live camera."""

    def read(self) -> Image | None:
        """The next picture; None at the end of the material. Raises DeviceError when the camera fails."""

    def end(self) -> None:
        """To be called from any thread before `close`: ends a read that waits, where that can be done."""

    def close(self) -> None:
        """Lets the camera go."""


NVARGUS = (
    "nvarguscamerasrc sensor-id={sensor} sensor-mode={sensor_mode}"
    " ! video/x-raw(memory:NVMM),width={width},height={height},framerate={fps}/1,format=NV12"
    " ! nvvidconv flip-method={flip} ! video/x-raw,format=BGRx"
)
"""The Jetson's camera, up to raw video."""


def open_source(uri: CameraUri, csi_source: str = NVARGUS) -> Source:
    """Opens a camera. Raises Rejected when what was asked for cannot exist, DeviceError when it may come back.

    `csi_source` is the GStreamer pipeline behind `csi://`, up to raw video.
    """
    return opener(uri, csi_source)()


def opener(uri: CameraUri, csi_source: str = NVARGUS) -> Callable[[], Source]:
    """How to open a camera, once what was asked for is looked at; raises Rejected when that cannot exist."""
    return _OPENERS[uri.scheme](uri, csi_source)


class VideoSource:
    """Anything that OpenCV reads by itself: video files, USB cameras, RTSP streams."""

    def __init__(self, place: str, backend: int, params: list[int], is_recorded: bool, loops: bool = False) -> None:
        self._is_recorded = is_recorded
        self._loops = loops
        # One decoding thread: each further one would hold back a frame, and its memory.
        self._how = (place, backend, [*params, cv2.CAP_PROP_N_THREADS, 1] if backend == cv2.CAP_FFMPEG else params)
        self._capture = cv2.VideoCapture(*self._how)
        if not self._capture.isOpened():
            raise DeviceError("cannot be opened")
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        fps = fps if 0 < fps < 1000 else 25.0
        width, height = (int(self._capture.get(side)) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        self._buffers, self._shape = Buffers(), (height, width, 3)
        self.got = f"{width}x{height} at {fps:g} fps"
        self.frames = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        """As many as the file says, or seems, to hold."""
        self.frame_s = 1 / fps
        self.media_s: float | None = None
        self._place_s = -self.frame_s
        """Where the picture read last is in the file."""

    def read(self) -> Image | None:
        buffer = self._buffers.take(self._shape)
        ok, image = self._capture.read(buffer)
        if not ok and self._loops:
            self._capture.open(*self._how)  # not every file can be wound back
            self._place_s = -self.frame_s
            ok, image = self._capture.read(buffer)
        if not ok:
            if self._is_recorded and not self._loops:
                return None
            raise DeviceError("gives no more frames")
        if self._is_recorded:
            self._go_on()
        return image.astype(np.uint8, copy=False)

    def _go_on(self) -> None:
        """Sets the clock to the picture just read: one `frame_s` later where the file tells no time of it, or a past one."""
        step_s = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000 - self._place_s
        step_s = step_s if step_s > 0 else self.frame_s
        self._place_s += step_s
        self.media_s = 0.0 if self.media_s is None else self.media_s + step_s

    def end(self) -> None:
        pass  # OpenCV has no way; its reads of a network have a time-out

    def close(self) -> None:
        self._capture.release()


class ImagesSource:
    """The pictures of a folder, in the order of their names; files that are no pictures are passed over."""

    def __init__(self, paths: list[Path], fps: float, loops: bool) -> None:
        self._paths = paths
        self._next = 0
        self._loops = loops
        self.got = f"{len(self._paths)} pictures at {fps:g} fps"
        self.frame_s = 1 / fps
        self.media_s: float | None = None

    def read(self) -> Image | None:
        for _ in range(len(self._paths)):
            if self._next >= len(self._paths):
                if not self._loops:
                    return None
                self._next = 0
            self._next += 1
            with contextlib.suppress(Rejected):
                image = read_picture(self._paths[self._next - 1])
                if image is not None:
                    self.media_s = 0.0 if self.media_s is None else self.media_s + self.frame_s
                    return image
        if self._loops:
            raise DeviceError("holds no picture that can be read")
        return None

    def end(self) -> None:
        pass

    def close(self) -> None:
        pass


class DemoSource:
    """The scene that the package brings along, as a live camera at 15 frames per second."""

    media_s = None

    def __init__(self) -> None:
        self._scene = DemoScene()
        self._start_s = time.monotonic()
        self._next = 0
        self.got = f"{WIDTH}x{HEIGHT} at {FPS:g} fps"
        self.frame_s = 1 / FPS

    def read(self) -> Image | None:
        due_s = self._start_s + self._next / FPS
        time.sleep(max(0.0, due_s - time.monotonic()))
        self._next += 1
        return self._scene.at(due_s - self._start_s)

    def end(self) -> None:
        pass

    def close(self) -> None:
        pass


def open_video(path: Path) -> VideoSource:
    """A video file; raises Rejected when there is none, DeviceError when it cannot be decoded."""
    return _video_opener(path, loops=False)()


def _video_opener(path: Path, loops: bool) -> Callable[[], VideoSource]:
    if not path.is_file():
        raise Rejected(Reason.BAD_SETTING, f"{path}: no such file")
    # Absolute: FFmpeg takes what stands before a colon for a protocol.
    place = _for_opencv(str(path.absolute()), str(path))
    return lambda: VideoSource(place, cv2.CAP_FFMPEG, [], is_recorded=True, loops=loops)


def _for_opencv(place: str, shown: str) -> str:
    """The place; raises Rejected for one that OpenCV would crash on."""
    if printable(place) != place:
        raise Rejected(Reason.BAD_INPUT, f"{shown}: the name must be UTF-8")
    return place


def _images_opener(uri: CameraUri) -> Callable[[], Source]:
    fps, loops = uri.number("fps", 5), uri.flag("loop")
    paths = pictures_in(Path(uri.place))
    return lambda: ImagesSource(paths, fps, loops)


def _csi_opener(uri: CameraUri, pipeline: str) -> Callable[[], Source]:
    width, height, fps = uri.whole("width", 1280), uri.whole("height", 720), uri.whole("fps", 30)
    chosen = {"sensor": uri.place or "0", "flip": uri.options.get("flip", "0"), "sensor_mode": uri.options.get("sensor_mode", "-1")}
    for name, value in chosen.items():
        if not re.fullmatch(r"-?\d{1,2}", value):
            raise Rejected(Reason.BAD_SETTING, f"camera option {name}={value!r}: expected a small number")
    try:
        source = pipeline.format(width=width, height=height, fps=fps, **chosen)
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise Rejected(Reason.BAD_SETTING, f"csi_source: no such placeholder ({error})") from None
    if int(chosen["flip"]) % 2 == 1:  # a quarter turn
        width, height = height, width
    if width % 4:
        raise Rejected(Reason.BAD_SETTING, f"the picture is {width} wide: expected a multiple of 4")
    return lambda: GStreamerSource(source, width, height, fps)


def _usb_opener(uri: CameraUri) -> Callable[[], Source]:
    params = [cv2.CAP_PROP_FRAME_WIDTH, uri.whole("width", 1280), cv2.CAP_PROP_FRAME_HEIGHT, uri.whole("height", 720)]
    params += [cv2.CAP_PROP_FPS, uri.whole("fps", 30), cv2.CAP_PROP_BUFFERSIZE, 1]
    place = _for_opencv(uri.place, uri.text)

    def open_usb() -> Source:
        if not os.path.exists(place):
            raise DeviceError(f"{place} does not exist; is the camera plugged in?")
        return VideoSource(place, cv2.CAP_V4L2, params, is_recorded=False)

    return open_usb


def _rtsp_opener(uri: CameraUri) -> Callable[[], Source]:
    params = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, NETWORK_TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, NETWORK_TIMEOUT_MS]
    place = _for_opencv(uri.place, uri.text)
    return lambda: VideoSource(place, cv2.CAP_FFMPEG, params, is_recorded=False)


_OPENERS: dict[str, Callable[[CameraUri, str], Callable[[], Source]]] = {
    "file": lambda uri, _: _video_opener(Path(uri.place), uri.flag("loop")),
    "images": lambda uri, _: _images_opener(uri),
    "csi": _csi_opener,
    "v4l2": lambda uri, _: _usb_opener(uri),
    "rtsp": lambda uri, _: _rtsp_opener(uri),
    "demo": lambda _uri, _: DemoSource,
}
