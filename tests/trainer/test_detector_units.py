"""What takes channels can do without some, and keeps what they gave it in the middle."""

import pytest
import torch
from torch import Tensor, nn

from trainer.detector_net import SIZES, DetectorNet
from trainer.detector_units import ignore, outputs, units

GONE = [3, 5, 20]
MEANS = torch.tensor([0.5, 0.0, 2.0])


def learned(network: DetectorNet) -> DetectorNet:
    """One whose BatchNorms have statistics of their own."""
    torch.manual_seed(0)
    with torch.no_grad():
        for _ in range(5):
            network.train()(torch.rand(4, 3, 96, 96))
    return network.eval()


def flat(channels: int) -> Tensor:
    """Some channels are what their means say, all over; the others differ from place to place."""
    taken = torch.rand(2, channels, 12, 12)
    taken[:, GONE] = MEANS[:, None, None]
    return taken


@pytest.mark.parametrize("part", ["lateral.0", "smooth.0", "stages.2.1", "heads.1"], ids=["1x1", "block of the pyramid", "block", "head"])
def test_a_channel_that_is_flat_is_not_missed(part: str) -> None:
    taker = learned(DetectorNet(SIZES["small"])).get_submodule(part)
    assert isinstance(taker, nn.Sequential)
    depthwise = taker[0][0] if isinstance(taker[0], nn.Sequential) else taker[0]
    taken = flat(depthwise.out_channels if depthwise.groups > 1 else depthwise.in_channels)
    with torch.no_grad():
        before = taker(taken)
        ignore(taker, GONE, MEANS)
        after, other = taker(taken), taker(taken.index_fill(1, torch.tensor(GONE), 7.0))
    inside = (..., slice(1, -1), slice(1, -1))  # at the edge a 3x3 convolution sees nothing, which is no mean
    assert torch.allclose(after[inside], before[inside], atol=1e-5)
    assert torch.equal(after, other), "nothing listens to them any more"


def test_each_activation_is_a_unit_and_somebody_takes_it() -> None:
    network = learned(DetectorNet(SIZES["lean"]))
    found = list(units(network))
    assert [unit.relu for unit in found] == [part for part in network.modules() if isinstance(part, nn.ReLU)]
    assert all(unit.takers for unit in found)
    left = outputs(network, torch.rand(1, 3, 64, 64))
    assert [output.shape[1] for _, output in left] == [unit.makes[0].weight.shape[0] for unit in found]
