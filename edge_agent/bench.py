"""`bench`: how fast this machine sees. The camera's material is played as fast as it goes, on as many threads as are set."""

import platform
import time
from typing import Any

import cv2
import numpy as np

from edge_agent.camera_uri import CameraUri
from edge_agent.load import Eyes, load_pipeline
from edge_agent.pipeline import Seen
from edge_agent.runtime import VERSION as ONNXRUNTIME_VERSION
from edge_agent.scene import Frame
from edge_agent.settings import Settings
from edge_agent.sources import Source, open_source
from edge_agent.vitals import memory_mb
from protocol.errors import DeviceError

WARM_UP = 5


def bench(settings: Settings, eyes: Eyes, frames: int) -> dict[str, Any]:
    """The figures of `frames` frames after a warm-up; recorded material starts again when it ends.

    `fps` is of detection, classification and decision; `fps_end_to_end` also counts getting the frames. Raises
    Rejected or DeviceError when the camera cannot be opened or gives nothing.
    """
    uri = CameraUri.parse(settings.uri)
    pipeline = load_pipeline(settings, eyes)
    try:
        source = open_source(uri, settings.csi_source)
    except DeviceError as error:
        raise DeviceError(f"{uri.text}: {error}") from None
    seen: list[Seen] = []
    start_s = 0.0
    try:
        for number in range(WARM_UP + frames):
            if number == WARM_UP:
                start_s = time.perf_counter()
            image = source.read()
            if image is None:
                source = _again(source, uri, settings.csi_source)
                image = source.read()
                if image is None:
                    raise DeviceError(f"{uri.text}: holds no frame that can be read")
            one = pipeline(Frame(image, number / 30, time.monotonic()))
            if number >= WARM_UP:
                seen.append(one)
        total_s = time.perf_counter() - start_s
    finally:
        source.close()
    ms = np.array([one.detect_ms + one.classify_ms + one.decide_ms for one in seen])
    return {
        "fps": round(1000 / float(ms.mean()), 2),
        "fps_end_to_end": round(frames / total_s, 2),
        "latency_p50_ms": round(float(np.percentile(ms, 50)), 3),
        "latency_p95_ms": round(float(np.percentile(ms, 95)), 3),
        "detect_ms": round(float(np.mean([one.detect_ms for one in seen])), 3),
        "classify_ms": round(float(np.mean([one.classify_ms for one in seen])), 3),
        "decide_ms": round(float(np.mean([one.decide_ms for one in seen])), 3),
        "faces": round(float(np.mean([len(one.readings) for one in seen])), 2),
        "frames": frames,
        "memory_mb": round(memory_mb(), 1),
        "camera": uri.text,
        "camera_got": source.got,
        "detector": eyes.detector.name,
        "classifier": f"{eyes.classifier.name} {eyes.classifier.version}",
        "threads": settings.threads,
        "warm_up": WARM_UP,
        "machine": {
            "processor": platform.machine(),
            "python": platform.python_version(),
            "opencv": cv2.__version__,
            "onnxruntime": ONNXRUNTIME_VERSION,
        },
    }


def _again(source: Source, uri: CameraUri, csi_source: str) -> Source:
    source.close()
    return open_source(uri, csi_source)
