"""fit_detector(): teaches a student what the teacher and the annotators see, from endless scenes, one checkpoint after another."""

import io
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from protocol.errors import DeviceError, Reason, Rejected, in_one_line
from trainer.detector_batch import made_ahead, make_batch, numbered_batch, on_device
from trainer.detector_data import Library
from trainer.detector_dense import DenseTeacher
from trainer.detector_loss import detection_loss, priors
from trainer.detector_net import SIZES, DetectorNet
from trainer.detector_recipe import DetectorRecipe
from trainer.detector_revive import revive
from trainer.detector_scene import LARGE_SIDE_PX, SIDE_PX
from trainer.detector_start import restore
from trainer.detector_teach import teaching_loss
from trainer.detector_usual import Usual
from trainer.folder import write_whole

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "weights.safetensors"
STATE_FILE = "state.pt"
MOST_WORKERS = 16
"""Processes that make scenes for a GPU: each holds all pictures, some 0.4 GB."""


@dataclass(frozen=True)
class Progress:
    """Where a training stands."""

    step: int
    losses: dict[str, float]
    """Means since the last report: cls, obj, box, kps; like and where: how far the scores and the boxes are from the teacher's."""


def fit_detector(
    library: Library,
    recipe: DetectorRecipe,
    run: Path,
    teacher: DenseTeacher | None = None,
    start: bytes = b"",
    report_every: int = 100,
    save_every: int = 500,
) -> Iterator[Progress]:
    """Trains in `run`, going on from its checkpoint if it holds one; yields as it goes. When it ends, `run` holds the averaged weights.

    AdamW, one learning-rate cycle, moving average of the weights, as for the classifier; on a GPU where torch finds one. `start` is the
    exported detector that `recipe.start` names. Raises Rejected when `run` holds a training with another recipe or a damaged checkpoint,
    or when `start` is of no known size; DeviceError when the loss is no longer a number, or a checkpoint cannot be written: the last one stays.
    """
    _check_run(run, recipe, library.pictures)
    torch.manual_seed(recipe.seed)
    network = _begun(library, recipe, start)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # A GPU learns faster than one processor makes scenes.
    workers = min(MOST_WORKERS, os.cpu_count() or 1) if device.type == "cuda" else 1
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    decay = 1 - 1 / max(2.0, recipe.ema_share * recipe.steps)
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)  # type: ignore[no-untyped-call]
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = OneCycleLR(optimizer, recipe.learning_rate, total_steps=recipe.steps, pct_start=max(0.1, 2 / recipe.steps))
    usual = {name: Usual().to(device) for name in ("annotated", "taught")}
    parts = {"network": network, "average": average, "optimizer": optimizer, "schedule": schedule, **usual}
    done = _load_state(run, parts)
    places = {side_px: priors(side_px).to(device) for side_px in (SIDE_PX, LARGE_SIDE_PX)}
    sums: dict[str, Tensor] = {}
    network.train()
    make = partial(numbered_batch, library, recipe, teacher)
    for step, made in enumerate(made_ahead(make, range(done, recipe.steps), workers), done + 1):
        batch = on_device(made, device)
        maps_NPC, taught = network(batch.images_NCHW), len(batch.answers.score_TP)
        side_px = batch.images_NHWC.shape[1]
        loss, losses = detection_loss(maps_NPC[taught:], places[side_px], batch.annotated, side_px, usual["annotated"])
        if taught:
            unlike = teaching_loss(maps_NPC[:taught], batch.answers, places[side_px], batch.taught, usual["taught"])
            loss, losses = loss + sum(unlike.values()), losses | {name: part.detach() for name, part in unlike.items()}
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        if not torch.isfinite(loss + norm):
            raise DeviceError(
                f"step {step}: the loss is {loss.item()}, its slope {norm.item()}; train with a lower learning rate than {recipe.learning_rate}"
            )
        optimizer.step()
        schedule.step()
        average.update_parameters(network)
        sums = {name: sums.get(name, 0.0) + value / report_every for name, value in losses.items()}
        if step % save_every == 0 or step == recipe.steps:
            _save_state(run, step, parts, average)
        if step % report_every == 0:
            yield Progress(step, {name: float(total) for name, total in sums.items()})
            sums = {}


