"""The training of a detector: to the same end however often it is cut off."""

import io
import json
import resource
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn_faces import TINY, drawn_library, train
from rig import lives, wait_until
from safetensors.torch import load_file

from protocol.errors import DeviceError, Rejected
from trainer import detector
from trainer.detector import CONFIG_FILE, STATE_FILE, WEIGHTS_FILE, fit_detector, load_run
from trainer.detector_batch import made_ahead, numbered_batch
from trainer.detector_commands import is_detector_run
from trainer.detector_recipe import DetectorRecipe


def test_a_few_steps_lower_the_loss(tmp_path):
    recipe = DetectorRecipe(size="small", steps=40, batch=4, plain_share=0)
    reports = train(tmp_path, recipe, report_every=10)
    assert [report.step for report in reports] == [10, 20, 30, 40]
    assert sum(reports[-1].losses.values()) < 0.8 * sum(reports[0].losses.values())


def test_a_training_that_was_cut_off_goes_on_to_the_same_end(tmp_path):
    train(tmp_path / "whole", save_every=2)
    list(islice(fit_detector(drawn_library(), TINY, tmp_path / "cut", report_every=1, save_every=2), 3))  # leaves the checkpoint of step 2
    assert [report.step for report in train(tmp_path / "cut", report_every=1)] == [3, 4]
    whole, cut = (load_file(tmp_path / run / WEIGHTS_FILE) for run in ("whole", "cut"))
    assert all(np.array_equal(whole[name], cut[name]) for name in whole)


@pytest.mark.parametrize("bad", ["loss", "slope"])
def test_a_loss_that_is_no_number_ends_the_training_and_leaves_the_last_good_checkpoint(tmp_path, monkeypatch, bad):
    steps = iter(range(1, TINY.steps + 1))

    def spoilt(*given, real=detector.detection_loss):
        loss, losses = real(*given)
        if next(steps) < 4:
            return loss, losses
        # The slope of a root at zero is not finite.
        return (loss * float("nan") if bad == "loss" else loss + (loss * 0).sqrt()), losses

    monkeypatch.setattr(detector, "detection_loss", spoilt)
    with pytest.raises(DeviceError, match=r"step 4: the loss is .*; train with a lower learning rate than 0\.004") as caught:
        train(tmp_path, save_every=2)
    assert "\n" not in str(caught.value)
    assert all(weights.isfinite().all() for weights in load_file(tmp_path / WEIGHTS_FILE).values())
    monkeypatch.undo()
    assert [report.step for report in train(tmp_path, report_every=1)] == [3, 4], "it goes on where it was good"


def test_a_run_with_other_settings_is_not_gone_on_with(tmp_path):
    train(tmp_path)
    with pytest.raises(Rejected, match="other settings"):
        train(tmp_path, DetectorRecipe(size="small", steps=5, batch=2))


def test_another_machine_goes_on_with_other_threads(tmp_path, monkeypatch):
    list(islice(fit_detector(drawn_library(), TINY, tmp_path, report_every=1, save_every=2), 3))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert [report.step for report in train(tmp_path, report_every=1)] == [3, 4]


def test_a_run_is_not_gone_on_with_by_another_teacher(tmp_path):
    recipe = replace(TINY, teacher="one")
    list(islice(fit_detector(drawn_library(), recipe, tmp_path, report_every=1, save_every=2), 3))
    with pytest.raises(Rejected, match="another teacher") as caught:
        train(tmp_path, replace(TINY, teacher="other"))
    assert "\n" not in str(caught.value)
    config = json.loads((tmp_path / CONFIG_FILE).read_bytes())
    del config["recipe"]["teacher"]
    (tmp_path / CONFIG_FILE).write_text(json.dumps(config))
    assert [report.step for report in train(tmp_path, recipe, report_every=1)] == [3, 4], "a run that does not say who taught it goes on"


def test_an_empty_folder_is_no_run(tmp_path):
    with pytest.raises(Rejected, match="holds no trained detector"):
        load_run(tmp_path)


@pytest.mark.parametrize("file", [CONFIG_FILE, WEIGHTS_FILE])
def test_a_file_that_is_cut_short_is_no_run(tmp_path, file):
    train(tmp_path)
    (tmp_path / file).write_bytes((tmp_path / file).read_bytes()[:40])
    with pytest.raises(Rejected, match="holds no trained detector"):
        load_run(tmp_path)


