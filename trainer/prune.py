"""Channel surgery: the weakest channels of every stage are cut out, and a smaller dense network is left.

torch-pruning does nothing, or the wrong thing, without a word when parameters are frozen or the classifier is not
left out; here each of these raises. What is returned is a new network, so an optimizer made before cannot train it.
"""

import copy
from collections.abc import Iterator
from dataclasses import replace

import torch
import torch_pruning
from torch import nn

from protocol.errors import DeviceError, Reason, Rejected
from trainer.models import LABELS, Architecture, MaskNet

ROUNDING = 1e-12
"""What is left is counted in floats, as torch-pruning does, and rounded down: of 80 channels, 15 would be left at 0.8."""


def pruned(architecture: Architecture, ratio: float) -> Architecture:
    """What is left of an architecture when a share of every stage's channels goes; raises Rejected for no share."""
    if not 0 < ratio < 1:
        raise Rejected(Reason.BAD_SETTING, f"pruning ratio {ratio}: must lie between 0 and 1")
    channels = tuple(int(width * (1 - _cut(ratio))) for width in architecture.channels)
    if 0 in channels:
        raise Rejected(Reason.BAD_SETTING, f"pruning ratio {ratio}: leaves nothing of a stage of {min(architecture.channels)} channels")
    return replace(architecture, channels=channels)


def prune(network: MaskNet, ratio: float) -> MaskNet:
    """A smaller network that holds the strongest channels of this one (by L2 norm), which stays as it is.

    Raises Rejected when a parameter is frozen, DeviceError when other channels are left than asked for.
    """
    return next(prune_in_steps(network, ratio, steps=1))


def prune_in_steps(network: MaskNet, ratio: float, steps: int, keep: tuple[str, ...] = ("classifier",)) -> Iterator[MaskNet]:
    """The network after each of `steps` equal cuts; train it in place before asking for the next.

    `keep` names the modules that keep their outputs. Raises as `prune` does.
    """
    frozen = [name for name, parameter in network.named_parameters() if not parameter.requires_grad]
    if frozen:
        raise Rejected(Reason.BAD_INPUT, f"pruning: {', '.join(frozen)} is frozen, and torch-pruning would silently leave its stage as it is")
    expected = pruned(network.architecture, ratio)
    body = copy.deepcopy(network).eval()
    px = network.architecture.input_px
    pruner = torch_pruning.pruner.MagnitudePruner(
        body,
        torch.zeros(1, 3, px, px),
        importance=torch_pruning.importance.MagnitudeImportance(p=2),
        pruning_ratio=_cut(ratio),
        ignored_layers=[body.get_submodule(name) for name in keep],
        iterative_steps=steps,
    )
    for step in range(1, steps + 1):
        pruner.step()
        smaller = _rebuild(body, network.architecture)
        if step == steps and smaller.architecture.channels != expected.channels:
            raise DeviceError(f"pruning by {ratio} left {smaller.architecture.channels} channels instead of {expected.channels}")
        yield smaller
        # What was trained between two steps decides what goes in the next.
        body.load_state_dict(smaller.state_dict(), strict=True)


def _cut(ratio: float) -> float:
    """So little less than the ratio that a whole number of channels stays one."""
    return ratio * (1 - ROUNDING)


def _rebuild(body: MaskNet, before: Architecture) -> MaskNet:
    """A fresh network of the channels that are left, with their weights."""
    if body.classifier.out_features != len(LABELS):
        raise DeviceError(f"pruning cut the classifier to {body.classifier.out_features} of {len(LABELS)} classes; it must be kept")
    widths = [layer.out_channels for layer in body.features if isinstance(layer, nn.Conv2d)]
    ends = [sum(before.depth[: stage + 1]) - 1 for stage in range(len(before.channels))]
    channels = tuple(widths[end] for end in ends)
    if channels == before.channels:
        raise DeviceError("pruning changed nothing")
    smaller = MaskNet(replace(before, channels=channels))
    smaller.load_state_dict(body.state_dict(), strict=True)
    return smaller
