"""What an audit finds, and splits that it finds nothing in."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from rig import DATA, missing
from trainer_faces import draw_face, write_faces, write_sources

from protocol.errors import Rejected
from trainer import phash, splits
from trainer.audit import audit
from trainer.data import NO_FACE, read_folder, read_incorrect


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "trainer", *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False)


def photograph(seed: int) -> np.ndarray:
    """A picture unlike any other: smooth noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    return cv2.resize(noise, (128, 128), interpolation=cv2.INTER_CUBIC)


def write_photographs(folder: Path, per_class: int, copies: int = 1) -> Path:
    """Each photograph `copies` times: as it is, then ever more compressed."""
    seed = 0
    for label in ("with_mask", "without_mask"):
        (folder / label).mkdir(parents=True)
        for number in range(per_class):
            seed += 1
            for copy in range(copies):
                file = folder / label / f"{number:03}_{copy}.jpg"
                cv2.imwrite(str(file), photograph(seed), [cv2.IMWRITE_JPEG_QUALITY, 95 - 20 * copy])
    return folder


def test_copies_are_found_however_they_were_changed() -> None:
    image = photograph(1)
    small = cv2.resize(cv2.resize(image, (64, 64), interpolation=cv2.INTER_AREA), (128, 128))
    light = np.clip(image.astype(int) + 20, 0, 255).astype(np.uint8)
    mirrored = np.ascontiguousarray(image[:, ::-1])
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    copies = [image, small, light, mirrored, grey]
    pairs = phash.near_pairs(np.stack([*copies, photograph(2), photograph(3)]))
    assert {(i, j) for i, j, _ in pairs} == {(i, j) for j in range(len(copies)) for i in range(j)}
    assert phash.is_near(np.stack([*copies, photograph(2)]), mirrored[None]).tolist() == [True] * 5 + [False]


def test_crops_and_turned_pictures_are_not_taken_for_copies() -> None:
    """A limit that the documentation tells of."""
    others = [np.ascontiguousarray(np.rot90(photograph(1))), cv2.resize(photograph(1)[13:115, 13:115], (128, 128))]
    assert phash.near_pairs(np.stack([photograph(1), *others]), splits.GROUP_BITS) == []


def test_groups_are_joined_over_several_steps() -> None:
    groups = phash.groups(6, [(0, 1, 2), (1, 4, 2), (3, 5, 1)])
    assert groups[0] == groups[1] == groups[4]
    assert groups[3] == groups[5]
    assert len(set(groups.tolist())) == 3


def test_a_leak_is_found_and_ends_with_one(tmp_path: Path) -> None:
    for number, split in enumerate(("train", "val", "test")):
        for label in ("with_mask", "without_mask"):
            (tmp_path / split / label).mkdir(parents=True)
            cv2.imwrite(str(tmp_path / split / label / "a.jpg"), photograph(10 * number + len(label)))
    assert command("audit", tmp_path).returncode == 0
    cv2.imwrite(str(tmp_path / "test" / "with_mask" / "copy.jpg"), cv2.imread(str(tmp_path / "train" / "with_mask" / "a.jpg"))[:, ::-1])
    done = command("audit", tmp_path, "--json")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert [(pair["one"], pair["other"]) for pair in found["leaks"]] == [("train/with_mask/a.jpg", "test/with_mask/copy.jpg")]
    assert found["is_leaking"]


def test_what_is_reported(tmp_path: Path) -> None:
    write_photographs(tmp_path, per_class=3, copies=1)
    cv2.imwrite(str(tmp_path / "without_mask" / "again.jpg"), photograph(1))
    (tmp_path / "with_mask" / "broken.jpg").write_bytes(b"no picture")
    (tmp_path / "with_mask" / "notes.txt").write_text("no picture")
    (tmp_path / "index.csv").write_text(
        "file,source,face_width_px\nwith_mask/000_0.jpg,web,40\nwith_mask/001_0.jpg,web,60\nwith_mask/002_0.jpg,web,50\n"
    )
    found = audit(tmp_path)
    assert found.pictures == 7
    assert found.unreadable == ("with_mask/broken.jpg",)
    assert found.passed_over == ("with_mask/notes.txt",)
    assert "passed over: 1\n  with_mask/notes.txt" in command("audit", tmp_path).stdout
    assert [(pair.one, pair.other) for pair in found.contradictions] == [("with_mask/000_0.jpg", "without_mask/again.jpg")]
    assert found.leaks == ()
    assert {"split": "all", "source": "web", "with_mask": 3, "without_mask": 0} in found.table
    assert found.classes[0]["size_px"] == 50
    assert found.classes[1]["size_px"] == 128


