import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from claims import write_claim
from timed_video import write_timed

from edge_agent.camera_uri import CameraUri
from edge_agent.files import PICTURE_SUFFIXES, VIDEO_SUFFIXES, files_in, is_cut, read_picture
from edge_agent.sources import open_source, open_video, opener
from protocol.errors import DeviceError, Reason, Rejected


def write_video(path: Path, frames: int = 10, fps: float = 20) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), fps, (64, 48))
    for number in range(frames):
        writer.write(np.full((48, 64, 3), number * 20 % 256, np.uint8))
    writer.release()
    return path


def read_all(uri: str, limit: int = 1000) -> int:
    source = open_source(CameraUri.parse(uri))
    try:
        for number in range(limit):
            if source.read() is None:
                return number
        return limit
    finally:
        source.close()


def test_a_video_is_read_to_its_end(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a b.mp4")
    source = open_source(CameraUri.parse(f"file:{tmp_path}/a%20b.mp4"))
    assert source.got == "64x48 at 20 fps"
    assert source.frame_s == pytest.approx(0.05)
    source.close()
    assert read_all(f"file:{video}") == 10
    assert read_all(f"file://{video}?pace=max") == 10


def test_a_video_is_cut_where_its_file_ends_too_early(tmp_path: Path) -> None:
    data = write_video(tmp_path / "a.mp4").read_bytes()
    assert not is_cut(tmp_path / "a.mp4")
    cut = tmp_path / "cut.mp4"
    for end in (len(data) - 1, len(data) // 2, 12):
        cut.write_bytes(data[:end])
        assert is_cut(cut)
    for more in (b"", b"\0" * 100, b"\0\0\0\1mdat" + (116).to_bytes(8, "big") + bytes(100)):
        cut.write_bytes(data + more)
        assert not is_cut(cut)
    cut.write_bytes(data + b"\0\0\0\1mdat" + (117).to_bytes(8, "big") + bytes(100))
    assert is_cut(cut)


def test_a_video_of_which_only_a_part_is_to_be_shown_is_not_cut(tmp_path: Path) -> None:
    """As trimming on a phone leaves it: all frames are in the file, and an edit list says which are shown."""
    video = write_video(tmp_path / "a.mp4", frames=40)
    data = bytearray(video.read_bytes())
    edit, movie = data.index(b"elst"), data.index(b"mvhd")
    data[edit + 12 : edit + 16] = (int.from_bytes(data[movie + 16 : movie + 20], "big")).to_bytes(4, "big")
    video.write_bytes(data)
    source = open_video(video)
    assert read_all(f"file:{video}") < source.frames
    assert not is_cut(video)
    source.close()


def test_a_looped_video_starts_again(tmp_path: Path) -> None:
    assert read_all(f"file:{write_video(tmp_path / 'a.mp4')}?loop=1", limit=35) == 35


def times(uri: str, count: int) -> list[float | None]:
    source = open_source(CameraUri.parse(uri))
    try:
        return [source.media_s for _ in range(count) if source.read() is not None]
    finally:
        source.close()


def test_the_frames_of_a_video_have_the_times_that_it_tells(tmp_path: Path) -> None:
    video = write_timed(tmp_path / "a.mkv", [0, 100, 150, 1000, 3_601_000])
    assert times(f"file:{video}", 6) == pytest.approx([0, 0.1, 0.15, 1, 3601])


def test_the_time_of_a_looped_video_goes_on_across_the_seam(tmp_path: Path) -> None:
    video = write_timed(tmp_path / "a.mkv", [0, 100, 150])
    source = open_source(CameraUri.parse(f"file:{video}"))
    seam_s = source.frame_s
    source.close()
    again_s = 0.15 + seam_s
    assert times(f"file:{video}?loop=1", 6) == pytest.approx([0, 0.1, 0.15, again_s, again_s + 0.1, again_s + 0.15])


def test_where_a_file_tells_no_times_its_frames_are_evenly_spaced(tmp_path: Path) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "a.mpg"), cv2.VideoWriter_fourcc(*"PIM1"), 25, (64, 48))
    for number in range(5):
        writer.write(np.full((48, 64, 3), number * 20 % 256, np.uint8))
    writer.release()
    assert times(f"file:{tmp_path}/a.mpg", 6) == pytest.approx([0, 0.04, 0.08, 0.12, 0.16])  # of the last one it tells none
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    assert times(f"images:{tmp_path}?fps=4&loop=1", 3) == [0, 0.25, 0.5]


