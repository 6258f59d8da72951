"""The memory of the process: what the agent gives back, and what it loads only when it is needed."""

import subprocess
import sys

import pytest

FREED = """
import threading
from pathlib import Path
from edge_agent.heap import keep_small
{set_up}
def resident_mb():
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) / 1000
def use():
    held = []
    for _ in range(60):
        held.append(bytearray(b"x") * 1_000_000)
        if len(held) > 20:
            held.pop(0)
before = resident_mb()
for _ in range(4):
    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
print(resident_mb() - before)
"""


def answer(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's heap")
def test_what_threads_freed_is_given_back() -> None:
    assert float(answer(FREED.format(set_up="keep_small()"))) < 4


def test_a_camera_loads_no_library_that_it_may_never_need() -> None:
    loaded = answer("import sys, edge_agent.__main__, edge_agent.agent; print([m for m in ('cryptography', 'rich', 'torch') if m in sys.modules])")
    assert loaded == "[]"
