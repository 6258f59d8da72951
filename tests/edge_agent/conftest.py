"""What several tests of the agent start from."""

from pathlib import Path

import pytest
from update_device import Device

from edge_agent.load import Eyes, load_eyes
from edge_agent.settings import Settings


@pytest.fixture(scope="module")
def eyes() -> Eyes:
    return load_eyes(Settings())


@pytest.fixture
def device(tmp_path: Path, eyes: Eyes) -> Device:
    return Device(tmp_path, eyes)
