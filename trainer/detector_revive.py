"""Channels that are off on every picture get a new start: no gradient reaches them, so no training would ever wake them."""

import torch
from torch import Tensor, nn

from trainer.detector_net import DetectorNet
from trainer.detector_units import ignore, outputs, reading, statistics, watch


@torch.no_grad()
def revive(network: DetectorNet, images_NCHW: Tensor) -> int:
    """Draws the weights of channels that are off all over a batch (BGR, 0 to 1) anew; returns how many.

    Whatever took them takes nothing of them at first, so the network answers as before; a constant that a dead channel gave
    through its depthwise convolution is kept.
    """
    fresh: dict[nn.BatchNorm2d, list[int]] = {}
    for unit, output in outputs(network, images_NCHW):
        dead = (output.amax((0, 2, 3)) <= 0).nonzero().flatten().tolist()
        if not dead:
            continue
        _draw(unit.makes, dead, fresh)
        for taker in unit.takers:
            ignore(taker, dead, torch.zeros(len(dead)))
            if depthwise := reading(taker)[0]:
                _draw(depthwise, dead, fresh)
    _set_up(network, fresh, images_NCHW)
    return sum(map(len, fresh.values()))


def _draw(makes: nn.Sequential, channels: list[int], fresh: dict[nn.BatchNorm2d, list[int]]) -> None:
    """Draws the weights of some outputs of a convolution, and notes that its BatchNorm is to be set up for them."""
    convolution, norm = makes[0], makes[1]
    assert isinstance(convolution, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    drawn = torch.empty_like(convolution.weight[channels])
    nn.init.kaiming_normal_(drawn)
    convolution.weight[channels] = drawn
    fresh.setdefault(norm, []).extend(channels)


def _set_up(network: DetectorNet, fresh: dict[nn.BatchNorm2d, list[int]], images_NCHW: Tensor) -> None:
    """Gives each BatchNorm the statistics of its fresh channels, in the order of the pass, no offset, and the middle scale of its others."""

    def set_up(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        mean, variance = statistics(norm)
        channels = fresh[norm]
        others = torch.ones(norm.num_features, dtype=torch.bool)
        others[channels] = False
        variance[channels], mean[channels] = torch.var_mean(inputs[0][:, channels], (0, 2, 3), correction=0)
        norm.weight[channels] = norm.weight[others].abs().median() if others.any() else 1.0
        norm.bias[channels] = 0.0

    watch(network, images_NCHW, [norm.register_forward_pre_hook(set_up) for norm in fresh])
