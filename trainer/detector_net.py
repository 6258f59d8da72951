"""The detector's network, in the format that `cv2.FaceDetectorYN` decodes, and its export to one ONNX file.

Where the time of such a network goes was measured layer by layer in OpenCV's DNN on one x86 thread: the strided stem and
the 1x1 convolutions at stride 8 are dear, depthwise 3x3 convolutions and everything at strides 16 and 32 are nearly
free, 5x5 depthwise convolutions have no fast path. So channels are few and multiples of 8 up to stride 8, and one 1x1
convolution feeds all four heads of a level. Stages stride with a depthwise convolution, which is the fastest.
"""

import copy
import io
import warnings
from dataclasses import dataclass
from itertools import pairwise

import onnx
import torch
from torch import Tensor, nn

from trainer.half import halve

STRIDES = (8, 16, 32)
HEADS = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}
OUTPUTS = tuple(f"{head}_{stride}" for head in HEADS for stride in STRIDES)


@dataclass(frozen=True)
class Widths:
    """Channels of the stages at strides 2, 4, 8, 16 and 32, and of the pyramid above them."""

    stages: tuple[int, int, int, int, int]
    neck: int
    depths: tuple[int, int, int, int] = (0, 2, 2, 1)
    """Blocks after the first one, at strides 4, 8, 16 and 32."""


SIZES = {
    "small": Widths((8, 16, 32, 48, 48), 32),
    "medium": Widths((16, 32, 48, 64, 64), 32),
    "lean": Widths((8, 32, 48, 96, 96), 48, (0, 2, 3, 1)),
    "keen": Widths((12, 40, 56, 64, 64), 48, (0, 2, 3, 1)),
    "deep": Widths((16, 32, 48, 96, 96), 48, (0, 2, 3, 1)),
    "large": Widths((16, 32, 64, 96, 96), 64),
}


def _convolution(width_in: int, width: int, side: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution and BatchNorm; the export folds the second into the first."""
    return nn.Sequential(nn.Conv2d(width_in, width, side, stride=stride, padding=side // 2, groups=groups, bias=False), nn.BatchNorm2d(width))


def _block(width_in: int, width: int, stride: int = 1) -> nn.Sequential:
    """Depthwise 3x3, then 1x1; only the second is followed by ReLU (one activation a block, as in YuNet)."""
    return nn.Sequential(_convolution(width_in, width_in, 3, stride, width_in), _convolution(width_in, width), nn.ReLU(inplace=True))


def _stage(width_in: int, width: int, depth: int) -> nn.Sequential:
    return nn.Sequential(_block(width_in, width, stride=2), *(_block(width, width) for _ in range(depth)))


class DetectorNet(nn.Module):
    """Depthwise-separable stages, a top-down pyramid, and per level 16 maps: class, objectness, 4 of box, 10 of landmarks."""

    def __init__(self, widths: Widths) -> None:
        super().__init__()
        stem, *stages = widths.stages
        self.widths = widths
        self.stem = nn.Sequential(_convolution(3, stem, 3, stride=2), nn.ReLU(inplace=True))
        self.stages = nn.ModuleList(_stage(a, b, depth) for (a, b), depth in zip(pairwise(widths.stages), widths.depths, strict=True))
        self.lateral = nn.ModuleList(_convolution(width, widths.neck) for width in stages[1:])
        self.smooth = nn.ModuleList(_block(widths.neck, widths.neck) for _ in STRIDES)
        maps = sum(HEADS.values())
        self.heads = nn.ModuleList(nn.Sequential(nn.Conv2d(widths.neck, maps, 1), nn.Conv2d(maps, maps, 3, padding=1, groups=maps)) for _ in STRIDES)
        self._start_sceptical()

    def _start_sceptical(self) -> None:
        """Nearly all places hold no face: objectness starts at 1 %, or the first steps do nothing but lower it."""
        for head in self.heads:
            last = head[1]  # type: ignore[index]
            nn.init.zeros_(last.bias)
            last.bias.data[1] = -4.6

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Raw maps [N, P, 16] of BGR pictures in 0 to 1; P runs through the strides, each row by row. Sides: multiples of 32."""
        return torch.cat([level.permute(0, 2, 3, 1).flatten(1, 2) for level in self.maps(images_NCHW)], 1)

    def maps(self, images_NCHW: Tensor) -> list[Tensor]:
        """Raw maps [N, 16, H/s, W/s] for each stride s."""
        x = self.stages[0](self.stem(images_NCHW))
        features = []
        for stage, lateral in zip(self.stages[1:], self.lateral, strict=True):
            x = stage(x)
            features.append(lateral(x))
        for fine in (1, 0):
            features[fine] = features[fine] + nn.functional.interpolate(features[fine + 1], scale_factor=2.0, mode="nearest")
        return [head(smooth(feature)) for head, smooth, feature in zip(self.heads, self.smooth, features, strict=True)]


class _Exported(nn.Module):
    """A copy of the network that takes 0 to 255 and has the 12 outputs of YuNet, class and objectness after a sigmoid."""

    def __init__(self, network: DetectorNet) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).eval()
        self.network.stem[0][0].weight.data /= 255  # type: ignore[index]

    def forward(self, image_1CHW: Tensor) -> tuple[Tensor, ...]:
        rows = [level.permute(0, 2, 3, 1).reshape(1, -1, 16) for level in self.network.maps(image_1CHW)]
        cls = [torch.sigmoid(row[:, :, 0:1]) for row in rows]
        obj = [torch.sigmoid(row[:, :, 1:2]) for row in rows]
        return (*cls, *obj, *(row[:, :, 2:6] for row in rows), *(row[:, :, 6:16] for row in rows))


def export(network: DetectorNet) -> bytes:
    """The network as one ONNX file with weights of 16 bits, the same bytes for the same weights."""
    return halve(export_whole(network))


def export_whole(network: DetectorNet) -> bytes:
    """What `export` writes before its weights are rounded to 16 bits, its names short and without what differs between runs.

    The TorchScript exporter is used because it keeps sizes out of the Reshapes; what the newer one writes fails in OpenCV at
    every size but that of the export.
    """
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Exported(network),
            (torch.zeros(1, 3, 640, 640),),
            buffer,  # type: ignore[arg-type]  # a file object does as well
            input_names=["input"],
            output_names=list(OUTPUTS),
            dynamic_axes={"input": {2: "height", 3: "width"}, **{name: {1: f"places_{name.split('_')[1]}"} for name in OUTPUTS}},
            opset_version=17,
            dynamo=False,
        )
    return bytes(_plain(onnx.load_model_from_string(buffer.getvalue())).SerializeToString(deterministic=True))


def _plain(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without what the exporter says about itself and about this machine, and with short names."""
    onnx.checker.check_model(model)
    graph = model.graph
    kept: dict[str, str] = {"": "", **{value.name: value.name for value in (*graph.input, *graph.output)}}

    def short(name: str) -> str:
        return kept.setdefault(name, f"t{len(kept)}")

    for number, node in enumerate(graph.node):
        node.name, node.doc_string = f"n{number}", ""
        node.input[:] = [short(name) for name in node.input]
        node.output[:] = [short(name) for name in node.output]
        del node.metadata_props[:]
    for tensor in graph.initializer:
        tensor.name, tensor.doc_string = short(tensor.name), ""
    graph.name, graph.doc_string = "detector", ""
    model.producer_name = model.producer_version = model.doc_string = ""
    for noise in (graph.value_info, graph.metadata_props, model.metadata_props):
        del noise[:]
    return model