def test_no_pictures_are_one_line(tmp_path: Path) -> None:
    done = command("audit", tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "no readable picture" in done.stderr


def test_splits_keep_copies_together_and_repeat(tmp_path: Path) -> None:
    folder = write_photographs(tmp_path, per_class=20, copies=3)
    first, again, other = splits.read(folder, 1), splits.read(folder, 1), splits.read(folder, 2)
    assert first.train.files == again.train.files != other.train.files
    parts = {"train": first.train, "val": first.val, "test": first.test}
    where = {file.rsplit("_", 1)[0]: name for name, part in parts.items() for file in part.files}
    assert all(where[file.rsplit("_", 1)[0]] == name for name, part in parts.items() for file in part.files)
    assert sum(map(len, parts.values())) == 120


def sides(folder: Path) -> dict[str, str]:
    """The split that each picture is in, by its file."""
    pictures = splits.read(folder)
    return {file: name for name in splits.SHARES for file in getattr(pictures, name).files}


def add_photographs(folder: Path, seeds: range) -> None:
    for seed in seeds:
        cv2.imwrite(str(folder / ("with_mask" if seed % 2 else "without_mask") / f"new{seed}.png"), photograph(seed))


def test_pictures_that_are_added_move_no_other(tmp_path: Path) -> None:
    folder = write_photographs(tmp_path, per_class=60, copies=2)
    before = sides(folder)
    add_photographs(folder, range(1000, 1021))
    after = sides(folder)
    assert len(after) == len(before) + 21
    assert after.items() >= before.items()
    for path in folder.glob("*/000_0.jpg"):  # a group that grows
        cv2.imwrite(str(path.with_name("999.jpg")), cv2.imread(str(path))[:, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 30])
    grown = sides(folder)
    assert grown.items() >= after.items()
    assert all(grown[f"{label}/999.jpg"] == grown[f"{label}/000_0.jpg"] for label in ("with_mask", "without_mask"))


def test_a_photograph_stays_on_its_side_whatever_it_is_called(tmp_path: Path) -> None:
    folder = write_photographs(tmp_path, per_class=20)
    before = sides(folder)
    for path in list(folder.glob("*/*.jpg")):
        path.rename(path.with_name(f"{99 - int(path.stem[:3])}.jpg"))
    assert {f"{file[:-9]}{99 - int(file[-9:-6])}.jpg": side for file, side in before.items()} == sides(folder)


def test_shares_are_about_those_that_are_wanted_in_each_class(tmp_path: Path) -> None:
    pictures = splits.read(write_photographs(tmp_path, per_class=200))
    for number in range(2):
        assert sum(pictures.train.classes_N == number) == pytest.approx(140, abs=20)
        assert sum(pictures.val.classes_N == number) == pytest.approx(30, abs=15)
        assert sum(pictures.test.classes_N == number) == pytest.approx(30, abs=15)


def test_of_few_pictures_each_side_has_both_classes_and_what_is_learned_stays_so(tmp_path: Path) -> None:
    """Of three pictures of a class hardly ever one is in `test` by its hash: the nearest to it is, until a nearer one comes."""
    folder = write_photographs(tmp_path, per_class=3)
    learned: set[str] = set()
    for seed in range(2000, 2030):
        now = sides(folder)
        assert learned <= {file for file, side in now.items() if side == "train"}
        learned |= {file for file, side in now.items() if side == "train"}
        add_photographs(folder, range(seed, seed + 1))


def test_the_third_class_is_left_out(tmp_path: Path) -> None:
    folder = write_photographs(tmp_path, per_class=10)
    (folder / "mask_weared_incorrect").mkdir()
    cv2.imwrite(str(folder / "mask_weared_incorrect" / "a.jpg"), photograph(99))
    pictures = splits.read(folder)
    assert sum(map(len, (pictures.train, pictures.val, pictures.test))) == 20
    assert read_incorrect(folder).shape == (1, 128, 128, 3)
    assert read_incorrect(folder / "with_mask").shape == (0, 128, 128, 3)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    folder = write_photographs(tmp_path, per_class=10)
    (folder / "with_mask" / "broken.jpg").write_bytes(b"")
    (folder / "with_mask" / "album.jpg").mkdir()
    assert splits.read(folder).unreadable == ("with_mask/broken.jpg",)


def test_a_source_can_be_held_out(tmp_path: Path) -> None:
    folder = write_sources(tmp_path, n=6)
    pictures = splits.read(folder)
    assert pictures.counts == {"door": 6, "web": 6}
    fold = splits.without_source(pictures, "web")
    assert set(fold.train.sources) == set(fold.val.sources) == {"door"}
    assert set(fold.test.sources) == {"web"}
    everything = [source for part in (pictures.train, pictures.val, pictures.test) for source in part.sources]
    assert len(fold.test) == everything.count("web")
    assert any(file.startswith("train/") for file in fold.test.files)
    with pytest.raises(Rejected, match="no such source; there are door, web"):
        splits.without_source(pictures, "shop")


def test_a_photograph_that_another_source_has_as_well_is_held_out_with_it(tmp_path: Path) -> None:
    """As it is, smaller or mirrored, in any split; what shows no face is of no photograph."""
    folder = write_sources(tmp_path, n=6)
    alone = splits.without_source(splits.read(folder), "web")
    copies = {"train/with_mask/001.png": 1, "test/without_mask/002.png": -1, "val/with_mask/001.png": -1}
    index = (folder / "index.csv").read_text()
    for number, (file, turned) in enumerate(copies.items()):
        assert f"{file},web" in index
        small = cv2.resize(cv2.imread(str(folder / file)), (90, 90), interpolation=cv2.INTER_AREA)[:, ::turned]
        copy = f"{('train', 'val')[number % 2]}/with_mask/copy{number}.png"
        cv2.imwrite(str(folder / copy), small)
        index += f"{copy},door\n"
    (folder / "index.csv").write_text(index)
    pictures = splits.read(folder)
    fold = splits.without_source(pictures, "web")
    assert (fold.train.files, fold.val.files, fold.test.files) == (alone.train.files, alone.val.files, alone.test.files)
    assert (alone.too_near, fold.too_near) == (0, 3)
    rows = splits.apart(pictures.train, pictures, "web")
    assert pictures.train.select(rows).files == alone.train.files, "views are shown of the same ones"
    no_face = replace(pictures.train, classes_N=np.full(len(pictures.train), NO_FACE))
    assert len(splits.apart(no_face, pictures, "web")) == len(rows) + 2


def test_train_without_val_is_refused(tmp_path: Path) -> None:
    write_faces(tmp_path / "train", 2)
    with pytest.raises(Rejected, match=r"no val/"):
        splits.read(tmp_path)


def test_too_few_pictures_to_split_are_refused(tmp_path: Path) -> None:
    write_photographs(tmp_path, per_class=2)
    with pytest.raises(Rejected, match="more pictures are needed"):
        splits.read(tmp_path)


def test_pictures_keep_their_class_and_source_when_selected(tmp_path: Path) -> None:
    pictures = read_folder(write_faces(tmp_path, 3))
    some = pictures.select(np.array([0, 5]))
    assert some.files == (pictures.files[0], pictures.files[5])
    assert some.classes_N.tolist() == [0, 1]
    assert len(pictures.select(pictures.classes_N == 1)) == 3
    assert draw_face(np.random.default_rng(0), has_mask=True).shape == some.images_NHWC.shape[1:]


def test_the_data_pack_does_not_leak() -> None:
    if not DATA.is_dir():
        missing("the face-mask data pack (MASKFLEET_DATA, or shared/data beside the repository)")
    found = audit(DATA / "faces")
    assert found.pictures == 5300
    assert found.leaks == ()
    assert found.unreadable == ()
