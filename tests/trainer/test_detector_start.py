"""Training goes on from a release: in its own size, or in a larger one that answers as it does."""

import pytest
import torch

from protocol.errors import Rejected
from trainer.detector_net import SIZES, DetectorNet, Widths, export
from trainer.detector_start import restore


@pytest.fixture
def images() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.rand(4, 3, 96, 96)


@pytest.mark.parametrize(("old", "new"), [("small", "small"), ("small", "medium"), ("medium", "deep"), ("deep", "deep")])
def test_it_answers_as_before_in_training_as_in_use(old: str, new: str, images: torch.Tensor) -> None:
    network, again = DetectorNet(SIZES[old]).eval(), DetectorNet(SIZES[new])
    restore(again, export(network), images)
    with torch.no_grad():
        assert torch.allclose(again.eval()(images), network(images), atol=5e-3), "weights are stored in 16 bits"
        assert torch.allclose(again.train()(images), network(images), atol=5e-3)


def test_what_is_new_learns(images: torch.Tensor) -> None:
    network = DetectorNet(SIZES["deep"])
    restore(network, export(DetectorNet(SIZES["medium"])), images)
    network.train()(images).square().mean().backward()
    reading = network.heads[0][0].weight  # type: ignore[index]
    assert reading.grad[:, 32:].abs().max() > 0, "the head begins to listen to the pyramid's new channels"


def test_a_larger_one_does_not_fit_into_a_smaller_one(images: torch.Tensor) -> None:
    with pytest.raises(Rejected, match=r"wider|deeper"):
        restore(DetectorNet(SIZES["small"]), export(DetectorNet(SIZES["medium"])), images)
    with pytest.raises(Rejected, match="deeper"):
        restore(DetectorNet(Widths((16, 32, 48, 96, 96), 48)), export(DetectorNet(SIZES["deep"])), images)


def test_a_network_of_no_known_size_is_no_start(images: torch.Tensor) -> None:
    with pytest.raises(Rejected, match="no size that is known"):
        restore(DetectorNet(SIZES["small"]), export(DetectorNet(Widths((8, 8, 8, 8, 8), 8))), images)
