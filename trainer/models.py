"""MaskNet, and the named architectures that are trained and compared.

The six reference models are those of the original Jetson Nano study. They see only 22 of 128 pixels (three 3x3
convolutions with three pools), so the model that ships strides instead of pooling and has two more stages: 63 pixels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

LABELS = ("with_mask", "without_mask")
INPUT_PX = 128
HALF_RANGE = 127.5
"""Half of what a byte can hold: pictures are normalised to -1 to 1."""


@dataclass(frozen=True)
class Architecture:
    """Everything that is needed to build a network again."""

    channels: tuple[int, ...]
    dropout: float = 0.0
    downsample: str = "pool"
    """`pool` (stride-1 convolutions and max pools, as in the references) or `stride` (stride-2 convolutions)."""
    convs: tuple[int, ...] = ()
    """Convolutions in each stage, of which only the first halves the picture; empty: one each."""
    input_px: int = INPUT_PX
    stem: int = 2
    """Stride of a strided network's first convolution, whose kernel is one pixel larger: 4 skips the costliest stage."""

    @property
    def depth(self) -> tuple[int, ...]:
        """Convolutions in each stage."""
        return self.convs or (1,) * len(self.channels)


REFERENCES: dict[str, Architecture] = {
    "teacher": Architecture((32, 64, 128), dropout=0.2),
    "medium": Architecture((24, 48, 96), dropout=0.1),
    "small": Architecture((8, 16, 32)),
    "pruned30": Architecture((22, 44, 89), dropout=0.2),
    "pruned50": Architecture((16, 32, 64), dropout=0.2),
    "pruned70": Architecture((9, 19, 38), dropout=0.2),
}

ARCHITECTURES: dict[str, Architecture] = {
    **REFERENCES,
    "door": Architecture((16, 32, 64, 96, 128), dropout=0.2, downsample="stride"),
    "door-small": Architecture((8, 16, 32, 48, 64), dropout=0.1, downsample="stride"),
    # Students of at most 250 kB: wider early, deeper late, or with fewer pixels.
    "door-wide": Architecture((8, 16, 32, 64, 64), dropout=0.1, downsample="stride"),
    "door-deep": Architecture((16, 16, 32, 32, 48), dropout=0.1, downsample="stride", convs=(1, 1, 1, 2, 2)),
    "door-96": Architecture((16, 24, 32, 48, 64), dropout=0.1, downsample="stride", input_px=96),
    "door-112": Architecture((16, 24, 32, 48, 64), dropout=0.1, downsample="stride", input_px=112),
    "door-small-96": Architecture((8, 16, 32, 48, 64), dropout=0.1, downsample="stride", input_px=96),
    "patch": Architecture((16, 32, 64, 64), dropout=0.1, downsample="stride", stem=4),
    "patch-deep": Architecture((16, 32, 48, 48), dropout=0.1, downsample="stride", convs=(1, 1, 2, 1), stem=4),
    # Eight convolutions whose widths fill the processor's vectors; at most 250 kB with weights stored in 16 bits.
    "gate": Architecture((16, 16, 32, 64, 80), dropout=0.1, downsample="stride", convs=(1, 2, 2, 2, 1), input_px=112),
    "gate-96": Architecture((16, 16, 32, 64, 80), dropout=0.1, downsample="stride", convs=(1, 2, 2, 2, 1), input_px=96),
    # Students of at most 250 kB in eight bits, where they are faster than in 32.
    "patch-large": Architecture((16, 32, 64, 96), dropout=0.15, downsample="stride", convs=(1, 1, 2, 2), stem=4),
    "patch-wide": Architecture((24, 48, 64, 96), dropout=0.15, downsample="stride", convs=(1, 1, 2, 2), stem=4),
    # The teacher: EfficientNet-Lite0 with ImageNet's weights (`backbone`).
    "lite0": Architecture((32, 16, 24, 40, 80, 112, 192, 320, 1280), dropout=0.3, downsample="lite0"),
}


class Network(nn.Module):
    """What can be trained, taught and asked: it sees, then judges what it saw."""

    architecture: Architecture
    dropout: nn.Dropout
    classifier: nn.Linear

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Logits [N, 2] in the order of `LABELS`, of pictures [N, 3, S, S] normalised by `normalise`."""
        return self.judge(self.embed(images_NCHW))

    def embed(self, images_NCHW: Tensor) -> Tensor:
        """What is seen: the mean of the last features, [N, C]."""
        raise NotImplementedError

    def judge(self, features_NC: Tensor) -> Tensor:
        """Logits [N, 2] of what was seen."""
        logits: Tensor = self.classifier(self.dropout(features_NC))
        return logits


class MaskNet(Network):
    """Stages of 3x3 convolution (padding 1, bias), BatchNorm and ReLU, each halving the picture; then mean, dropout, linear."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        strided = architecture.downsample == "stride"
        layers: list[nn.Module] = []
        width_in = 3
        for width, depth in zip(architecture.channels, architecture.depth, strict=True):
            for number in range(depth):
                stride = 1 if not strided or number else 2 if layers else architecture.stem
                kernel = max(3, stride + 1)
                layers += [nn.Conv2d(width_in, width, kernel, stride, kernel // 2), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
                width_in = width
            if not strided:
                layers.append(nn.MaxPool2d(2))
        self.architecture = architecture
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(architecture.dropout)
        self.classifier = nn.Linear(width_in, len(LABELS))

    def embed(self, images_NCHW: Tensor) -> Tensor:
        return self.pool(self.features(images_NCHW)).flatten(1)  # type: ignore[no-any-return]


def prepare(images_NHWC: Tensor, input_px: int) -> Tensor:
    """RGB bytes [N, H, W, 3] -> floats [N, 3, S, S] for a network of that input size, shrunk without aliasing."""
    images_NCHW = normalise(images_NHWC)
    if images_NCHW.shape[2] != input_px:
        images_NCHW = functional.interpolate(images_NCHW, (input_px, input_px), mode="bilinear", antialias=True)
    return images_NCHW.contiguous(memory_format=torch.channels_last)


def normalise(images_NHWC: Tensor) -> Tensor:
    """RGB bytes [N, H, W, 3] -> floats [N, 3, H, W] in -1 to 1; the exported graph holds the same arithmetic."""
    return images_NHWC.permute(0, 3, 1, 2).to(torch.float32) / HALF_RANGE - 1.0
