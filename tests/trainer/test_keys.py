"""Keys and signatures through the commands, as the ML engineer uses them."""

import json
import shutil
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from protocol.errors import Reason, Rejected
from protocol.release import Manifest
from protocol.signature import Signature, Statement
from trainer.__main__ import app
from trainer.folder import make_release_folder
from trainer.keys import read_private, read_public


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def release(tmp_path: Path, classifier_release: Path) -> Path:
    return Path(shutil.copytree(classifier_release, tmp_path / "release"))


def refusal(*arguments: object) -> Rejected:
    with pytest.raises(Rejected) as caught:
        run(*arguments)
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_release_is_signed_and_verified(tmp_path: Path, release: Path) -> None:
    run("keys", "new", tmp_path / "owner")
    assert stat.S_IMODE((tmp_path / "owner.key").stat().st_mode) == 0o600
    run("sign", release, "--key", tmp_path / "owner.key", "--days", 90, "--counter", 7, "--minimum-agent", "0.1")
    output = run("verify", release, "--key", tmp_path / "owner.pub")
    assert "counter 7" in output
    manifest = Manifest.parse((release / "manifest.json").read_bytes())
    assert (manifest.counter, manifest.minimum_agent) == (7, "0.1")
    assert len(manifest.chunks) == -(-manifest.size_bytes // manifest.chunk_bytes)
    run("verify", release, "--key", (tmp_path / "owner.pub").read_text().strip())
    run("sign", release, "--key", tmp_path / "owner.key")
    assert Manifest.parse((release / "manifest.json").read_bytes()).counter > 1_700_000_000


def test_a_new_key_is_vouched_for_by_the_old_one(tmp_path: Path, release: Path) -> None:
    run("keys", "new", tmp_path / "old")
    run("keys", "new", tmp_path / "new")
    run("sign", release, "--key", tmp_path / "new.key")
    assert refusal("verify", release, "--key", tmp_path / "old.pub").reason is Reason.UNKNOWN_KEY
    run("keys", "trust", tmp_path / "new.pub", "--key", tmp_path / "old.key", "--days", 30)
    run("sign", release, "--key", tmp_path / "new.key", "--trust", tmp_path / "new.trust")
    assert "good for ever" in run("verify", release, "--key", tmp_path / "new.pub")
    stated = Statement.parse((tmp_path / "new.trust").read_bytes())
    assert f"good until {stated.expires:%Y-%m-%d}" in run("verify", release, "--key", tmp_path / "old.pub")
    run("sign", release, "--key", tmp_path / "new.key", "--trust", tmp_path / "new.trust", "--days", 7)
    manifest = Manifest.parse((release / "manifest.json").read_bytes())
    assert f"good until {manifest.expires:%Y-%m-%d}" in run("verify", release, "--key", tmp_path / "old.pub")


def test_a_signed_release_is_not_replaced(tmp_path: Path, release: Path) -> None:
    make_release_folder(release)
    make_release_folder(tmp_path / "another")
    run("keys", "new", tmp_path / "owner")
    run("sign", release, "--key", tmp_path / "owner.key")
    with pytest.raises(Rejected, match="holds a signed release"):
        make_release_folder(release)


def test_a_statement_is_not_overwritten(tmp_path: Path) -> None:
    """Cameras may trust the first signer alone."""
    for name in ("old", "other", "new"):
        run("keys", "new", tmp_path / name)
    run("keys", "trust", tmp_path / "new.pub", "--key", tmp_path / "old.key")
    before = (tmp_path / "new.trust").read_bytes()
    assert "exists already" in str(refusal("keys", "trust", tmp_path / "new.pub", "--key", tmp_path / "other.key"))
    assert (tmp_path / "new.trust").read_bytes() == before


def test_a_statement_for_another_key_is_refused(tmp_path: Path, release: Path) -> None:
    for name in ("old", "other", "new"):
        run("keys", "new", tmp_path / name)
    run("keys", "trust", tmp_path / "new.pub", "--key", tmp_path / "old.key")
    assert "does not lead" in str(refusal("sign", release, "--key", tmp_path / "other.key", "--trust", tmp_path / "new.trust"))
    assert not (release / "manifest.sig").exists()


def test_more_statements_than_travel_are_refused(tmp_path: Path, release: Path) -> None:
    run("keys", "new", tmp_path / "old")
    run("keys", "new", tmp_path / "new")
    run("keys", "trust", tmp_path / "new.pub", "--key", tmp_path / "old.key")
    assert "at most 4" in str(refusal("sign", release, "--key", tmp_path / "new.key", *["--trust", tmp_path / "new.trust"] * 5))


def test_what_was_changed_after_signing_is_refused(tmp_path: Path, release: Path) -> None:
    run("keys", "new", tmp_path / "owner")
    assert refusal("verify", release, "--key", tmp_path / "owner.pub").reason is Reason.BAD_SIGNATURE
    run("sign", release, "--key", tmp_path / "owner.key")
    document = json.loads((release / "manifest.json").read_bytes())
    (release / "manifest.json").write_text(json.dumps({**document, "counter": 2**40}))
    assert refusal("verify", release, "--key", tmp_path / "owner.pub").reason is Reason.BAD_SIGNATURE


def test_keys_are_never_overwritten(tmp_path: Path) -> None:
    run("keys", "new", tmp_path / "owner")
    before = (tmp_path / "owner.key").read_bytes()
    assert "never overwritten" in str(refusal("keys", "new", tmp_path / "owner"))
    (tmp_path / "owner.pub").unlink()
    assert "never overwritten" in str(refusal("keys", "new", tmp_path / "owner"))
    assert (tmp_path / "owner.key").read_bytes() == before


@pytest.mark.parametrize("path", [".", "..", "/", "sub/.."])
def test_a_folder_is_no_name_for_keys(path: str, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert f"{path}: not a name for keys" in str(refusal("keys", "new", path))
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]


@pytest.mark.parametrize("content", [b"", b"not a key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_what_is_no_key_is_one_line(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x.key"
    file.write_bytes(content)
    with pytest.raises(Rejected, match="private key"):
        read_private(file)
    with pytest.raises(Rejected, match="public key"):
        read_public([str(file)])
    with pytest.raises(Rejected, match="No such file"):
        read_public([str(tmp_path / "none.pub")])


def test_a_release_that_would_not_fit_is_not_signed(tmp_path: Path, release: Path) -> None:
    run("keys", "new", tmp_path / "owner")
    before = (release / "manifest.json").read_bytes()
    assert refusal("sign", release, "--key", tmp_path / "owner.key", "--chunk-bytes", 4096).reason is Reason.TOO_LARGE
    assert (release / "manifest.json").read_bytes() == before


def test_what_the_coordinator_would_not_ship_is_not_verified_either(tmp_path: Path, release: Path) -> None:
    """A signature made by hand, over a manifest that names no chunks."""
    run("keys", "new", tmp_path / "owner")
    manifest = (release / "manifest.json").read_bytes()
    (release / "manifest.sig").write_bytes(Signature.make(manifest, read_private(tmp_path / "owner.key")).encode())
    assert "no chunks" in str(refusal("verify", release, "--key", tmp_path / "owner.pub"))


def test_more_days_than_a_date_can_hold_are_refused(tmp_path: Path, release: Path) -> None:
    run("keys", "new", tmp_path / "owner")
    key = ("--key", tmp_path / "owner.key", "--days", 9_999_999)
    for command in (("sign", release), ("keys", "trust", tmp_path / "owner.pub")):
        result = CliRunner().invoke(app, [str(argument) for argument in (*command, *key)])
        assert (result.exit_code, type(result.exception)) == (2, SystemExit)
        assert "days" in result.output
