"""Channels that are off on every picture get a new start: no gradient reaches them, so no training would ever wake them."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from trainer.detector_net import DetectorNet


class _Unit(NamedTuple):
    """What makes some channels, and what takes them."""

    makes: nn.Sequential
    """Convolution and BatchNorm."""
    relu: nn.ReLU
    takers: list[nn.Sequential]
    """Blocks, or sequences that begin with a 1x1 convolution."""


@torch.no_grad()
def revive(network: DetectorNet, images_NCHW: Tensor) -> int:
    """Draws the weights of channels that are off all over a batch (BGR, 0 to 1) anew; returns how many.

    Whatever took them takes nothing of them at first, so the network answers as before; a constant that a dead channel gave
    through its depthwise convolution is kept.
    """
    fresh: dict[nn.BatchNorm2d, list[int]] = {}
    for unit, dead in _dead(network, images_NCHW):
        _draw(unit.makes, dead, fresh)
        for taker in unit.takers:
            first, second = taker[0], taker[1]
            if isinstance(first, nn.Sequential):
                assert isinstance(second, nn.Sequential)
                _keep_constant(first, second, dead)
                _draw(first, dead, fresh)
                first = second[0]
            assert isinstance(first, nn.Conv2d)
            first.weight[:, dead] = 0
    _set_up(network, fresh, images_NCHW)
    return sum(map(len, fresh.values()))


def _units(network: DetectorNet) -> Iterator[_Unit]:
    blocks: list[Any] = [block for stage in network.stages for block in stage]  # type: ignore[attr-defined]
    laterals: dict[Any, Any] = {stage[-1]: lateral for stage, lateral in zip(network.stages[1:], network.lateral, strict=True)}  # type: ignore[index]
    yield _Unit(network.stem[0], network.stem[1], blocks[:1])  # type: ignore[arg-type]
    for number, block in enumerate(blocks):
        yield _Unit(block[1], block[2], blocks[number + 1 : number + 2] + ([laterals[block]] if block in laterals else []))
    for smooth, head in zip(network.smooth, network.heads, strict=True):
        yield _Unit(smooth[1], smooth[2], [head])  # type: ignore[index,list-item]


def _dead(network: DetectorNet, images_NCHW: Tensor) -> list[tuple[_Unit, list[int]]]:
    units, dead = list(_units(network)), dict[nn.Module, list[int]]()

    def look(relu: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        dead[relu] = (output.amax((0, 2, 3)) <= 0).nonzero().flatten().tolist()

    hooks = [unit.relu.register_forward_hook(look) for unit in units]
    network.eval()(images_NCHW)
    for hook in hooks:
        hook.remove()
    return [(unit, dead[unit.relu]) for unit in units if dead[unit.relu]]


def _draw(makes: nn.Sequential, channels: list[int], fresh: dict[nn.BatchNorm2d, list[int]]) -> None:
    """Draws the weights of some outputs of a convolution, and notes that its BatchNorm is to be set up for them."""
    convolution, norm = makes[0], makes[1]
    assert isinstance(convolution, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    drawn = torch.empty_like(convolution.weight[channels])
    nn.init.kaiming_normal_(drawn)
    convolution.weight[channels] = drawn
    fresh.setdefault(norm, []).extend(channels)


def _keep_constant(depthwise: Any, pointwise: Any, dead: list[int]) -> None:
    """Lets the BatchNorm after a 1x1 convolution take over what dead channels, which are 0, gave it."""
    norm, reading = depthwise[1], pointwise[0].weight[:, dead, 0, 0]
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    constant = (norm.bias - norm.running_mean * scale)[dead]
    pointwise[1].running_mean -= reading @ constant


def _set_up(network: DetectorNet, fresh: dict[nn.BatchNorm2d, list[int]], images_NCHW: Tensor) -> None:
    """Gives each BatchNorm the statistics of its fresh channels, in the order of the pass, no offset, and the middle scale of its others."""

    def set_up(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        channels = fresh[norm]
        others = torch.ones(norm.num_features, dtype=torch.bool)
        others[channels] = False
        norm.running_var[channels], norm.running_mean[channels] = torch.var_mean(inputs[0][:, channels], (0, 2, 3), correction=0)
        norm.weight[channels] = norm.weight[others].abs().median() if others.any() else 1.0
        norm.bias[channels] = 0.0

    hooks = [norm.register_forward_pre_hook(set_up) for norm in fresh]
    network.eval()(images_NCHW)
    for hook in hooks:
        hook.remove()
