"""What a smaller network has no room for: of each layer's channels those go that matter least, and what they gave in the middle stays."""

import torch
from torch import Tensor, nn

from trainer.detector_net import DetectorNet
from trainer.detector_units import Unit, ignore, outputs, reading, scale_and_shift, statistics, units


@torch.no_grad()
def trim(network: DetectorNet, smaller: DetectorNet, images_NCHW: Tensor) -> None:
    """Puts first what matters most where `smaller` has fewer channels, and lets nothing listen to what that has no room for.

    A channel matters as much as it varies over a batch (BGR, 0 to 1), times the weights that read it (after Wanda: Sun et al.,
    arXiv 2306.11695). The pyramid's sums stay in their order.
    """
    names = {part: name for name, part in (*network.named_modules(), *smaller.named_modules())}
    room = {names[unit.makes]: len(unit.makes[0].weight) for unit in units(smaller)}  # type: ignore[arg-type]
    for unit, output in outputs(network, images_NCHW):
        count = output.shape[1]
        kept = room.get(names[unit.makes], count)
        if kept >= count:
            continue
        order = (output.std((0, 2, 3)) * _weights(unit)).argsort(descending=True)
        _reorder(unit, order)
        for taker in unit.takers:
            ignore(taker, list(range(kept, count)), output.mean((0, 2, 3))[order[kept:]])


def _weights(unit: Unit) -> Tensor:
    """How much of each channel is taken, by all takers."""
    taken = []
    for taker in unit.takers:
        depthwise, pointwise, _ = reading(taker)
        weight = pointwise.weight.flatten(1).norm(dim=0)
        if depthwise:
            convolution, norm = depthwise
            assert isinstance(convolution, nn.Conv2d)
            assert isinstance(norm, nn.BatchNorm2d)
            weight = weight * convolution.weight.flatten(1).norm(dim=1) * scale_and_shift(norm)[0].abs()
        taken.append(weight)
    return torch.stack(taken).square().sum(0).sqrt()


def _reorder(unit: Unit, order: Tensor) -> None:
    """Moves channels where they are made, and where they are taken; the network answers as before."""
    _take_outputs(unit.makes, order)
    for taker in unit.takers:
        depthwise, pointwise, _ = reading(taker)
        if depthwise:
            _take_outputs(depthwise, order)
        pointwise.weight.copy_(pointwise.weight[:, order])


def _take_outputs(layer: nn.Sequential, order: Tensor) -> None:
    convolution, norm = layer
    assert isinstance(convolution, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    for tensor in (convolution.weight, norm.weight, norm.bias, *statistics(norm)):
        tensor.copy_(tensor[order])
