"""Runs an exported model where it may be run: ONNX Runtime (as the camera does) and OpenCV. The trainer's only door to both."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from protocol.errors import DeviceError

Images = NDArray[np.uint8]
Probabilities = NDArray[np.float32]
Run = Callable[[Images], Probabilities]


def onnx_runtime(model: Path) -> Run:
    """RGB bytes [N, H, W, 3] -> probabilities [N, 2], by ONNX Runtime with one thread that does not spin."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's errors share no base class
        raise DeviceError(f"{model}: ONNX Runtime cannot load it ({str(error).splitlines()[0]})") from None
    name = session.get_inputs()[0].name

    def run(images_NHWC: Images) -> Probabilities:
        outputs: list[Probabilities] = session.run(None, {name: images_NHWC})
        return outputs[0]

    return run


def opencv(model: Path) -> Run:
    """The same by OpenCV's dnn module; it takes one picture at a time, so a batch is a loop."""
    try:
        network = cv2.dnn.readNetFromONNX(str(model))
    except cv2.error as error:
        raise DeviceError(f"{model}: OpenCV cannot load it ({error.err})") from None

    def run(images_NHWC: Images) -> Probabilities:
        rows = []
        for image_HWC in images_NHWC:
            network.setInput(image_HWC[None])
            rows.append(network.forward()[0])
        return np.stack(rows)

    return run


def in_batches(run: Run, images_NHWC: Images, size: int = 64) -> Probabilities:
    """Probabilities of any number of pictures."""
    return np.concatenate([run(images_NHWC[i : i + size]) for i in range(0, len(images_NHWC), size)])
