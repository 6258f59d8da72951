"""What `doctor` finds on this very machine, part by part."""

import os
import socket
import sys
from pathlib import Path

import pytest
from made_releases import PUBLIC
from rig import free_port

from edge_agent.doctor import Finding, examine
from edge_agent.outbox import Outbox
from edge_agent.settings import BrokerSettings, ClassifySettings, DetectSettings, Settings, UpdateSettings


def found(part: str, **settings: object) -> Finding:
    """What is said of one part; nobody listens where the broker should be."""
    (finding,) = [one for one in examine(Settings(broker=BrokerSettings(url="mqtt://127.0.0.1:9"), **settings)) if one.part == part]
    return finding


def test_an_outbox_is_left_alone_whatever_its_base_is_called(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "doctor.home.door.sqlite")
    before = sorted(tmp_path.iterdir())
    assert found("disk", base="doctor", state_dir=tmp_path) == Finding("disk", True, f"{tmp_path}: can be written")
    assert sorted(tmp_path.iterdir()) == before
    outbox.close()


def test_a_state_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert found("disk", state_dir=tmp_path / "file") == Finding("disk", False, f"{tmp_path}/file: File exists")


@pytest.mark.parametrize("name", [".sqlite", ".lock", "models", "models/maskfleet.home.door", "models/maskfleet.home.door/classifier/a/model.onnx"])
def test_what_another_user_left_of_this_camera_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    Outbox(tmp_path / "maskfleet.home.door.sqlite").close()
    Outbox(tmp_path / "maskfleet.home.gate.sqlite").close()
    slot = tmp_path / "models" / "maskfleet.home.door" / "classifier" / "a"
    slot.mkdir(parents=True)
    (slot / "model.onnx").touch()
    theirs = tmp_path / (f"maskfleet.home.door{name}" if name.startswith(".") else name)
    access = os.access  # root, as which tests may run, may do everything
    monkeypatch.setattr(os, "access", lambda path, mode: path != theirs and access(path, mode))
    assert found("disk", state_dir=tmp_path) == Finding("disk", False, f"{theirs}: may not be read and written by this user; whose is it?")
    assert found("disk", state_dir=tmp_path, camera="gate").is_good == name.startswith((".", "models/"))


def test_models_that_the_settings_name_are_said_not_to_be_updated(tmp_path: Path) -> None:
    keys = UpdateSettings(trusted_keys=(PUBLIC,))
    (key,) = keys.owner_keys()
    mine, haar = ClassifySettings(release=tmp_path), DetectSettings(model="haar")
    taken = f"taken from those who sign with {key}"
    assert found("updates", state_dir=tmp_path, updates=keys).text == taken
    assert found("updates", state_dir=tmp_path, updates=keys, classify=mine).text == f"{taken}, but no classifier: the settings name it"
    both = found("updates", state_dir=tmp_path, updates=keys, classify=mine, detect=haar)
    assert both == Finding("updates", True, f"{taken}, but no classifier and no detector: the settings name it")


def test_the_port_of_prometheus_is_tried(tmp_path: Path) -> None:
    port = free_port()
    assert found("prometheus", state_dir=tmp_path) == Finding("prometheus", True, "off: no prometheus_port")
    assert found("prometheus", state_dir=tmp_path, prometheus_port=port) == Finding("prometheus", True, f"127.0.0.1:{port}: can be served")


def test_a_port_of_prometheus_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        own.listen()
        finding = found("prometheus", state_dir=tmp_path, prometheus_port=own.getsockname()[1])
    assert not finding.is_good
    assert "Address already in use" in finding.text


def test_prometheus_without_its_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    finding = found("prometheus", state_dir=tmp_path, prometheus_port=free_port())
    assert not finding.is_good
    assert "pip install '.[prometheus]'" in finding.text
