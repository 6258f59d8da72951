"""fit(): the one training loop."""

import copy
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel

from protocol.errors import DeviceError
from trainer.augment import augment
from trainer.data import NO_FACE, Pictures
from trainer.models import LABELS, Network, prepare
from trainer.views import Views

Tensors = tuple[Tensor, ...] | list[Tensor]
Objective = Callable[..., Tensor]
"""(network, RGB bytes [N, H, W, 3], classes [N]) -> the loss to minimise; with views, what the teacher says [N, 2] stands between."""

LARGEST_SEED = 2**32 - 1


@dataclass(frozen=True)
class Recipe:
    """How to train; with the same seed, data and thread count the result is the same to the bit."""

    epochs: int = 60
    batch: int = 64
    learning_rate: float = 4e-3
    weight_decay: float = 0.05
    label_smoothing: float = 0.02
    ema_decay: float = 0.998
    seed: int = 0
    bfloat16: bool = False
    """Forward passes in 16 bits: half the time on processors with AVX-512 BF16 or AMX, slower on others."""
    keeps_last: bool = False
    """Keep the last averaged weights, not those that did best on `val`: for students whose `val` is all but free of mistakes long before
    their training ends."""


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training pictures came to."""

    number: int
    train_loss: float
    val_loss: float
    val_accuracy: float
    is_best: bool


def fit(
    network: Network, train: Pictures, val: Pictures, recipe: Recipe, objective: Objective | None = None, views: Views | None = None
) -> Iterator[Epoch]:
    """Trains `network` in place, one yielded Epoch at a time; when it ends the network holds averaged weights, the best or the last.

    AdamW, one learning-rate cycle, and an exponential moving average of the weights; the average is what is
    scored on `val` (by the mean recall of both classes, then by loss). The objective is cross-entropy unless another is given;
    pictures are augmented anew each time they are seen, unless labelled `views` of them are given.
    Raises DeviceError when the loss is no longer a number.
    """
    objective = objective or cross_entropy(recipe.label_smoothing, log_counts(train.classes_N))
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    # Buffers (BatchNorm's statistics) are averaged as well.
    average = AveragedModel(network, multi_avg_fn=_moving_average(recipe.ema_decay), use_buffers=True)
    averaged = average.module
    assert isinstance(averaged, Network), "a copy of the network"
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    steps = max(1, (len(views.rows_R) if views else len(train)) // recipe.batch)
    total_steps = max(4, recipe.epochs * steps)
    schedule = OneCycleLR(optimizer, recipe.learning_rate, total_steps=total_steps, pct_start=max(0.2, 2 / total_steps))
    best_score, best_weights = (-1, 0.0), copy.deepcopy(network.state_dict())
    for number in range(1, recipe.epochs + 1):
        network.train()
        total = 0.0
        for batch in views.batches(recipe.batch, rng) if views else batches(train, recipe.batch, rng):
            with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bfloat16):
                loss = objective(network, *batch)
            if not torch.isfinite(loss):
                raise DeviceError(f"epoch {number}: the loss is {loss.item()}; train with a lower learning rate than {recipe.learning_rate}")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            average.update_parameters(network)
            total += loss.item()
        logits_N2 = predict(averaged, val)
        is_right_N = logits_N2.argmax(1).numpy() == val.classes_N
        accuracy = float(is_right_N.mean())
        val_loss = float(F.cross_entropy(logits_N2, torch.from_numpy(val.classes_N), weight=(-log_counts(val.classes_N)).exp()))
        score = (_rightness(is_right_N, val.classes_N), -val_loss)
        is_best = score > best_score
        if is_best:
            best_score, best_weights = score, copy.deepcopy(averaged.state_dict())
        yield Epoch(number, total / steps, val_loss, accuracy, is_best)
    network.load_state_dict(averaged.state_dict() if recipe.keeps_last else best_weights)
    network.eval()


def log_counts(classes_N: NDArray[np.int64]) -> Tensor:
    """The logarithm [2] of how many pictures each class has, in units of their mean: exactly 0 where both have as many."""
    counts_2 = torch.bincount(torch.from_numpy(classes_N[classes_N != NO_FACE]), minlength=len(LABELS)).float()
    return (counts_2 / counts_2.mean()).log()


def label_loss(logits_N2: Tensor, classes_N: Tensor, label_smoothing: float, log_counts_2: Tensor) -> Tensor:
    """Cross-entropy in which both classes count alike, however many pictures they have.

    The logarithms of the counts are added to the logits while learning (Menon et al., 2020), and so explain what comes of the
    counts: what a network says of a face is then as if both classes were as likely, which is what the threshold takes them for.
    What smoothing takes off a label is given to the classes by their counts, so that it makes both of them less sure alike.
    With as many pictures of each this is torch's cross-entropy, to the bit.
    """
    log_p_N2 = (logits_N2 + log_counts_2).log_softmax(1)
    smooth_N = -(log_p_N2 * log_counts_2.exp()).sum(1)
    return F.nll_loss(log_p_N2, classes_N) * (1 - label_smoothing) + smooth_N.mean() * (label_smoothing / len(LABELS))


def cross_entropy(label_smoothing: float, log_counts_2: Tensor) -> Objective:
    """The objective of learning from labels alone."""

    def objective(network: Network, images_NHWC: Tensor, classes_N: Tensor) -> Tensor:
        logits_N2 = network(prepare(images_NHWC, network.architecture.input_px))
        return label_loss(logits_N2.float(), classes_N, label_smoothing, log_counts_2)

    return objective


def _rightness(is_right_N: NDArray[np.bool_], classes_N: NDArray[np.int64]) -> int:
    """Grows with the mean recall of both classes; a whole number, so that equal ones are equal."""
    is_first_N = classes_N == 0
    return int((is_right_N & is_first_N).sum() * (~is_first_N).sum() + (is_right_N & ~is_first_N).sum() * is_first_N.sum())


def _moving_average(decay: float) -> Callable[[Tensors, Tensors, Tensor | int], None]:
    """An exponential moving average that forgets quickly at first, so that short trainings are not averaged with their start."""

    @torch.no_grad()
    def average(averaged: Tensors, current: Tensors, updates: Tensor | int) -> None:
        n = float(updates)
        share = 1 - min(decay, (1 + n) / (10 + n))
        for mean, now in zip(averaged, current, strict=True):
            if mean.is_floating_point():
                mean.lerp_(now, share)
            else:
                mean.copy_(now)

    return average


def batches(pictures: Pictures, size: int, rng: Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Augmented batches (bytes [n, H, W, 3], classes [n]) of one shuffled pass; the next is made while one is used.

    A last batch that is not full is left out, unless it is the only one.
    """
    order = rng.permutation(len(pictures))
    ends = list(range(0, len(order) + 1, size)) if len(order) >= size else [0, len(order)]
    # A generator for each batch: what a picture becomes does not depend on which thread drew first.
    jobs = [(order[start:end], np.random.default_rng(rng.integers(2**63))) for start, end in pairwise(ends)]

    def make(job: tuple[np.ndarray, Generator]) -> tuple[Tensor, Tensor]:
        rows, own_rng = job
        images = np.stack([augment(pictures.images_NHWC[row], own_rng) for row in rows])
        return torch.from_numpy(images), torch.from_numpy(pictures.classes_N[rows])

    with ThreadPoolExecutor(max_workers=1) as ahead:
        waiting = ahead.submit(make, jobs[0])
        for job in [*jobs[1:], None]:
            ready = waiting.result()
            if job is not None:
                waiting = ahead.submit(make, job)
            yield ready


@torch.no_grad()
def predict(network: Network, pictures: Pictures, batch: int = 16) -> Tensor:
    """Logits [N, 2] of all pictures, in order; in batches whose features stay in the processor's cache."""
    network.eval()
    starts = range(0, len(pictures), batch)
    return torch.cat([network(prepare(torch.from_numpy(pictures.images_NHWC[i : i + batch]), network.architecture.input_px)) for i in starts])
