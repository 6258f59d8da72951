"""What a frame costs on its way from a camera that gives NV12 to the detector's picture and one face, by what goes over the pipe.

usage: python benchmarks/pipe_format.py [--frames 100] [--rounds 3]

In turns: GStreamer converts to BGR; NV12 over the pipe, in the colour standard that OpenCV can read (BT.601) or as it comes, and the whole
picture converted here; NV12, and only what is looked at converted here. Milliseconds of processor time a frame, without any
network. Prints one JSON document.
"""

import argparse
import json
import os
import resource
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_agent.demo_scene import DemoScene
from edge_agent.yunet import Canvas

WIDTH, HEIGHT, SMALL = 1280, 720, (640, 360)
FACE = (600, 200, 240)
"""Left, top and side of the face that is cut out: even numbers, for NV12 keeps one colour for four pixels."""
Bytes = NDArray[np.uint8]
CANVAS = Canvas(HEIGHT, WIDTH, SMALL[0])


def from_bgr(frame: Bytes) -> None:
    """As the agent does it."""
    image = frame.reshape(HEIGHT, WIDTH, 3)
    CANVAS.draw(image)
    left, top, side = FACE
    cv2.resize(image[top : top + side, left : left + side], (128, 128), interpolation=cv2.INTER_AREA)


def from_nv12_whole(frame: Bytes) -> None:
    """The whole picture becomes BGR first."""
    from_bgr(cv2.cvtColor(frame.reshape(HEIGHT * 3 // 2, WIDTH), cv2.COLOR_YUV2BGR_NV12))


def from_nv12_parts(frame: Bytes) -> None:
    """The planes are shrunk and cut, and only then become BGR."""
    planes = frame.reshape(HEIGHT * 3 // 2, WIDTH)
    luma, colour = planes[:HEIGHT], planes[HEIGHT:].reshape(HEIGHT // 2, WIDTH // 2, 2)
    small = [cv2.resize(plane, size) for plane, size in ((luma, SMALL), (colour, (SMALL[0] // 2, SMALL[1] // 2)))]
    image = cv2.cvtColorTwoPlane(small[0], small[1], cv2.COLOR_YUV2BGR_NV12)
    for shown, plane in zip(CANVAS.blob_1CHW[0, :, : SMALL[1]], cv2.split(image), strict=True):
        np.copyto(shown, plane)
    left, top, side = FACE
    half = (slice(top // 2, (top + side) // 2), slice(left // 2, (left + side) // 2))
    face = cv2.cvtColorTwoPlane(
        np.ascontiguousarray(luma[top : top + side, left : left + side]), np.ascontiguousarray(colour[half]), cv2.COLOR_YUV2BGR_NV12
    )
    cv2.resize(face, (128, 128), interpolation=cv2.INTER_AREA)


WAYS: dict[str, tuple[str, int, Callable[[Bytes], None]]] = {
    "BGR": ("BGR", WIDTH * HEIGHT * 3, from_bgr),
    "NV12 in BT.601, whole picture": ("NV12,colorimetry=bt601", WIDTH * HEIGHT * 3 // 2, from_nv12_whole),
    "NV12, whole picture": ("NV12", WIDTH * HEIGHT * 3 // 2, from_nv12_whole),
    "NV12, parts": ("NV12", WIDTH * HEIGHT * 3 // 2, from_nv12_parts),
}


def cost(source: Path, way: str, frames: int) -> dict[str, float]:
    """Milliseconds a frame: of the child's and of this process's processor time, and of the clock."""
    form, size, work = WAYS[way]
    pipeline = (
        f"multifilesrc location={source} loop=true num-buffers={frames} ! rawvideoparse format=nv12 width={WIDTH} height={HEIGHT}"
        f" ! videoconvert ! video/x-raw,format={form} ! fdsink fd=1 sync=false"
    )
    frame = np.empty(size, np.uint8)
    start, own, children = time.perf_counter(), time.process_time(), resource.getrusage(resource.RUSAGE_CHILDREN)
    with subprocess.Popen(["gst-launch-1.0", "-q", *shlex.split(pipeline)], stdout=subprocess.PIPE, bufsize=0) as child:  # noqa: S607
        assert child.stdout is not None
        for _ in range(frames):
            rest = frame.data.cast("B")
            while rest:
                count = os.readv(child.stdout.fileno(), [rest])
                if not count:
                    raise SystemExit("the pipeline ended early; are GStreamer's base and good plugins installed?")
                rest = rest[count:]
            work(frame)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = {
        "child": after.ru_utime + after.ru_stime - children.ru_utime - children.ru_stime,
        "here": time.process_time() - own,
        "clock": time.perf_counter() - start,
    }
    return {name: seconds * 1000 / frames for name, seconds in spent.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "frame.nv12"
        i420 = cv2.cvtColor(cv2.resize(DemoScene().at(3.0), (WIDTH, HEIGHT)), cv2.COLOR_BGR2YUV_I420)
        colour = i420[HEIGHT:].reshape(2, -1).T  # U and V in turns
        source.write_bytes(i420[:HEIGHT].tobytes() + np.ascontiguousarray(colour).tobytes())
        runs = [{way: cost(source, way, arguments.frames) for way in WAYS} for _ in range(arguments.rounds)]
    print(json.dumps({way: {name: round(float(np.median([run[way][name] for run in runs])), 2) for name in runs[0][way]} for way in WAYS}, indent=1))


if __name__ == "__main__":
    main()
