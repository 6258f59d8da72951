"""Runs model files: Session by ONNX Runtime, OpenCvNetwork by OpenCV. Nothing else imports an inference library."""

from pathlib import Path

import cv2
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from protocol.errors import DeviceError

VERSION: str = onnxruntime.__version__


class Session:
    """An ONNX model on the processor. One thread that does not spin: on a busy board two spinning threads double the latency."""

    def __init__(self, model: Path | bytes, threads: int = 1) -> None:
        """Raises DeviceError when the model cannot be loaded."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.enable_mem_pattern = False  # it would keep a second set of buffers, and gains no time here
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        options.log_severity_level = 4
        try:
            self._session = onnxruntime.InferenceSession(
                model if isinstance(model, bytes) else str(model), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the runtime's errors share no base class
            raise DeviceError(f"the model cannot be loaded: {str(error).splitlines()[0]}") from None
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            raise DeviceError(f"the model has {len(inputs)} inputs, expected one")
        self._input = inputs[0].name
        self._type = np.float32 if inputs[0].type == "tensor(float)" else np.uint8
        self.takes_any_size = not all(isinstance(side, int) for side in inputs[0].shape[1:])
        """Whether the model leaves the size of its input open, batches apart."""
        self.outputs = [output.name for output in self._session.get_outputs()]

    def run(self, batch: NDArray[np.uint8] | NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """The outputs, in the order of `outputs`; raises DeviceError when the model does not take such a batch.

        Bytes become numbers where the model takes numbers.
        """
        try:
            answer: list[NDArray[np.float32]] = self._session.run(None, {self._input: batch.astype(self._type, copy=False)})
        except Exception as error:  # as above
            raise DeviceError(f"the model failed: {str(error).splitlines()[0]}") from None
        return answer


class OpenCvNetwork:
    """An ONNX model in OpenCV, which also runs one that was exported for a single size of pictures at other sizes."""

    def __init__(self, model: bytes) -> None:
        """Raises DeviceError when the model cannot be loaded."""
        try:
            self._network = cv2.dnn.readNetFromONNX(np.frombuffer(model, np.uint8))
        except cv2.error as error:
            raise DeviceError(f"the model cannot be loaded: {_first_line(error)}") from None
        self.outputs = list(self._network.getUnconnectedOutLayersNames())

    def run(self, batch: NDArray[np.uint8] | NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """As of Session."""
        try:
            self._network.setInput(batch.astype(np.float32, copy=False))
            return [np.asarray(answer, np.float32) for answer in self._network.forward(self.outputs)]
        except cv2.error as error:
            raise DeviceError(f"the model failed: {_first_line(error)}") from None


def _first_line(error: cv2.error) -> str:
    return str(error.err).splitlines()[0] if error.err else "OpenCV error"
