"""The memory of the process: what the agent gives back, and what it loads only when it is needed."""

import platform
import subprocess
import sys

import pytest

FRAMES = """
from pathlib import Path
from edge_agent.heap import keep_small
{set_up}
def resident_mb():
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) / 1000
def frame():
    return bytearray(b"x") * 1_000_000
first = frame()
del first
before = resident_mb()
frames = [frame() for _ in range(20)]
small = bytearray(b"x") * 100_000
del frames
print(resident_mb() - before)
"""
"""Twenty frames, freed again while something small lies above them."""


def answer(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's heap")
def test_frames_that_were_freed_are_given_back() -> None:
    left_alone, kept_small = (float(answer(FRAMES.format(set_up=set_up))) for set_up in ("", "keep_small()"))
    assert kept_small < 4 < 15 < left_alone


def test_a_camera_loads_no_library_that_it_may_never_need() -> None:
    loaded = answer("import sys, edge_agent.__main__, edge_agent.agent; print([m for m in ('cryptography', 'rich', 'torch') if m in sys.modules])")
    assert loaded == "[]"
