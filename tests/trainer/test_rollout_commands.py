"""The rollout commands: what they are given is looked at before anything is sent."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from protocol.errors import Rejected
from trainer.__main__ import app
from trainer.book import StartArgs
from trainer.rollout_commands import _select


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


@pytest.mark.parametrize(("half", "other"), [("PASSWORD", "username"), ("KEY_FILE", "cert_file")])
def test_half_of_what_lets_us_in_is_refused(half: str, other: str, monkeypatch) -> None:
    monkeypatch.setenv(f"MASKFLEET_BROKER__{half}", "~/p@ss")
    assert f"setting broker.{half.lower()}: needs broker.{other}" in refusal("rollout", "status", "--broker", "mqtts://127.0.0.1:9")


def test_a_list_of_cameras_that_is_no_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "cameras.txt"
    file.write_bytes("hall/café".encode("latin-1"))
    assert "cameras.txt: not a text in UTF-8" in refusal("rollout", "start", tmp_path, "--cameras", file)


def test_statements_without_a_key_to_sign_with_are_refused(tmp_path: Path) -> None:
    assert "--sign-trust" in refusal("rollout", "rollback", tmp_path, "--sign-trust", tmp_path / "new.trust")


@pytest.mark.parametrize("text", ["", "\n \n", "# lobby/door-1\n"])
def test_a_list_that_names_nobody_is_not_all_cameras(text: str, tmp_path: Path) -> None:
    file = tmp_path / "cameras.txt"
    file.write_text(text)
    assert "cameras.txt: names nobody" in refusal("rollout", "start", tmp_path, "--cameras", file)
    assert "cameras.txt: names nobody" in refusal("rollout", "start", tmp_path, "--cameras", file, "--camera", "door-1")


def test_a_list_that_begins_with_a_byte_order_mark_names_its_cameras(tmp_path: Path) -> None:
    file = tmp_path / "cameras.txt"
    file.write_bytes("\ufefflobby/door-1\r\ndoor-2\r\n".encode())
    assert _select([], [], file) == ["lobby/door-1", "*/door-2"]


@pytest.mark.parametrize("option", ["--site", "--camera"])
@pytest.mark.parametrize("name", ["", " ", "a b", "lobby,yard", "café", "a/b/c", "lobby/", "/door-1", "d" * 65])
def test_what_can_be_no_camera_is_refused(option: str, name: str, tmp_path: Path) -> None:
    assert f"{option}: {name!r}: not one name or pattern" in refusal("rollout", "start", tmp_path, option, name)
    with pytest.raises(Rejected, match=r"start: select\.0"):
        StartArgs.parse({"release": "classifier-1", "select": [f"{name}/*" if option == "--site" else name]})


def test_a_list_of_cameras_has_one_in_a_line_and_comments(tmp_path: Path) -> None:
    file = tmp_path / "cameras.txt"
    file.write_text("# the doors\nlobby/door-1  # all * doors\n\n\thall/*\r\ndoor-2#new\n")
    assert _select([], [], file) == ["lobby/door-1", "hall/*", "*/door-2"]
    assert _select(["yard"], ["door-3"], file)[:2] == ["yard/*", "*/door-3"]
    assert _select([], [], None) == ["*/*"]
    assert _select(["l?bby"], ["hall-[!a-c]/door-*"], None) == ["l?bby/*", "hall-[!a-c]/door-*"]


def test_a_line_with_spaces_is_refused_by_its_words(tmp_path: Path) -> None:
    file = tmp_path / "cameras.txt"
    file.write_text("lobby/door-1\nlobby/door-2 * # two\n")
    assert "cameras.txt: 'lobby/door-2 *': not one name or pattern" in refusal("rollout", "start", tmp_path, "--cameras", file)