def _begun(library: Library, recipe: DetectorRecipe, start: bytes) -> DetectorNet:
    """The network that a training begins with: of random weights, or of those of an exported detector, as far as they fit."""
    network = DetectorNet(SIZES[recipe.size])
    if start:
        draws = [np.random.default_rng([recipe.seed, number]) for number in range(recipe.batch)]
        images_NCHW = make_batch(library, None, draws).images_NCHW
        restore(network, start, images_NCHW)
        revive(network, images_NCHW)
    return network


def check_recipe(run: Path, recipe: DetectorRecipe) -> dict[str, Any]:
    """The configuration of the training that `run` holds, empty if it holds none; raises Rejected when that has another recipe."""
    if not (run / CONFIG_FILE).exists():
        return {}
    held = _read_config(run)
    # The first trainings did not write down who taught them.
    if held.get("recipe") not in (asdict(recipe), {name: value for name, value in asdict(recipe).items() if name != "teacher"}):
        raise _other(run)
    return held


def _check_run(run: Path, recipe: DetectorRecipe, pictures: dict[str, int]) -> None:
    run.mkdir(parents=True, exist_ok=True)
    wanted = {"pictures": pictures, "threads": torch.get_num_threads()}
    if held := check_recipe(run, recipe):
        if held.get("pictures") != pictures:
            raise Rejected(Reason.BAD_INPUT, f"{run}: was begun with other pictures; name another run, or give the same to go on")
        return
    created = datetime.now(UTC).isoformat(timespec="seconds")
    write_whole(run / CONFIG_FILE, json.dumps({"kind": "detector", "recipe": asdict(recipe), **wanted, "created": created}, indent=1).encode())


def _other(run: Path) -> Rejected:
    return Rejected(Reason.BAD_INPUT, f"{run}: holds a training with other settings or another teacher; name another run, or the same to go on")


def _read_config(run: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((run / CONFIG_FILE).read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise Rejected(Reason.BAD_INPUT, f"{run / CONFIG_FILE}: damaged ({type(error).__name__}); name another run") from None


def _save_state(run: Path, step: int, parts: dict[str, object], average: AveragedModel) -> None:
    weights = {name: tensor.contiguous() for name, tensor in average.module.state_dict().items()}
    state = io.BytesIO()
    torch.save({"step": step, **{name: part.state_dict() for name, part in parts.items()}}, state)  # type: ignore[attr-defined]
    try:
        write_whole(run / WEIGHTS_FILE, save(weights))
        write_whole(run / STATE_FILE, state.getvalue())
    except OSError as error:
        raise DeviceError(f"{in_one_line(error)}; once it can be written, start again, and the last checkpoint is gone on from") from None


def _load_state(run: Path, parts: dict[str, object]) -> int:
    """Puts a checkpoint into the parts; returns how many steps it had made, 0 without one. Raises Rejected when it is damaged."""
    if not (run / STATE_FILE).exists():
        return 0
    try:
        state = torch.load(run / STATE_FILE, weights_only=True, map_location="cpu")
        for name, part in parts.items():
            part.load_state_dict(state[name])  # type: ignore[attr-defined]
        return int(state["step"])
    except Exception as error:  # damage can make the unpickler raise anything
        raise Rejected(
            Reason.BAD_INPUT, f"{run / STATE_FILE}: damaged ({type(error).__name__}); remove it to train from the start again, or name another run"
        ) from None


@dataclass(frozen=True)
class Trained:
    """What a run's folder holds."""

    network: DetectorNet
    size: str
    pictures: dict[str, int]
    """Training pictures by data set."""
    created: datetime


def load_run(run: Path) -> Trained:
    """The averaged network of a run; raises Rejected when the folder holds none."""
    try:
        config = json.loads((run / CONFIG_FILE).read_bytes())
        size = config["recipe"]["size"]
        network = DetectorNet(SIZES[size])
        network.load_state_dict(load_file(run / WEIGHTS_FILE))
        return Trained(network.eval(), size, dict(config["pictures"]), datetime.fromisoformat(config["created"]))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise Rejected(Reason.BAD_INPUT, f"{run}: holds no trained detector ({str(error).splitlines()[0][:120]})") from None
