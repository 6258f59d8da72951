"""The commands as a person or a script calls them."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from claims import write_claim
from live import killed_at_last
from rig import HEEDS_MODES, MOSQUITTO, ROOT, Mosquitto, free_port, missing

from edge_agent.demo_scene import DemoScene
from edge_agent.gstreamer import INSPECT

LOUD = {name: value for name, value in os.environ.items() if not name.startswith("OPENCV_")}
"""The environment as a person has it; the agent imported here has set these."""


def agent(*arguments: object, **kwargs: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edge_agent", *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False, **kwargs
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    scene = DemoScene()
    folder = tmp_path / "pictures"
    folder.mkdir()
    cv2.imwrite(str(folder / "bare.jpg"), scene.at(3.0))
    cv2.imwrite(str(folder / "masked.png"), scene.at(11.0))
    cv2.imwrite(str(folder / "nobody.jpg"), np.full((200, 300, 3), 90, np.uint8))
    return folder


def test_infer_says_what_each_face_wears(folder: Path) -> None:
    done = agent("infer", folder, "--json")
    assert done.returncode == 0, done.stderr
    results = {Path(result["file"]).name: result for result in json.loads(done.stdout)["results"]}
    assert [face["label"] for face in results["bare.jpg"]["faces"]] == ["without_mask"]
    assert [face["label"] for face in results["masked.png"]["faces"]] == ["with_mask"]
    assert results["nobody.jpg"] == {"file": str(folder / "nobody.jpg"), "frame": 0, "faces": []}
    face = results["bare.jpg"]["faces"][0]
    assert set(face) == {"box", "score", "label", "p_no_mask"}
    assert len(face["box"]) == 4
    assert face["p_no_mask"] > 0.9


def test_a_full_disk_is_one_line(folder: Path) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "edge_agent", "infer", str(folder), "--json"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == "error: No space left on device"
    assert "Traceback" not in done.stderr


def test_infer_reads_what_it_can_and_names_what_it_cannot(folder: Path, tmp_path: Path) -> None:
    (folder / "broken.jpg").write_bytes((folder / "bare.jpg").read_bytes()[:300])
    (folder / "text.jpg").write_text("this is no picture")
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("words")
    done = agent("infer", folder, tmp_path / "empty", tmp_path / "none", tmp_path / "notes.txt", "--json")
    assert done.returncode == 1
    assert len(json.loads(done.stdout)["results"]) == 3
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 5, done.stderr
    for line, name in zip(lines, ("broken.jpg", "text.jpg", "empty", "none", "notes.txt"), strict=True):
        assert line.startswith("error: ")
        assert name in line


def test_infer_names_what_it_may_not_look_into_and_reads_the_rest(folder: Path) -> None:
    bare = folder / "bare.jpg"
    for name, mode in (("closed", 0o000), ("listed", 0o644)):
        (folder / name).mkdir()
        shutil.copy(bare, folder / name)
        (folder / name).chmod(mode)
    shutil.copy(bare, folder / "secret.jpg")
    (folder / "secret.jpg").chmod(0o000)
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    command = [sys.executable, "-c", HEEDS_MODES, "-m", "edge_agent", "infer", folder, folder / "listed" / "bare.jpg", bare]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert [line.partition(" ")[0] for line in done.stdout.splitlines()] == [
        str(folder / name) for name in ("bare.jpg", "masked.png", "nobody.jpg", "bare.jpg")
    ]
    assert done.stderr.splitlines() == [
        f"error: {folder}/closed: Permission denied",
        f"error: {folder}/gone.jpg: No such file or directory",
        f"error: {folder}/listed/bare.jpg: Permission denied",
        f"error: {folder}/secret.jpg: not a readable picture",
        f"error: {folder}/listed/bare.jpg: Permission denied",
    ]


def test_infer_says_how_many_files_it_passed_over(folder: Path) -> None:
    (folder / "notes.txt").write_text("words")
    os.mkfifo(folder / "pipe.jpg")
    (folder / "linked").symlink_to(folder)
    done = agent("infer", folder, "--json")
    assert (done.returncode, len(json.loads(done.stdout)["results"])) == (0, 3)
    assert done.stderr == f"{folder}: passed over, for they are neither pictures nor videos: 3\n"


def test_infer_names_a_huge_picture_and_reads_the_rest(folder: Path) -> None:
    write_claim(folder / "huge.png", 17_000)
    done = agent("infer", folder, env=LOUD)
    assert (done.returncode, len(done.stdout.splitlines())) == (1, 3)
    assert done.stderr == f"error: {folder}/huge.png: too large to be looked at here\n"


def test_infer_goes_on_where_memory_does_not_suffice_for_one_picture(folder: Path) -> None:
    """Neither to decode one, nor to look at another."""
    write_claim(folder / "huge.png", 16_000)
    cv2.imwrite(str(folder / "strip.png"), np.zeros((130_000, 480), np.uint8))
    script = """
