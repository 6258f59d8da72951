"""What several tests of the agent start from."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sight_worker import Worker
from update_device import Device

from edge_agent import sight as sight_module
from edge_agent.load import Eyes, load_eyes
from edge_agent.settings import Settings


@pytest.fixture(scope="module")
def eyes() -> Eyes:
    return load_eyes(Settings())


@pytest.fixture
def device(tmp_path: Path, eyes: Eyes) -> Device:
    return Device(tmp_path, eyes)


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    monkeypatch.setattr(sight_module, "BASELINE_S", 0.5)
    own = Worker(tmp_path)
    with own.running():
        yield own
