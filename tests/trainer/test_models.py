import json
import subprocess
import sys

import pytest
import torch

from trainer.backbone import blank
from trainer.measure import cost
from trainer.models import ARCHITECTURES, REFERENCES, MaskNet, normalise

EXPECTED = {  # name: channels, parameters, MACs; the original study's figures
    "teacher": ([32, 64, 128], 93_954, 168_853_888),
    "medium": ([24, 48, 96], 53_186, 98_328_864),
    "small": ([8, 16, 32], 6_210, 13_901_920),
    "pruned30": ([22, 44, 89], 45_195, 84_056_587),
    "pruned50": ([16, 32, 64], 23_938, 46_678_208),
    "pruned70": ([9, 19, 38], 8_556, 18_005_618),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_reference_models_are_the_studys_to_the_digit(name: str) -> None:
    channels, params, macs = EXPECTED[name]
    found = cost(MaskNet(REFERENCES[name]))
    assert list(REFERENCES[name].channels) == channels
    assert (found.params, found.macs, found.flops) == (params, macs, 2 * macs)
    assert (found.params_zero, found.params_nonzero) == (0, params)


def test_the_command_gives_the_six_rows() -> None:
    done = subprocess.run([sys.executable, "-m", "trainer", "models", "--json"], capture_output=True, text=True, check=True)
    rows = json.loads(done.stdout)["models"]
    assert {row["name"]: (row["channels"], row["params"], row["macs"]) for row in rows} == EXPECTED
    assert all(row["flops"] == 2 * row["macs"] and row["params_zero"] + row["params_nonzero"] == row["params"] for row in rows)
    assert all(row["size_bytes"] > 4 * row["params"] for row in rows)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_answers_for_each_picture(name: str) -> None:
    network = blank(ARCHITECTURES[name]).eval()
    assert network(torch.zeros(3, 3, 128, 128)).shape == (3, 2)


def test_counting_leaves_the_network_as_it_was() -> None:
    network = MaskNet(REFERENCES["small"])
    before = set(network.state_dict())
    cost(network)
    assert set(network.state_dict()) == before


def test_zero_weights_are_counted() -> None:
    network = MaskNet(REFERENCES["small"])
    with torch.no_grad():
        network.classifier.weight[0] = 0
    assert cost(network).params_zero == 32


def test_normalise_maps_bytes_to_minus_one_to_one() -> None:
    images = torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1).expand(2, 4, 5, 3)
    out = normalise(images)
    assert out.shape == (2, 3, 4, 5)
    assert (out[0].unique().item(), out[1].unique().item()) == (-1.0, 1.0)