@pytest.mark.parametrize("damaged", [b"", b'{"kind": "det', b"[1]", b"\xff"])
def test_a_run_whose_configuration_is_damaged_is_refused_in_one_line(tmp_path, damaged):
    (tmp_path / CONFIG_FILE).write_bytes(damaged)
    assert not is_detector_run(tmp_path)
    with pytest.raises(Rejected, match="damaged") as caught:
        train(tmp_path)
    assert "\n" not in str(caught.value)


def test_no_file_of_a_run_is_ever_half_written(tmp_path, monkeypatch):
    """What is at work when the power fails has another name than what is read later."""
    written = []
    monkeypatch.setattr(Path, "write_bytes", lambda path, data, real=Path.write_bytes: written.append(path.name) or real(path, data))
    train(tmp_path)
    assert written == [f"{CONFIG_FILE}.part", f"{WEIGHTS_FILE}.part", f"{STATE_FILE}.part"]


def test_a_damaged_checkpoint_is_one_line_that_says_what_to_do(tmp_path):
    train(tmp_path)
    whole, other = (tmp_path / STATE_FILE).read_bytes(), io.BytesIO()
    torch.save(["no", "checkpoint"], other)
    for damaged in (b"", b"\x80", b"garbage", whole[:1000], whole[: len(whole) // 2], whole[:-30], other.getvalue()):
        (tmp_path / STATE_FILE).write_bytes(damaged)
        with pytest.raises(Rejected, match=r"state\.pt: damaged \(\w+\); remove it") as caught:
            train(tmp_path)
        assert "\n" not in str(caught.value)
    (tmp_path / STATE_FILE).unlink()
    assert [report.step for report in train(tmp_path, report_every=1)] == [1, 2, 3, 4]


@pytest.mark.parametrize("kilobytes", [100, 250])
def test_a_full_disk_is_one_line_and_leaves_the_checkpoint_before(tmp_path, kilobytes):
    """The file size that a process may write stands in for the disk's; the weights take 140 kB, the checkpoint five times as much."""
    list(islice(fit_detector(drawn_library(), TINY, tmp_path / "cut", report_every=1, save_every=2), 3))
    before = (tmp_path / "cut" / STATE_FILE).read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * 1000, hard))
    try:
        with pytest.raises(DeviceError, match="File too large; once it can be written, start again") as caught:
            train(tmp_path / "cut")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert (tmp_path / "cut" / STATE_FILE).read_bytes() == before
    assert [report.step for report in train(tmp_path / "cut", report_every=1)] == [3, 4]


def loaded(recipe, start=0, workers=1):
    return made_ahead(partial(numbered_batch, drawn_library(), recipe, None), range(start, recipe.steps), workers)


@pytest.mark.parametrize(("share", "shape"), [(0.0, (8, 3, 320, 320)), (1.0, (2, 3, 640, 640))])
def test_large_scenes_are_fewer_in_a_batch(share, shape):
    recipe = replace(TINY, batch=8, steps=2, large_share=share)
    assert [tuple(batch.images_NCHW.shape) for batch in loaded(recipe)] == [shape] * 2


def test_a_resumed_training_draws_large_scenes_where_it_would_have():
    recipe = replace(TINY, steps=8, large_share=0.5)
    sides = [batch.images_NCHW.shape[-1] for batch in loaded(recipe)]
    assert set(sides) == {320, 640}
    assert [batch.images_NCHW.shape[-1] for batch in loaded(recipe, 3)] == sides[3:]


def test_several_workers_make_what_one_makes():
    recipe = replace(TINY, batch=2, steps=5)
    for one, other in zip(loaded(recipe), loaded(recipe, workers=2), strict=True):
        assert torch.equal(one.images_NHWC, other.images_NHWC)
        assert torch.equal(one.annotated.boxes_M4, other.annotated.boxes_M4)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_a_training_that_is_killed(number):
    """They would hold all pictures for ever."""
    script = """
import math
from multiprocessing import active_children
from trainer.detector_batch import made_ahead
for _ in made_ahead(math.sqrt, range(10**6), 2):
    print(*(child.pid for child in active_children()), flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as training:
        workers = [int(pid) for pid in training.stdout.readline().split()]
        assert len(workers) == 2
        training.send_signal(number)
    wait_until(lambda: not any(map(lives, workers)), 20)
