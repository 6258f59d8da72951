"""Proves a release in a process of its own, with bounded memory and time: whatever it breaks there, the camera goes on.

The child is this module, run with `python -m edge_agent.selftest KIND NEW OLD`; it prints one JSON document.
"""

import asyncio
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from edge_agent.classify import MAX_BATCH, Classifier
from edge_agent.detect import Detector
from edge_agent.guard import probable
from edge_agent.load import load_classifier, load_detector
from edge_agent.scene import Box, Face, Frame
from edge_agent.settings import ClassifySettings, DetectSettings
from protocol.errors import DeviceError, Reason, Rejected
from protocol.messages import MAX_TEXT
from protocol.rollouts import Kind

CPU_S = 60
"""A model that has taken so much of the processor is not proven any more; how long that takes is the machine's affair."""
TIME_S = 600.0
MEMORY_BYTES = 600_000_000
"""On top of what the libraries take before a model is loaded: address space, of which a model this small uses a tenth."""
RUNS = 20
WARM_UP = 3
SLOWER = 2.0
SLACK_MS = 5.0
"""A model may take twice the old one's time, and this much more: what the frames bear is measured in the shadow phase."""
CROWDS = (2, MAX_BATCH + 1)
"""So many faces a classifier must bear, too: a network may be made for batches of one size."""
MAX_OUTPUT = 10_000
STARTS = 3
"""A child that somebody told to end says nothing of the model: whoever stops the agent by its group or its service may tell the child first."""


async def prove(kind: Kind, new: Path, old: Path, time_s: float = TIME_S) -> None:
    """Returns when the release in `new` has given its golden answers in time; raises Rejected when it has not, or has crashed."""
    for _ in range(STARTS):
        status, output = await _run(kind, new, old, time_s)
        if status not in (-signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP):
            break
    if status in (-signal.SIGXCPU, -signal.SIGKILL):
        raise Rejected(Reason.TIMED_OUT, f"the self-test took {CPU_S} s of the processor, or was killed")
    try:
        answer = json.loads(output[:MAX_OUTPUT])
        if status == 0 and answer["ok"]:
            return
        raise Rejected(Reason(answer["reason"]), str(answer["detail"])[:MAX_TEXT])
    except (ValueError, KeyError, TypeError):
        raise Rejected(Reason.CRASHED, f"the self-test ended with {status} and no answer") from None


async def _run(kind: Kind, new: Path, old: Path, time_s: float) -> tuple[int | None, bytes]:
    """Exit status and output of a child; it is gone when this returns, or is cancelled."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "edge_agent.selftest", kind, new, old),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the agent
    )
    try:
        async with asyncio.timeout(time_s):
            output, _ = await child.communicate()
    except TimeoutError:
        raise Rejected(Reason.TIMED_OUT, f"the self-test did not end in {time_s:.0f} s") from None
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    return child.returncode, output


def main(kind: str, new: Path, old: Path) -> None:
    """The child: prints what it finds."""
    os.nice(5)
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, used + MEMORY_BYTES))
    try:
        _compare(_once(kind, new), _once(kind, old))
    except Rejected as error:
        print(json.dumps({"ok": False, "reason": error.reason, "detail": error.detail}))
    except (DeviceError, MemoryError) as error:
        print(json.dumps({"ok": False, "reason": Reason.CRASHED, "detail": str(error) or "out of memory"}))
    else:
        print(json.dumps({"ok": True}))


def _once(kind: str, release: Path) -> Callable[[], None]:
    """One run of a release, after its golden test, on a picture that is always the same."""
    frame = Frame(np.random.default_rng(0).integers(0, 256, (384, 640, 3), np.uint8), 0.0, 0.0)
    if kind == "detector":
        detect: Detector = load_detector(DetectSettings(), release=release)[0]
        return lambda: _ignore(detect(frame))
    classify: Classifier = load_classifier(ClassifySettings(), release=release)[0]
    face = Face(Box(100, 100, 120, 160), 1.0)
    for faces in CROWDS:
        probable(classify(frame, (face,) * faces))
    return lambda: _ignore(probable(classify(frame, (face,))))


def _ignore(_: object) -> None:
    pass


def _compare(new: Callable[[], None], old: Callable[[], None]) -> None:
    """Raises Rejected when the new one is much slower; the two take turns, so other programs disturb both."""
    new_ms, old_ms = [], []
    for _ in range(WARM_UP + RUNS):
        new_ms.append(_time_ms(new))
        old_ms.append(_time_ms(old))
    now_ms, before_ms = (float(np.median(times[WARM_UP:])) for times in (new_ms, old_ms))
    if now_ms > SLOWER * before_ms + SLACK_MS:
        raise Rejected(Reason.TOO_SLOW, f"the self-test takes {now_ms:.1f} ms, with the old model {before_ms:.1f} ms")


def _time_ms(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) * 1000


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
