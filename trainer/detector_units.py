"""The detector's channels between two activations: what makes them, and what takes them."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from trainer.detector_net import DetectorNet


class Unit(NamedTuple):
    """What makes some channels, and what takes them."""

    makes: nn.Sequential
    """Convolution and BatchNorm."""
    relu: nn.ReLU
    takers: list[nn.Sequential]
    """Blocks, or sequences that begin with a 1x1 convolution."""


def units(network: DetectorNet) -> Iterator[Unit]:
    """In the order of the pass; the pyramid's sums, which have no activation, are none."""
    blocks: list[Any] = [block for stage in network.stages for block in stage]  # type: ignore[attr-defined]
    laterals: dict[Any, Any] = {stage[-1]: lateral for stage, lateral in zip(network.stages[1:], network.lateral, strict=True)}  # type: ignore[index]
    yield Unit(network.stem[0], network.stem[1], blocks[:1])  # type: ignore[arg-type]
    for number, block in enumerate(blocks):
        yield Unit(block[1], block[2], blocks[number + 1 : number + 2] + ([laterals[block]] if block in laterals else []))
    for smooth, head in zip(network.smooth, network.heads, strict=True):
        yield Unit(smooth[1], smooth[2], [head])  # type: ignore[index,list-item]


def outputs(network: DetectorNet, images_NCHW: Tensor) -> list[tuple[Unit, Tensor]]:
    """The units with what leaves their ReLU for a batch (BGR, 0 to 1)."""
    found, left = list(units(network)), dict[nn.Module, Tensor]()
    watch(network, images_NCHW, [unit.relu.register_forward_hook(lambda relu, _, output: left.update({relu: output.clone()})) for unit in found])
    return [(unit, left[unit.relu]) for unit in found]


@torch.no_grad()
def watch(network: DetectorNet, images_NCHW: Tensor, hooks: list[RemovableHandle]) -> None:
    """Lets a batch (BGR, 0 to 1) pass, while nothing is learned, before the hooks are taken off again."""
    network.eval()(images_NCHW)
    for hook in hooks:
        hook.remove()


def reading(taker: nn.Sequential) -> tuple[nn.Sequential | None, nn.Conv2d, nn.Module]:
    """Of what takes channels: the depthwise convolution with its BatchNorm where there is one, the 1x1 convolution, and what follows that."""
    first, second = taker[0], taker[1]
    if isinstance(first, nn.Conv2d):
        return None, first, second
    assert isinstance(first, nn.Sequential)
    assert isinstance(second, nn.Sequential)
    pointwise = second[0]
    assert isinstance(pointwise, nn.Conv2d)
    return first, pointwise, second[1]


@torch.no_grad()
def ignore(taker: nn.Sequential, channels: list[int], means: Tensor) -> None:
    """Lets something take nothing of some channels any more, but what it had of them in the middle, when each is as its mean says."""
    depthwise, pointwise, after = reading(taker)
    constants = means
    if depthwise:
        convolution, norm = depthwise
        assert isinstance(convolution, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        scale, shift = scale_and_shift(norm)
        constants = convolution.weight[channels].sum((1, 2, 3)) * means * scale[channels] + shift[channels]
    lost = pointwise.weight[:, channels, 0, 0] @ constants
    if isinstance(after, nn.BatchNorm2d):
        statistics(after)[0].sub_(lost)
    else:
        assert pointwise.bias is not None, "without BatchNorm a convolution has one"
        pointwise.bias += lost
    pointwise.weight[:, channels] = 0


def scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """What a BatchNorm that learns no more multiplies by, and adds."""
    mean, variance = statistics(norm)
    scale = norm.weight / (variance + norm.eps).sqrt()
    return scale, norm.bias - mean * scale


def statistics(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Running mean and variance of a BatchNorm, to be changed in place."""
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None, "BatchNorm keeps statistics unless told otherwise"
    assert norm.running_var is not None, "as above"
    return norm.running_mean, norm.running_var