def test_a_folder_gives_its_readable_pictures(tmp_path: Path) -> None:
    for name in ("b.png", "a.jpg"):
        cv2.imwrite(str(tmp_path / name), np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    (tmp_path / "notes.txt").write_text("no picture")
    assert read_all(f"images:{tmp_path}?fps=50") == 2
    assert read_all(f"images:{tmp_path}?loop=1", limit=7) == 7


@pytest.mark.parametrize("suffix", sorted(PICTURE_SUFFIXES))
def test_pictures_of_each_name_are_read(tmp_path: Path, suffix: str) -> None:
    _, data = cv2.imencode({".jfif": ".jpg"}.get(suffix, suffix), np.full((48, 64, 3), 90, np.uint8))
    (tmp_path / f"A{suffix.upper()}").write_bytes(data.tobytes())
    (path,) = files_in(tmp_path, PICTURE_SUFFIXES).files
    image = read_picture(path)
    assert image.shape == (48, 64, 3)
    assert abs(image.mean() - 90) <= 3


CODECS = {".avi": "MJPG", ".webm": "VP80", ".ts": "MPG2", ".mpg": "PIM1", ".mpeg": "PIM1", ".wmv": "WMV2", ".flv": "FLV1"}


@pytest.mark.parametrize("suffix", sorted(VIDEO_SUFFIXES))
def test_videos_of_each_name_are_read(tmp_path: Path, suffix: str) -> None:
    writer = cv2.VideoWriter(str(tmp_path / f"a{suffix}"), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*CODECS.get(suffix, "mp4v")), 25, (64, 48))
    assert writer.isOpened()
    for number in range(5):
        writer.write(np.full((48, 64, 3), number * 20 % 256, np.uint8))
    writer.release()
    (path,) = files_in(tmp_path, VIDEO_SUFFIXES).files
    assert read_all(f"file:{path}") == 5


def test_the_demo_is_a_live_camera() -> None:
    uri = CameraUri.parse("demo:")
    assert not uri.is_recorded
    source = open_source(uri)
    assert source.frame_s == pytest.approx(1 / 15)
    assert source.read().shape == (540, 960, 3)


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("", "known are"),
        ("ftp://camera", "known are"),
        ("video.mp4", "^camera 'video.mp4': known are"),
        ("/videos/a.mp4", "^camera '/videos/a.mp4': known are"),
        ("10.0.0.5/cam?password=x", r"^camera '\*\*\*': known are"),
        ("10.0.0.5/admin:secret/ch1", r"^camera '\*\*\*': known are"),
        ("user@10.0.0.5/cam", r"^camera '\*\*\*': known are"),
        ("/dev/video0", r"^camera '/dev/video0': did you mean v4l2:///dev/video0\?$"),
        ("12", r"^camera '12': did you mean v4l2:///dev/video12\?$"),
        ("file:", "^camera file: expected a path"),
        ("images:?fps=2", "^camera images: expected a path"),
        ("v4l2://", "^camera v4l2: expected a path"),
        ("file:x.mp4?sped=1", "unknown option 'sped'"),
        ("file:/none/x.mp4", "no such file"),
        ("file:x.mp4?loop=yes", "expected 0 or 1"),
        ("images:/none", "no such folder"),
        ("images:/tmp?fps=0", "expected a number above 0"),
        ("images:/tmp?fps=fast", "expected a number above 0"),
        ("csi://0?flip=x", "expected a small number"),
        ("v4l2:///dev/video99?fps=abc", "expected a number above 0"),
        ("rtsp://", "^camera rtsp: expected rtsp://host$"),
        ("rtsp:camera", "^camera rtsp: expected rtsp://host$"),
        ("rtsp://user:secret@:554/stream", "^camera rtsp: expected rtsp://host$"),
    ],
)
def test_what_cannot_be_is_rejected_before_it_is_opened(uri: str, says: str) -> None:
    with pytest.raises(Rejected, match=says):
        opener(CameraUri.parse(uri))


def test_an_empty_folder_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(Rejected) as caught:
        opener(CameraUri.parse(f"images:{tmp_path}"))
    assert caught.value.reason is Reason.BAD_INPUT


