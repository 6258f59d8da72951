"""Fixtures that all tests share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from rig import DATA, ROOT, Mosquitto, missing, running_mosquitto

# Small trainings on several threads wait for each other more than they work, here and in the commands that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
settings.register_profile("untimed", deadline=None)  # how long an example takes says how busy the machine is
settings.load_profile("untimed")


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    with running_mosquitto(tmp_path) as broker:
        yield broker


@pytest.fixture
def data() -> Path:
    if not DATA.is_dir():
        missing("the face-mask data pack (MASKFLEET_DATA, or shared/data beside the repository)")
    return DATA


@pytest.fixture(scope="session")
def classifier_release() -> Path:
    return ROOT / "edge_agent" / "models" / "classifier"
