"""Channels that are off everywhere begin anew, and the network answers as before."""

import pytest
import torch
from torch import nn

from trainer.detector_net import SIZES, DetectorNet, export
from trainer.detector_revive import revive
from trainer.detector_start import restore


@pytest.fixture
def images() -> torch.Tensor:
    torch.manual_seed(0)
    return nn.functional.interpolate(torch.rand(8, 3, 12, 12), scale_factor=8.0, mode="bilinear") * torch.rand(8, 3, 1, 1)


def dead(network: DetectorNet, images: torch.Tensor) -> int:
    """How many channels are 0 after their ReLU all over the batch."""
    counts: list[int] = []
    hooks = [
        part.register_forward_hook(lambda _, __, output: counts.append(int((output.amax((0, 2, 3)) <= 0).sum())))
        for part in network.modules()
        if isinstance(part, nn.ReLU)
    ]
    with torch.no_grad():
        network.eval()(images)
    for hook in hooks:
        hook.remove()
    return sum(counts)


def alive(images: torch.Tensor, size: str = "lean") -> DetectorNet:
    """A network with statistics of its own that is off nowhere."""
    network = DetectorNet(SIZES[size])
    with torch.no_grad():
        for _ in range(80):
            network.train()(images)
    assert dead(network, images) == 0
    return network


def norms(network: DetectorNet) -> list[nn.BatchNorm2d]:
    """A BatchNorm before a ReLU of the stem, of a block in a stage, of a stage's last block, and of the pyramid."""
    return [network.stem[0][1], network.stages[2][1][1][1], network.stages[2][-1][1][1], network.smooth[0][1][1]]  # type: ignore[index,list-item]


def test_dead_channels_wake_and_the_answers_stay(images: torch.Tensor) -> None:
    network = alive(images)
    for norm in norms(network):
        norm.bias.data[[1, 3]] = -100.0
    with torch.no_grad():
        before = network.eval()(images)
    assert dead(network, images) == 8
    assert revive(network, images) > 8, "and the depthwise channels that read them"
    with torch.no_grad():
        assert torch.allclose(network.eval()(images), before, atol=1e-4)
    assert dead(network, images) == 0
    network.train()(images).square().mean().backward()
    assert network.heads[0][0].weight.grad[:, [1, 3]].abs().min() > 0, "something begins to listen"  # type: ignore[index]


def test_what_is_alive_stays_as_it_is(images: torch.Tensor) -> None:
    network = alive(images)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert revive(network, images) == 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize(("old", "new"), [("small", "medium"), ("medium", "deep")])
def test_what_a_larger_network_has_more_of_is_not_off(old: str, new: str, images: torch.Tensor) -> None:
    large = DetectorNet(SIZES[new])
    restore(large, export(alive(images, old)), images)
    assert dead(large, images) == 0
