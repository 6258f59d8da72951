"""How much memory a model takes where it runs: what a process grows by when it loads the file and answers, its runtime being there already."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from protocol.errors import DeviceError
from trainer import runtimes

RUNTIMES = {"onnxruntime": runtimes.onnx_runtime, "opencv": runtimes.opencv}
RUNS = 10
STATM = Path("/proc/self/statm")


def resident(model: Path, runtime: str, input_px: int) -> int | None:
    """Resident bytes of a model file in one of `RUNTIMES`, in a process of its own; None where the system does not tell."""
    if not STATM.exists():
        return None
    command = [sys.executable, "-m", "trainer.memory", runtime, str(model), str(input_px)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DeviceError(f"{model}: {runtime} failed ({(done.stderr.strip().splitlines() or ['no message'])[-1]})")
    return int(done.stdout)


def _grown(runtime: str, model: Path, input_px: int) -> int:
    image = np.zeros((1, input_px, input_px, 3), np.uint8)
    before = _now()
    run = RUNTIMES[runtime](model)
    for _ in range(RUNS):
        run(image)
    return _now() - before


def _now() -> int:
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    print(_grown(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))
