"""MaskNet, and the named architectures that are trained and compared.

The six reference models are those of the original Jetson Nano study. They see only 22 of 128 pixels (three 3x3
convolutions with three pools), so the model that ships strides instead of pooling and has two more stages: 63 pixels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

LABELS = ("with_mask", "without_mask")
INPUT_PX = 128


@dataclass(frozen=True)
class Architecture:
    """Everything that is needed to build a network again."""

    channels: tuple[int, ...]
    dropout: float = 0.0
    downsample: str = "pool"
    """`pool` (stride-1 convolutions and max pools, as in the references) or `stride` (stride-2 convolutions)."""


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
}


class MaskNet(nn.Module):
    """Stages of 3x3 convolution (padding 1, bias), BatchNorm and ReLU, each halving the picture; then mean, dropout, linear."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        strided = architecture.downsample == "stride"
        layers: list[nn.Module] = []
        width_in = 3
        for width in architecture.channels:
            layers += [nn.Conv2d(width_in, width, 3, stride=2 if strided else 1, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            if not strided:
                layers.append(nn.MaxPool2d(2))
            width_in = width
        self.architecture = architecture
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(architecture.dropout)
        self.classifier = nn.Linear(width_in, len(LABELS))

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Logits [N, 2] in the order of `LABELS`, of pictures [N, 3, 128, 128] normalised by `normalise`."""
        features_NC = self.pool(self.features(images_NCHW)).flatten(1)
        logits: Tensor = self.classifier(self.dropout(features_NC))
        return logits


def normalise(images_NHWC: Tensor) -> Tensor:
    """RGB bytes [N, H, W, 3] -> floats [N, 3, H, W] in -1 to 1; the exported graph holds the same arithmetic."""
    return images_NHWC.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1.0
