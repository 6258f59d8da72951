import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rig import HEEDS_MODES
from trainer_faces import write_faces

from protocol.errors import Rejected
from trainer.augment import augment
from trainer.data import SUFFIXES, decode, others_in, read_folder


def test_a_folder_is_read_in_order_with_its_classes(tmp_path: Path) -> None:
    pictures = read_folder(write_faces(tmp_path / "faces", 3))
    assert pictures.images_NHWC.shape == (6, 128, 128, 3)
    assert pictures.classes_N.tolist() == [0, 0, 0, 1, 1, 1]
    assert pictures.files[0] == "with_mask/000.png"
    assert set(pictures.sources) == {"unknown"}
    assert cv2.imread(str(tmp_path / "faces" / pictures.files[4]))[5, 6].tolist() == pictures.images_NHWC[4, 5, 6, ::-1].tolist()


def test_sources_come_from_an_index_beside_or_above(tmp_path: Path) -> None:
    write_faces(tmp_path / "test", 1)
    (tmp_path / "index.csv").write_text("file,label,source\ntest/with_mask/000.png,with_mask,here\ntrain/x.png,with_mask,there\n")
    assert read_folder(tmp_path / "test").sources == ("here", "unknown")


def test_an_index_that_is_no_text_is_one_clear_line(tmp_path: Path) -> None:
    write_faces(tmp_path / "test", 1)
    (tmp_path / "index.csv").write_bytes("file,source\ntest/with_mask/000.png,Zürich\n".encode("latin-1"))
    with pytest.raises(Rejected, match=r"index\.csv: not a table in UTF-8"):
        read_folder(tmp_path / "test")


def test_an_index_as_a_spreadsheet_writes_it_is_read(tmp_path: Path) -> None:
    """With a mark of the byte order before its first column, and short rows."""
    write_faces(tmp_path / "test", 2)
    (tmp_path / "index.csv").write_text("file,label,source\ntest/with_mask/000.png,with_mask,here\ntest/with_mask/001.png\n\n", encoding="utf-8-sig")
    assert read_folder(tmp_path / "test").sources[:2] == ("here", "unknown")


@pytest.mark.parametrize("text", ["", "file;source\na.png;here\n", "name,source\na.png,here\n"])
def test_an_index_that_names_no_files_is_one_clear_line(tmp_path: Path, text: str) -> None:
    write_faces(tmp_path / "test", 1)
    (tmp_path / "index.csv").write_text(text)
    with pytest.raises(Rejected, match=r"index\.csv: not a table.*names no column `file`"):
        read_folder(tmp_path / "test")


@pytest.mark.parametrize("content", [b"", b"name;price\nshoe;3\n", b"file,source\nshoes/a.png,shop\n", b"file,source\n\xff\xfe,x\n"])
def test_an_index_above_a_folder_that_is_of_something_else_is_left_alone(tmp_path: Path, content: bytes) -> None:
    write_faces(tmp_path / "faces", 1)
    (tmp_path / "index.csv").write_bytes(content)
    assert read_folder(tmp_path / "faces").sources == ("unknown", "unknown")
    (tmp_path / "index.csv").write_text("file,source\nfaces/with_mask/000.png,here\n")
    assert read_folder(tmp_path / "faces").sources == ("here", "unknown")


def test_unreadable_pictures_are_named_and_left_out(tmp_path: Path) -> None:
    folder = write_faces(tmp_path / "faces", 2)
    (folder / "with_mask" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0nothing")
    (folder / "with_mask" / "empty.png").touch()
    huge = bytearray(cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes())
    at = huge.index(b"\xff\xc0") + 5
    huge[at : at + 4] = b"\xff\xdc\xff\xdc"  # 65,500 x 65,500, more than OpenCV takes
    (folder / "with_mask" / "huge.jpg").write_bytes(huge)
    (folder / "with_mask" / "notes.txt").write_text("no picture")
    pictures = read_folder(folder)
    assert len(pictures) == 4
    assert set(pictures.unreadable) == {"with_mask/broken.jpg", "with_mask/empty.png", "with_mask/huge.jpg"}


def test_a_file_that_cannot_be_read_is_named_and_left_out(tmp_path: Path) -> None:
    folder = write_faces(tmp_path / "faces", 2)
    (folder / "with_mask" / "gone.jpg").symlink_to("nowhere.jpg")
    assert decode(folder / "with_mask" / "gone.jpg") is None
    os.mkfifo(folder / "with_mask" / "pipe.jpg")  # nobody waits for what it may bring
    (folder / "with_mask" / "linked").symlink_to(tmp_path)
    pictures = read_folder(folder)
    assert len(pictures) == 4
    assert pictures.unreadable == ("with_mask/gone.jpg",)
    assert [path.name for path in others_in(folder)] == ["linked", "pipe.jpg"]


def test_files_and_folders_that_may_not_be_read_are_named_and_left_out(tmp_path: Path) -> None:
    folder = write_faces(tmp_path / "faces", 2)
    closed = [folder / "with_mask" / name for name in ("001.png", "inner", "listed")]
    for inner in closed[1:]:
        inner.mkdir()
        shutil.copy(folder / "with_mask" / "000.png", inner / "more.png")
    for path, mode in zip(closed, (0o000, 0o000, 0o400), strict=True):
        path.chmod(mode)
    command = [sys.executable, "-c", HEEDS_MODES, "-m", "trainer", "audit", folder, "--json"]
    found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, timeout=120, check=True).stdout)
    for path in closed[1:]:
        path.chmod(0o700)
    assert found["unreadable"] == ["with_mask/001.png", "with_mask/inner", "with_mask/listed/more.png"]
    assert found["pictures"] == 3


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_whatever_opencv_reads_is_a_picture(tmp_path: Path, suffix: str) -> None:
    folder = write_faces(tmp_path / "faces", 1)
    image = np.full((40, 40, 3), (30, 90, 200), np.uint8)
    encoded = cv2.imencode(".jpg" if suffix == ".jfif" else suffix, image)[1].tobytes()
    (folder / "with_mask" / f"PICTURE{suffix.upper()}").write_bytes(encoded)
    pictures = read_folder(folder)
    assert pictures.files == ("with_mask/000.png", f"with_mask/PICTURE{suffix.upper()}", "without_mask/000.png")
    assert np.abs(pictures.images_NHWC[1].mean((0, 1)) - (200, 90, 30)).max() < 10


def test_other_sizes_are_resized(tmp_path: Path) -> None:
    folder = write_faces(tmp_path / "faces", 1)
    cv2.imwrite(str(folder / "with_mask" / "large.png"), np.zeros((300, 200, 3), np.uint8))
    assert read_folder(folder).images_NHWC.shape == (3, 128, 128, 3)


def test_a_missing_or_empty_class_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="no folder 'with_mask'"):
        read_folder(tmp_path)
    folder = write_faces(tmp_path / "faces", 1)
    (folder / "without_mask" / "000.png").unlink()
    with pytest.raises(Rejected, match="holds no readable picture"):
        read_folder(folder)


@given(st.integers(0, 2**32 - 1))
def test_augmentation_is_seeded_and_keeps_the_shape(seed: int) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (128, 128, 3)).astype(np.uint8)
    kept = picture.copy()
    one, two = (augment(picture, np.random.default_rng(seed)) for _ in range(2))
    assert one.shape == picture.shape
    assert one.dtype == np.uint8
    assert np.array_equal(one, two)
    assert np.array_equal(picture, kept)
