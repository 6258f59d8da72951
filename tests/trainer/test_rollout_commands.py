"""The rollout commands: what they are given is looked at before anything is sent."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from protocol.errors import Rejected
from trainer.__main__ import app


def refusal(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert isinstance(result.exception, Rejected), result.output
    assert "\n" not in str(result.exception)
    return str(result.exception)


@pytest.mark.parametrize("command", [("watch",), ("rollout", "status"), ("rollout", "pause")])
def test_a_password_beside_certificates_is_never_sent_in_clear(command: tuple[str, ...], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("MASKFLEET_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("MASKFLEET_BROKER__PASSWORD", "p@ss")
    monkeypatch.setenv("MASKFLEET_BROKER__CA_FILE", str(tmp_path / "ca.crt"))
    assert "need mqtts" in refusal(*command, "--broker", "mqtt://127.0.0.1:9")


def test_a_list_of_cameras_that_is_no_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "cameras.txt"
    file.write_bytes("hall/café".encode("latin-1"))
    assert "cameras.txt: not a text in UTF-8" in refusal("rollout", "start", tmp_path, "--cameras", file)
