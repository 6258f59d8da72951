"""Benchmarks that are not given what they need."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from rig import ROOT


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (("clips.py",), "pack/models/aizoo"),
        (("found_in_crops.py", "--data", "other"), "other/models/face_detection_yunet_2023mar.onnx"),
        (("found_in_crops.py", "--reference", "pyproject.toml"), "pack/faces/index.csv"),
        (("soak.py", "--clip", "none.mp4"), "none.mp4"),
    ],
)
def test_what_is_not_there_is_one_line(tmp_path: Path, arguments: tuple[str, ...], names: str) -> None:
    script, *rest = arguments
    environment = {**os.environ, "MASKFLEET_DATA": str(tmp_path / "pack"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, ROOT / "benchmarks" / script, *rest]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1, done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert f"{names}: no such file or folder" in line
