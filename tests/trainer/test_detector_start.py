"""Training goes on from a release: in its own size, in a larger one that answers as it does, or with what fits into another."""

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


def test_what_a_smaller_one_has_no_room_for_is_what_matters_least(images: torch.Tensor) -> None:
    network, again = DetectorNet(SIZES["deep"]).eval(), DetectorNet(SIZES["lean"])
    unread = [0, 1, 2, 4, 5, 9, 12, 15]  # of the stem's 16 channels, of which the other has 8
    network.stages[0][0][1][0].weight.data[:, unread] = 0  # type: ignore[index]
    restore(again, export(network), images)
    with torch.no_grad():
        assert torch.allclose(again.eval()(images), network(images), atol=5e-3)


@pytest.mark.parametrize(("old", "new"), [("large", "small"), ("deep", "medium"), ("deep", "lean")])
def test_a_smaller_one_can_be_trained_on(old: str, new: str, images: torch.Tensor) -> None:
    network = DetectorNet(SIZES[new])
    restore(network, export(DetectorNet(SIZES[old])), images)
    assert network.train()(images).isfinite().all()


def test_a_network_of_no_known_size_is_no_start(images: torch.Tensor) -> None:
    with pytest.raises(Rejected, match="no size that is known"):
        restore(DetectorNet(SIZES["small"]), export(DetectorNet(Widths((8, 8, 8, 8, 8), 8))), images)
