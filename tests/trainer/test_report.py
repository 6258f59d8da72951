"""Reports: made from finished run folders alone, and whole in one file."""

import json
import re
from dataclasses import replace
from pathlib import Path

import cv2
import pytest
from trainer_faces import write_splits

from protocol.errors import Rejected
from trainer import job, report, splits, tables
from trainer.crops import Cut
from trainer.data import read_folder
from trainer.runs import Lineage
from trainer.train import Recipe


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_splits(tmp_path_factory.mktemp("data"), n=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """Two seeds of a teacher and its student."""
    folder = tmp_path_factory.mktemp("runs")
    pictures = splits.read(data)
    for seed in (0, 1):
        recipe = Recipe(epochs=2, batch=8, seed=seed)
        teacher = f"small-scratch-s{seed}"
        list(job.run(job.Job(teacher, "small", recipe), pictures, data, folder))
        list(job.run(job.Job(f"door-small-s{seed}", "door-small", recipe, Lineage(teacher=teacher)), pictures, data, folder))
    (folder / "unfinished").mkdir()
    return folder


def test_seeds_are_averaged(folder: Path) -> None:
    finished = tables.collect(folder)
    assert len(finished) == 4
    rows = {row["name"]: row for row in tables.models(finished, {})}
    assert set(rows) == {"small-scratch", "door-small"}
    each = [tables.score(run).accuracy for run in finished if run.key == "door-small"]
    assert rows["door-small"]["seeds"] == 2
    assert rows["door-small"]["accuracy_mean"] == pytest.approx(sum(each) / 2)
    assert rows["door-small"]["accuracy_sd"] == pytest.approx(abs(each[0] - each[1]) / 2**0.5)
    assert rows["door-small"]["how"] == "distilled from small-scratch"
    assert rows["door-small"]["onnxruntime_ms"] is None


@pytest.mark.parametrize(
    ("parent", "held_out", "called"),
    [
        ("door-small-0", "", "door-small-0"),
        ("my-student", "", "my-student"),
        ("my-student-s12", "", "my-student"),
        ("door-without-dyes", "", "door-without-dyes"),
        ("lite0-without-web-s0", "web", "lite0"),
    ],
)
def test_a_parent_is_called_by_its_name_without_its_seed(folder: Path, parent: str, held_out: str, called: str) -> None:
    run = tables.collect(folder)[0]
    lineage = Lineage(teacher=parent, start=parent, ratio=0.5, held_out=held_out)
    assert replace(run, config=replace(run.config, lineage=lineage)).how == f"pruned 50% of {called}, distilled from {called}"


def test_what_is_scored_from_the_folder_is_what_was_scored_in_training(folder: Path) -> None:
    for run in tables.collect(folder):
        assert tables.score(run).accuracy == pytest.approx(run.results.scores["test"].accuracy)


def test_the_page_is_whole_in_itself(folder: Path, data: Path, tmp_path: Path) -> None:
    page = report.write(folder, data, tmp_path / "study.md")
    text = page.read_text()
    assert not re.search(r"""(src|href)=['"](?!data:)""", text), "nothing is loaded from elsewhere"
    assert text.count("data:image/png") >= 4
    for title in ("Models", "Cost", "Five ways to small", "Sources"):
        assert f"<h2>{title}</h2>" in text
    wrong = sum(int(n) for n in re.findall(r"(\d+) of \d+ wrong", text))
    assert text.count("data:image/jpeg") == wrong, "each mistake is shown"
    markdown = (tmp_path / "study.md").read_text()
    assert markdown == (folder / "report.md").read_text()
    assert "| door-small | distilled from small-scratch | 48,082 |" in markdown
    assert str(folder) not in markdown + text
    assert str(data) not in markdown + text


def test_without_data_there_are_no_pictures(folder: Path) -> None:
    assert "data:image/jpeg" not in report.write(folder, None).read_text()


def test_nothing_finished_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="no finished run"):
        report.write(tmp_path, None)


def test_crops_are_scored_as_they_are_given(folder: Path, data: Path) -> None:
    cut = Cut(read_folder(data / "test"), {"with_mask": 9, "without_mask": 8})
    finished = tables.collect(folder)
    tables.score_crops(finished, {"yunet": cut})
    path = finished[0].folder / tables.CROPS_FILE
    found = json.loads(path.read_text())
    assert found["yunet"]["annotated"] == {"with_mask": 9, "without_mask": 8}
    tables.score_crops(finished, {"yunet": replace(cut, annotated={"with_mask": 99, "without_mask": 8})})
    assert json.loads(path.read_text())["yunet"]["annotated"]["with_mask"] == 99, "of other frames"
    tables.score_crops(finished, {})
    assert json.loads(path.read_text())["yunet"]["annotated"]["with_mask"] == 99, "without frames nothing changes"
    row = tables.models(finished, {})[0]
    assert 0 <= row["crops_yunet"] <= 1
    assert row["crops_haar"] is None
    path.unlink()


@pytest.mark.parametrize("text", ["{", "[1]", "3"])
def test_a_damaged_document_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "latency.json").write_text(text)
    with pytest.raises(Rejected, match=r"latency\.json: damaged"):
        tables.read_json(tmp_path / "latency.json")


def test_a_mistakes_picture_that_is_gone_is_left_out(folder: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "other.png"), cv2.UMat(8, 8, cv2.CV_8UC3).get())
    assert "data:image/jpeg" not in report.write(folder, tmp_path).read_text()
