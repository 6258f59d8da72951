"""What the losses of a training step are divided by."""

import torch
from torch import Tensor, nn

SHARE = 0.01
"""Of a step in the moving average, once there were as many steps as that takes."""


class Usual(nn.Module):
    """How many places see a face in a usual step, as a moving average; part of what a training is resumed with.

    Divided by its own number alone, a face of a large scene, of which a step has few, would count as much as four to seven of others; by the
    usual number alone (RetinaNet's in Detectron2, github.com/facebookresearch/detectron2), a step full of faces would count too much.
    """

    mean: Tensor
    steps: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(0.0))
        self.register_buffer("steps", torch.tensor(0.0))

    @torch.no_grad()
    def number(self, own: Tensor) -> Tensor:
        """What a step's losses are divided by: the geometric mean of its own number and the usual one, which learns of it; 1 at least."""
        own = own.clamp(min=1).to(self.mean)
        self.steps += 1
        self.mean.lerp_(own, (1 / self.steps).clamp(min=SHARE))
        return (own * self.mean).sqrt()
