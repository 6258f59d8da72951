"""The coordinator's shelf: what was put on it stays what it was."""

import multiprocessing
import re
import resource
import shutil
import subprocess
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rig import ROOT

from protocol.errors import Rejected, in_one_line
from protocol.release import MODEL_FILE
from protocol.signature import Statement, key_id, public_text
from trainer import keys
from trainer.shelf import Shelf, put_again


def test_the_same_model_and_counter_signed_by_another_key_is_another_release(tmp_path: Path, classifier_release: Path) -> None:
    shelf = Shelf(tmp_path / "shelf", {})
    signers = [Ed25519PrivateKey.generate() for _ in range(2)]
    names = []
    for number, signer in enumerate(signers):
        folder = shutil.copytree(classifier_release, tmp_path / str(number))
        keys.sign(folder, signer, 7, None, "0", 32 * 1024)
        names.append(shelf.put(folder).name)
    assert [shelf.get(name).signature.key for name in names] == [key_id(signer.public_key()) for signer in signers]


def test_putting_a_release_twice_is_putting_it_once(tmp_path: Path, classifier_release: Path) -> None:
    shelf = Shelf(tmp_path / "shelf", {})
    folder = shutil.copytree(classifier_release, tmp_path / "release")
    keys.sign(folder, Ed25519PrivateKey.generate(), 7, None, "0", 32 * 1024)
    assert shelf.put(folder).name == shelf.put(folder).name
    assert len(list((tmp_path / "shelf").iterdir())) == 1


def put_at_once(folder: Path, shelf: Path, at: Any) -> str:
    at.wait()
    return Shelf(shelf, {}).put(folder).name


def test_processes_that_put_one_release_at_once_put_it_once(tmp_path: Path, classifier_release: Path) -> None:
    folder = shutil.copytree(classifier_release, tmp_path / "release")
    keys.sign(folder, Ed25519PrivateKey.generate(), 7, None, "0", 32 * 1024)
    context, rounds = multiprocessing.get_context("spawn"), 10
    with ProcessPoolExecutor(3, context) as pool, context.Manager() as manager:
        for number in range(rounds):
            shelf, at = tmp_path / f"shelf-{number}", manager.Barrier(3)
            [name] = {done.result(60) for done in [pool.submit(put_at_once, folder, shelf, at) for _ in range(3)]}
            assert [path.name for path in shelf.iterdir()] == [name]
            assert Shelf(shelf, {}).holds(name)


def test_a_full_disk_is_told_of_the_shelf_and_leaves_no_half(tmp_path: Path, classifier_release: Path) -> None:
    folder, shelf = shutil.copytree(classifier_release, tmp_path / "release"), tmp_path / "shelf"
    keys.sign(folder, Ed25519PrivateKey.generate(), 7, None, "0", 32 * 1024)
    (shelf / "classifier-6-0123456789ab.part").mkdir(parents=True)  # of a process that was killed
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(OSError, match=f"{shelf}'$") as caught:
            Shelf(shelf, {}).put(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert in_one_line(caught.value) == f"{shelf}: File too large"
    assert list(shelf.iterdir()) == []
    name = Shelf(shelf, {}).put(folder).name
    assert [path.name for path in shelf.iterdir()] == [name]


def test_a_release_that_lost_its_model_in_a_power_cut_is_healed_by_putting_it_again(tmp_path: Path, classifier_release: Path) -> None:
    folder = shutil.copytree(classifier_release, tmp_path / "release")
    keys.sign(folder, Ed25519PrivateKey.generate(), 7, None, "0", 32 * 1024)
    name = Shelf(tmp_path / "shelf", {}).put(folder).name
    (tmp_path / "shelf" / name / MODEL_FILE).write_bytes(b"")
    assert not Shelf(tmp_path / "shelf", {}).holds(name)
    assert Shelf(tmp_path / "shelf", {}).put(folder).name == name
    assert Shelf(tmp_path / "shelf", {}).holds(name)


def test_what_is_signed_again_keeps_the_statements_of_the_same_key_until_others_are_given(tmp_path: Path, classifier_release: Path) -> None:
    shelf, folder = Shelf(tmp_path / "shelf", {}), shutil.copytree(classifier_release, tmp_path / "release")
    files = [keys.new(tmp_path / name)[0] for name in ("old", "new")]
    old, new = map(keys.read_private, files)
    stated, longer = (Statement.make(public_text(new.public_key()), expires, old) for expires in (datetime(2100, 1, 1, tzinfo=UTC), None))
    assert put_again(shelf, folder, files[1], ()).signature.statements == ()
    keys.sign(folder, new, 7, None, "0", 32 * 1024, (stated,))
    assert put_again(shelf, folder, files[1], ()).signature.statements == (stated,)
    assert put_again(shelf, folder, files[1], (longer,)).signature.statements == (longer,)
    assert put_again(shelf, folder, files[0], ()).signature.statements == ()


def test_what_is_signed_again_has_a_counter_above_all_that_are_there(tmp_path: Path, classifier_release: Path) -> None:
    """Also when the bad one was signed with milliseconds, or this clock is behind."""
    shelf, (key, _) = Shelf(tmp_path / "shelf", {}), keys.new(tmp_path / "owner")
    bad, old = (shutil.copytree(classifier_release, tmp_path / name) for name in ("bad", "old"))
    keys.sign(bad, keys.read_private(key), 9_000_000_000_000, None, "0", 32 * 1024)
    shelf.put(bad)
    assert put_again(shelf, old, key, ()).manifest.counter == 9_000_000_000_001


def test_a_release_that_is_copied_by_hand_must_have_the_name_that_the_docs_make(tmp_path: Path, classifier_release: Path) -> None:
    """A rollout that had begun under another could not be taken up when the coordinator starts again."""
    folder = shutil.copytree(classifier_release, tmp_path / "my-release")
    keys.sign(folder, Ed25519PrivateKey.generate(), 7, None, "0", 32 * 1024)
    line = re.search("^digest=.*$", (ROOT / "docs" / "fleet.md").read_text(encoding="utf-8"), re.MULTILINE)[0]
    made = subprocess.run(["bash", "-c", f"{line}; echo -n classifier-7-$digest"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    for name in ("classifier-7", made):
        shutil.copytree(folder, tmp_path / "shelf" / name)
    shelf = Shelf(tmp_path / "shelf", {})
    assert shelf.get(made).name == made
    with pytest.raises(Rejected, match=f"'classifier-7': its folder on the shelf must be called {made}"):
        shelf.get("classifier-7")