import resource, sys
from pathlib import Path
from edge_agent.infer import infer
from edge_agent.load import load_eyes
from edge_agent.settings import Settings

eyes = load_eyes(Settings())
pages = int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (400 << 20),) * 2)
for result in infer(eyes, Path(sys.argv[1])):
    print(result["file"] if isinstance(result, dict) else result)
"""
    done = subprocess.run([sys.executable, "-c", script, folder], capture_output=True, text=True, timeout=120, check=False)
    assert done.stderr == ""
    refused = [f"{folder}/{name}.png: too large to be looked at here" for name in ("huge", "strip")]
    read = [f"{folder}/{name}" for name in ("bare.jpg", "masked.png", "nobody.jpg")]
    assert done.stdout.splitlines() == sorted([*read, *refused])


def test_infer_reads_the_frames_of_a_video(tmp_path: Path) -> None:
    path, scene = tmp_path / "clip.mp4", DemoScene()
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 15, (960, 540))
    for time_s in (3.0, 3.1, 11.0):
        writer.write(scene.at(time_s))
    writer.release()
    done = agent("infer", path, "--json")
    assert done.returncode == 0, done.stderr
    labels = [[face["label"] for face in result["faces"]] for result in json.loads(done.stdout)["results"]]
    assert labels == [["without_mask"], ["without_mask"], ["with_mask"]]
    assert [result["frame"] for result in json.loads(done.stdout)["results"]] == [0, 1, 2]


def test_infer_names_a_video_without_a_frame(folder: Path) -> None:
    whole = folder / "whole.avi"
    writer = cv2.VideoWriter(str(whole), cv2.VideoWriter_fourcc(*"MJPG"), 15, (64, 48))
    writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    (folder / "cut.avi").write_bytes(whole.read_bytes().partition(b"movi")[0] + b"movi")
    done = agent("infer", folder, "--json")
    assert done.returncode == 1
    assert f"error: {folder}/cut.avi: holds no frame that can be read" in done.stderr.splitlines()
    assert len(json.loads(done.stdout)["results"]) == 4


def test_infer_says_where_a_video_is_cut_short_after_its_frames(tmp_path: Path) -> None:
    whole = tmp_path / "whole.avi"
    writer = cv2.VideoWriter(str(whole), cv2.VideoWriter_fourcc(*"MJPG"), 15, (64, 48))
    for _ in range(20):
        writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    data = whole.read_bytes()
    (tmp_path / "half.avi").write_bytes(data[: data.rindex(b"00dc", 0, data.rindex(b"idx1") * 2 // 3)])
    done = agent("infer", tmp_path, "--json")
    counts = Counter(Path(result["file"]).name for result in json.loads(done.stdout)["results"])
    assert counts["whole.avi"] == 20
    assert 0 < counts["half.avi"] < 19
    assert done.returncode == 1
    assert done.stderr == f"error: {tmp_path}/half.avi: ends after {counts['half.avi']} of 20 frames: is it whole?\n"


def test_infer_takes_names_that_are_no_text(folder: Path) -> None:
    """OpenCV crashes on such a name of a video, and Python on printing one."""
    name = os.fsdecode(b"\xff")
    shutil.copy(folder / "bare.jpg", folder / f"{name}.jpg")
    (folder / f"{name}.mp4").write_text("no video")
    (folder / f"{name}.png").write_text("no picture")
    done = agent("infer", folder)
    assert done.returncode == 1
    looked_at = [line.partition(" ")[0] for line in done.stdout.splitlines()]
    assert looked_at == [f"{folder}/{file}" for file in ("bare.jpg", "masked.png", "nobody.jpg", "?.jpg")]
    assert done.stderr.splitlines() == [
        f"error: {folder}/?.mp4: the name must be UTF-8",
        f"error: {folder}/?.png: not a readable picture",
    ]


def test_a_line_break_in_a_name_makes_no_second_line(tmp_path: Path) -> None:
    folder = tmp_path / "a\nb"
    folder.mkdir()
    cv2.imwrite(str(tmp_path / "ok.png"), np.full((200, 300, 3), 90, np.uint8))
    (tmp_path / "ok.png").rename(folder / "it's fine\r\x1b.png")
    (folder / "broken\u2028.png").write_text("no picture")
    (folder / "notes\n.txt").write_text("words")
    shown = str(folder).replace("\n", r"\n")
    done = agent("infer", folder, folder / "\n.png")
    assert done.stdout == rf"{shown}/it's fine\r\x1b.png 0: no face" + "\n"
    assert done.stderr.splitlines() == [
        f"{shown}: passed over, for they are neither pictures nor videos: 1",
        rf"error: {shown}/broken\u2028.png: not a readable picture",
        rf"error: {shown}/\n.png: no such file or folder",
    ]
    (result,) = json.loads(agent("infer", folder, "--json").stdout)["results"]
    assert result["file"] == str(folder / "it's fine\r\x1b.png")


def test_infer_for_people(folder: Path) -> None:
    done = agent("infer", folder / "bare.jpg", folder / "nobody.jpg")
    assert "bare.jpg 0: without_mask (" in done.stdout
    assert "nobody.jpg 0: no face" in done.stdout


def test_bench_prints_the_figures() -> None:
    done = agent("bench", "--frames", 10, "--json")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert {"fps", "fps_end_to_end", "latency_p50_ms", "latency_p95_ms", "detect_ms", "classify_ms", "faces", "memory_mb"} <= set(figures)
    assert figures["faces"] == 1
    assert figures["fps"] == pytest.approx(1000 / (figures["detect_ms"] + figures["classify_ms"] + figures["decide_ms"]), rel=0.02)


def test_bench_of_a_folder_reads_it_again(folder: Path) -> None:
    done = agent("bench", "--camera", f"images:{folder}", "--frames", 9, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["frames"] == 9


def test_doctor_names_what_is_wrong(tmp_path: Path) -> None:
    settings = tmp_path / "agent.toml"
    settings.write_text(f'uri = "v4l2:///dev/video99"\nstate_dir = "{tmp_path}"\n[broker]\nurl = "mqtt://127.0.0.1:9"\n')
    done = agent("doctor", "--settings", settings, "--json")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    found = {finding["part"]: finding for finding in report["findings"]}
    assert not report["ok"]
    assert [part for part, finding in found.items() if not finding["is_good"]] == ["camera", "broker"]
    assert "plugged in" in found["camera"]["text"]
    assert "absent" in found["broker"]["text"]
    assert "gate" in found["classifier"]["text"]


def test_doctor_tells_a_broker_that_refuses_from_one_that_is_absent(tmp_path: Path) -> None:
    if MOSQUITTO is None:
        missing("mosquitto")
    broker = Mosquitto(tmp_path, ("allow_anonymous false",))
    broker.start()
    try:
        done = agent("doctor", "--json", env={**os.environ, "MASKFLEET_BROKER__URL": broker.url, "MASKFLEET_STATE_DIR": str(tmp_path)})
    finally:
        broker.stop()
    (found,) = [finding for finding in json.loads(done.stdout)["findings"] if not finding["is_good"]]
    assert found["part"] == "broker"
    assert "refused" in found["text"]
    assert "uthori" in found["text"]  # not authorised, in the words of the library


def test_doctor_names_the_elements_that_a_csi_camera_lacks(tmp_path: Path) -> None:
    if shutil.which(INSPECT) is None:
        missing(INSPECT)
    quiet = {**os.environ, "MASKFLEET_STATE_DIR": str(tmp_path), "MASKFLEET_BROKER__URL": "mqtt://127.0.0.1:9"}
    texts = []
    for source in ("nosuchsource ! video/x-raw ! nosuchconvert", "videotestsrc"):
        done = agent("doctor", "--camera", "csi://0?width=320&height=240", "--json", env={**quiet, "MASKFLEET_CSI_SOURCE": source})
        texts += [finding["text"] for finding in json.loads(done.stdout)["findings"] if finding["part"] == "gstreamer"]
    assert texts[0].startswith("no element nosuchsource, nosuchconvert: ")
    assert texts[1] == "all elements of the pipeline are there"


def test_doctor_is_content(tmp_path: Path, mosquitto) -> None:
    settings = tmp_path / "agent.toml"
    settings.write_text(f'state_dir = "{tmp_path}"\n[broker]\nurl = "{mosquitto.url}"\n')
    done = agent("doctor", "--settings", settings)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no" not in [line.split()[0] for line in done.stdout.splitlines()]
    assert not list(tmp_path.glob("doctor*"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("run", "--camera", "file:/none.mp4"), "no such file"),
        (("run", "--camera", "nonsense"), "known are"),
        (("run", "--camera", ""), "camera '': known are"),
        (("run", "--settings", "/none.toml"), "no such file"),
        (("bench", "--camera", "images:/none"), "no such folder"),
        (("bench", "--camera", "rtsp://[bad"), "Invalid IPv6 URL"),
        (("run", "--camera", "file:GARBAGE.mp4"), "GARBAGE.mp4: cannot be opened"),
        (("infer", "GARBAGE.mp4"), "GARBAGE.mp4: cannot be opened"),
        (("run", "--camera", "images:BROKEN"), "holds no frame that can be read"),
        (("bench", "--camera", "images:BROKEN"), "holds no frame that can be read"),
    ],
)
def test_a_bad_argument_is_one_line(tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    (tmp_path / "GARBAGE.mp4").write_text("no video")
    (tmp_path / "BROKEN").mkdir()
    (tmp_path / "BROKEN" / "a.jpg").write_text("no picture")
    variables = {"MASKFLEET_STATE_DIR": str(tmp_path), "MASKFLEET_LOG_LEVEL": "ERROR", "PYTHONPATH": str(ROOT)}
    done = agent(*arguments, cwd=tmp_path, env={**LOUD, **variables})
    assert done.returncode == 1
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "Traceback" not in done.stderr


async def test_an_unreachable_network_camera_is_one_line(tmp_path: Path) -> None:
    variables = {"MASKFLEET_STATE_DIR": str(tmp_path), "MASKFLEET_BROKER__URL": f"mqtt://127.0.0.1:{free_port()}"}
    command = (sys.executable, "-m", "edge_agent", "run", "--camera", f"rtsp://127.0.0.1:{free_port()}/stream")
    process = await asyncio.create_subprocess_exec(*command, env={**LOUD, **variables}, stderr=asyncio.subprocess.PIPE)
    await asyncio.sleep(5)  # long enough for further tries
    process.terminate()
    _, said = await process.communicate()
    about_it = [line for line in said.decode().splitlines() if "protocol.link" not in line]
    assert len(about_it) == 1, about_it
    assert about_it[0].endswith("cannot be opened; trying again")


async def test_a_looping_folder_that_cannot_be_read_is_tried_again_until_the_agent_is_stopped(folder: Path, tmp_path: Path) -> None:
    variables = {"MASKFLEET_STATE_DIR": str(tmp_path), "MASKFLEET_BROKER__URL": f"mqtt://127.0.0.1:{free_port()}"}
    command = (sys.executable, "-m", "edge_agent", "run", "--camera", f"images:{folder}?loop=1")
    process = await asyncio.create_subprocess_exec(*command, env={**LOUD, **variables}, stderr=asyncio.subprocess.PIPE)
    async with killed_at_last(process), asyncio.timeout(30):
        while b"3 pictures at 5 fps" not in await process.stderr.readline():
            pass
        for picture in folder.iterdir():
            picture.write_text("no picture")
        while b"holds no picture that can be read; trying again" not in await process.stderr.readline():
            pass
        await asyncio.sleep(4)  # long enough to have failed
        process.terminate()
        await process.communicate()
    assert process.returncode == 0


def test_the_agent_needs_no_torch(folder: Path) -> None:
    """With torch and onnx made impossible to import, the agent still sees."""
    script = "import sys; sys.modules.update(torch=None, onnx=None); from edge_agent.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", script, "infer", folder], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "without_mask" in done.stdout


def test_a_picture_cut_short_is_never_a_crash(folder: Path, tmp_path: Path) -> None:
    whole = (folder / "bare.jpg").read_bytes()
    cut = tmp_path / "cut"
    cut.mkdir()
    for part in range(10):
        (cut / f"{part}.jpg").write_bytes(whole[: len(whole) * part // 10])
    shutil.copy(folder / "bare.jpg", cut / "whole.jpg")
    done = agent("infer", cut, "--json")
    assert "Traceback" not in done.stderr
    files = [Path(result["file"]).name for result in json.loads(done.stdout)["results"]]
    assert "whole.jpg" in files
    assert "0.jpg" not in files


async def test_who_is_asked_a_second_time_to_stop_does_so_though_the_disk_hangs(tmp_path: Path) -> None:
    script = """
import time
from edge_agent.__main__ import app
from edge_agent.outbox import Outbox
Outbox.close = lambda self: time.sleep(60)
app(["run", "--camera", "demo:"])
"""
    variables = {"MASKFLEET_STATE_DIR": str(tmp_path), "MASKFLEET_BROKER__URL": f"mqtt://127.0.0.1:{free_port()}"}
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, env={**LOUD, **variables}, stderr=asyncio.subprocess.PIPE)
    async with asyncio.timeout(30):
        await process.stderr.readline()  # that there is no broker: it runs
        process.terminate()
        await asyncio.sleep(3)
        assert process.returncode is None
        process.terminate()
        assert await process.wait() == 1