def test_a_file_that_is_no_video_may_not_be_opened(tmp_path: Path) -> None:
    (tmp_path / "x.mp4").write_text("hello")
    with pytest.raises(DeviceError, match="cannot be opened"):
        open_source(CameraUri.parse(f"file:{tmp_path}/x.mp4"))


def test_a_camera_that_is_unplugged_may_come_back() -> None:
    with pytest.raises(DeviceError, match="plugged in"):
        open_source(CameraUri.parse("v4l2:///dev/video99"))


@pytest.mark.parametrize("secret", ["secret", "se/cret", "pa#ss", "pa?ss", "p@ss", "a:b"])
def test_passwords_are_not_shown(secret: str) -> None:
    shown = "rtsp://***" if "/" in secret else "rtsp://10.0.0.1/***"
    assert CameraUri.parse(f"rtsp://user:{secret}@10.0.0.1/stream?token=abc").text == shown


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("RTSP://10.0.0.5/cam?user=admin&password=secret", "RTSP://10.0.0.5/***"),
        (" rtsp://10.0.0.5/cam?password=secret", "rtsp://10.0.0.5/***"),
        ("rtsp://10.0.0.5:554/user=admin_password=secret_channel=1.sdp", "rtsp://10.0.0.5:554/***"),
        ("rtsp://user:secret@10.0.0.5:554/user=admin&password=secret", "rtsp://10.0.0.5:554/***"),
        ("rtsp://10.0.0.5/admin:se@cret/ch1", "rtsp://***"),
        ("rtsp://10.0.0.5/admin:secret/ch1", "rtsp://10.0.0.5/***"),
        ("rtsp://10.0.0.5?password=secret", "rtsp://10.0.0.5/***"),
    ],
)
def test_passwords_are_not_shown_wherever_a_camera_wants_them(uri: str, shown: str) -> None:
    asked = CameraUri.parse(uri)
    assert asked.text == shown
    assert asked.place == uri.strip()


def test_a_files_name_may_hold_a_hash() -> None:
    assert CameraUri.parse("file:/v/clip#2.mp4?loop=1").place == "/v/clip#2.mp4"


def test_a_name_that_is_no_text_is_shown_with_question_marks(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"dir-\xff")
    folder.mkdir()
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "a.png").rename(folder / "a.png")
    uri = CameraUri.parse(f"images:{folder}")
    assert (uri.place, uri.text) == (str(folder), f"images:{tmp_path}/dir-?")
    assert read_all(f"images:{folder}") == 1


@pytest.mark.parametrize("uri", ["file:FOLDER/NAME.mp4", "v4l2:FOLDER/NAME.mp4", "rtsp://user:secret@127.0.0.1:9/NAME"])
def test_a_name_that_opencv_cannot_take_is_rejected(tmp_path: Path, uri: str) -> None:
    name = os.fsdecode(b"\xff")
    (tmp_path / f"{name}.mp4").touch()
    with pytest.raises(Rejected, match="the name must be UTF-8") as caught:
        open_source(CameraUri.parse(uri.replace("FOLDER", str(tmp_path)).replace("NAME", name)))
    assert "secret" not in str(caught.value)


def test_a_videos_name_may_hold_a_colon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "a.mp4").rename(tmp_path / "2024-05-01T12:30:05.mp4")
    monkeypatch.chdir(tmp_path)
    assert read_all("file:2024-05-01T12:30:05.mp4") == 10


def test_a_picture_that_claims_to_be_huge_is_refused_and_passed_over(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="too large to be looked at here"):
        read_picture(write_claim(tmp_path / "huge.png", 60_000))
    cv2.imwrite(str(tmp_path / "small.png"), np.zeros((8, 8, 3), np.uint8))
    assert read_all(f"images:{tmp_path}") == 1


@pytest.mark.parametrize(
    "uri",
    ["http://10.0.0.5/?password=secret", "rtsp://[bad", "rtsp://user:secret@[bad", "file:x.mp4?loop", "file:x.mp4?pace=fast", "csi://0?width=0.5"],
)
def test_a_malformed_uri_is_rejected_without_its_secrets(uri: str) -> None:
    with pytest.raises(Rejected) as caught:
        open_source(CameraUri.parse(uri))
    assert "secret" not in str(caught.value)
