"""Channel surgery: exact counts, and no silent failure."""

from pathlib import Path

import pytest
import torch
from trainer_faces import write_splits

from protocol.errors import DeviceError, Rejected
from trainer import job, measure, runs, splits
from trainer.models import ARCHITECTURES, REFERENCES, Architecture, MaskNet
from trainer.prune import prune, prune_in_steps, pruned
from trainer.runs import Lineage
from trainer.train import Recipe

COUNTS = {  # of the original study
    0.3: ((22, 44, 89), 45_195, 84_056_587),
    0.5: ((16, 32, 64), 23_938, 46_678_208),
    0.7: ((9, 19, 38), 8_556, 18_005_618),
}


@pytest.fixture(scope="module")
def teacher() -> MaskNet:
    torch.manual_seed(0)
    return MaskNet(REFERENCES["teacher"])


@pytest.mark.parametrize("ratio", COUNTS)
@pytest.mark.parametrize("steps", [1, 3])
def test_the_counts_are_the_original_studys(teacher: MaskNet, ratio: float, steps: int) -> None:
    *_, smaller = prune_in_steps(teacher, ratio, steps)
    cost = measure.cost(smaller)
    assert (smaller.architecture.channels, cost.params, cost.macs) == COUNTS[ratio]
    assert cost.params_zero == 0


@pytest.mark.parametrize(("ratio", "name"), [(0.25, "medium"), (0.75, "small")])
def test_a_student_can_start_from_its_pruned_teacher(teacher: MaskNet, ratio: float, name: str) -> None:
    MaskNet(REFERENCES[name]).load_state_dict(prune(teacher, ratio).state_dict(), strict=True)


def test_the_strongest_channels_are_kept(teacher: MaskNet) -> None:
    first = prune(teacher, 0.5).features[0]
    kept = {tuple(row.flatten().tolist()) for row in first.weight}
    assert kept <= {tuple(row.flatten().tolist()) for row in teacher.features[0].weight}
    assert len(kept) == 16


def test_what_is_pruned_stays_as_it_is(teacher: MaskNet) -> None:
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    smaller = prune(teacher, 0.5)
    assert smaller is not teacher
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())


def test_stages_of_several_convolutions_keep_one_width() -> None:
    smaller = prune(MaskNet(Architecture((8, 16), downsample="stride", convs=(1, 2))), 0.5)
    assert smaller.architecture == Architecture((4, 8), downsample="stride", convs=(1, 2))


@pytest.mark.parametrize(("ratio", "channels"), [(0.8, (4, 16)), (0.9, (2, 8)), (0.3, (14, 56)), (5 / 6, (3, 13))])
@pytest.mark.parametrize("steps", [1, 3])
def test_no_channel_is_lost_to_rounding(ratio: float, channels: tuple[int, ...], steps: int) -> None:
    network = MaskNet(Architecture((20, 80), downsample="stride"))
    *_, smaller = prune_in_steps(network, ratio, steps)
    assert smaller.architecture.channels == pruned(network.architecture, ratio).channels == channels


def test_frozen_parameters_raise() -> None:
    network = MaskNet(REFERENCES["small"])
    network.features[0].weight.requires_grad_(requires_grad=False)
    with pytest.raises(Rejected, match=r"features\.0\.weight is frozen"):
        prune(network, 0.5)


def test_a_forgotten_classifier_raises(teacher: MaskNet) -> None:
    with pytest.raises(DeviceError, match="classifier to 1 of 2 classes"):
        next(prune_in_steps(teacher, 0.5, steps=1, keep=()))


def test_nothing_pruned_raises(teacher: MaskNet) -> None:
    everything = ("classifier", "features.0", "features.4", "features.8")
    with pytest.raises(DeviceError, match="changed nothing"):
        next(prune_in_steps(teacher, 0.5, steps=1, keep=everything))


def test_too_little_pruned_raises(teacher: MaskNet) -> None:
    with pytest.raises(DeviceError, match="instead of"):
        next(prune_in_steps(teacher, 0.5, steps=1, keep=("classifier", "features.0")))


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.5, 1.5, 0.99, float("nan")])
def test_senseless_ratios_are_refused(ratio: float) -> None:
    with pytest.raises(Rejected, match="pruning ratio"):
        pruned(Architecture((8, 16)), ratio)


def test_training_between_the_steps_is_carried_on(teacher: MaskNet) -> None:
    """What the first cut's fine-tuning did to the weights is in the second cut's network."""
    cuts = prune_in_steps(teacher, 0.5, steps=2)
    first = next(cuts)
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.fill_(0.5)
    second = next(cuts)
    assert all((parameter == 0.5).all() for parameter in second.parameters())


@pytest.mark.parametrize("steps", [1, 2])
def test_a_pruned_run_loads_without_pickle(tmp_path: Path, steps: int) -> None:
    data = write_splits(tmp_path / "data", n=8)
    pictures = splits.read(data)
    recipe = Recipe(epochs=2, batch=8)
    list(job.run(job.Job("door", "door-small", recipe), pictures, data, tmp_path))
    half = Lineage(teacher="door", start="door", ratio=0.5, steps=steps)
    epochs = list(job.run(job.Job("half", "door-small", recipe, half), pictures, data, tmp_path))
    config, network = runs.load(tmp_path / "half")
    assert network.architecture.channels == config.architecture.channels == (4, 8, 16, 24, 32)
    assert network.architecture.downsample == ARCHITECTURES["door-small"].downsample
    assert [epoch.number for epoch in epochs] == [1, 2]
