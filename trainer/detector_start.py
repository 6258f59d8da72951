"""An exported detector -> a network to train on: the training goes on from a release, in its size or in another."""

from collections.abc import Iterator

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from protocol.errors import Reason, Rejected
from trainer.detector_net import SIZES, STRIDES, DetectorNet, export_whole
from trainer.detector_trim import trim
from trainer.detector_units import statistics, watch


def restore(network: DetectorNet, exported: bytes, images_NCHW: Tensor) -> None:
    """Gives a network the weights of an exported one, as far as it has room for them, so that training can go on from a release.

    The export folded each BatchNorm into its convolution. Here it gets statistics back from one batch (BGR, 0 to 1), and the scale and
    shift that undo them. A network that is as large, or larger, answers on that batch as the exported one: nothing listens yet to the channels
    that are new, and blocks that are new pass on what they get (after Chen et al., Net2Net, arXiv 1511.05641). Where a smaller one has no
    room, the channels that matter least are left behind. Raises Rejected when the exported network is of no known size.
    """
    held = _held(exported)
    names = [name for name, _ in _in_pass(held)]
    _rebuild(held, names, exported, images_NCHW)
    trim(held, network, images_NCHW)
    _rebuild(network, names, export_whole(held), images_NCHW)


def _held(exported: bytes) -> DetectorNet:
    """A network of the exported one's size."""
    shapes = [weight.shape for weight, _ in _convolutions_of(exported)]
    for widths in SIZES.values():
        network = DetectorNet(widths)
        if [part.weight.shape for _, part in _in_pass(network)] == shapes:
            return network
    raise Rejected(Reason.BAD_INPUT, "the detector to start from is of no size that is known here")


def _rebuild(network: DetectorNet, names: list[str], exported: bytes, images_NCHW: Tensor) -> None:
    """Puts the first channels of an exported network's convolutions, which have these names, into those of the same name, as many as fit."""
    parts = _in_pass(network)
    folded = dict(zip(names, _convolutions_of(exported), strict=True))
    biases = [_fill(part, *folded[name]) if name in folded else _pass_on(part) for name, part in parts]
    network.stem[0][0].weight.data *= 255  # type: ignore[index]
    _unfold(network, iter(bias for (_, part), bias in zip(parts, biases, strict=True) if part.bias is None), images_NCHW)


def _convolutions_of(exported: bytes) -> list[tuple[Tensor, Tensor]]:
    """Weight and bias of each convolution of an exported network, in the order of the pass."""
    graph = onnx.load_model_from_string(exported).graph
    tensors = {tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).astype(np.float32)) for tensor in graph.initializer}
    # Weights are widened from 16 bits; tensors that are equal stand in the file once, the others as names for it.
    for node in graph.node:
        if node.op_type in {"Cast", "Identity"} and node.input[0] in tensors:
            tensors[node.output[0]] = tensors[node.input[0]]
    return [(tensors[node.input[1]], tensors[node.input[2]]) for node in graph.node if node.op_type == "Conv" and len(node.input) == 3]


def _in_pass(network: DetectorNet) -> list[tuple[str, nn.Conv2d]]:
    """The convolutions by name, in the order of the pass."""
    names = {part: name for name, part in network.named_modules() if isinstance(part, nn.Conv2d)}
    found: list[tuple[str, nn.Conv2d]] = []
    hooks = [part.register_forward_hook(lambda part, _, __: found.append((names[part], part))) for part in names]
    watch(network, torch.zeros(1, 3, STRIDES[-1], STRIDES[-1]), hooks)
    return found


def _fill(part: nn.Conv2d, weight: Tensor, bias: Tensor) -> Tensor:
    """Puts a convolution into another, whose further outputs stay as they are drawn; returns its bias, NaN for those."""
    outputs, inputs = (min(pair) for pair in zip(weight.shape[:2], part.weight.shape[:2], strict=True))
    part.weight.data[:outputs] = 0
    part.weight.data[:outputs, :inputs] = weight[:outputs, :inputs]
    wide = torch.full((part.out_channels,), torch.nan)
    wide[:outputs] = bias[:outputs]
    if part.bias is not None:
        part.bias.data.copy_(wide.nan_to_num())
    return wide


def _pass_on(part: nn.Conv2d) -> Tensor:
    """Makes a convolution of a block give what it gets; returns its bias."""
    nn.init.dirac_(part.weight, part.groups)
    return torch.zeros(part.out_channels)


def _unfold(network: DetectorNet, biases: Iterator[Tensor], images_NCHW: Tensor) -> None:
    """Sets each BatchNorm, in the order of the pass, to pass its input on with the next bias added.

    Channels that are new (NaN) are scaled as the others are in the middle, without their offset: one that is large would switch them off.
    """

    def set_up(part: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(part, nn.BatchNorm2d)
        variance, mean = torch.var_mean(inputs[0], (0, 2, 3), correction=0)
        for kept, measured in zip(statistics(part), (mean, variance), strict=True):
            kept.copy_(measured)
        bias, scale = next(biases), (variance + part.eps).sqrt()
        is_new = bias.isnan()
        part.weight.copy_(torch.where(is_new, scale[~is_new].median(), scale))
        part.bias.copy_(torch.where(is_new, 0, mean + bias))

    watch(network, images_NCHW, [part.register_forward_pre_hook(set_up) for part in network.modules() if isinstance(part, nn.BatchNorm2d)])
