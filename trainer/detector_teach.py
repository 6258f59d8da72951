"""How sure the teacher is at every place of any picture, and what it costs a student to be otherwise.

Annotations say where faces are; the teacher also says how much everything else looks like one, and was trained on
hundreds of times as many bare faces as are annotated here. Its answers need no annotation, so scenes may be as odd as one likes.
"""

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from protocol.errors import DeviceError
from trainer.detector_loss import Targets, covered, inside
from trainer.detector_net import OUTPUTS
from trainer.frames import Floats, Image

CLASSES, OBJECTS = (tuple(name for name in OUTPUTS if name.startswith(head)) for head in ("cls", "obj"))
SEES = 0.5
"""A teacher whose best answer within a known face is below this does not see it, and has nothing to say there."""
SHOWS = 0.3
"""The loss is counted per place where the teacher's score is above this, as the annotated loss is per place that answers for a face."""
LEAST = 1e-5


class DenseTeacher:
    """A network in YuNet's format, asked for its score at every place instead of its finds."""

    def __init__(self, path: Path) -> None:
        """Raises DeviceError when OpenCV cannot load the file, or it is no such network."""
        try:
            self._network = cv2.dnn.readNetFromONNX(str(path))
            self.scores(np.zeros((64, 64, 3), np.uint8))
        except cv2.error as error:
            raise DeviceError(f"{path}: not a face detector that OpenCV can load ({str(error).splitlines()[0][:120]})") from None

    def scores(self, image_HWC: Image) -> Floats:
        """The root of class x objectness, [P], of a BGR picture whose sides are multiples of 32; P as in `DetectorNet.forward`."""
        self._network.setInput(cv2.dnn.blobFromImage(image_HWC))
        cls, obj = (np.concatenate([answer.ravel() for answer in self._network.forward(names)]) for names in (CLASSES, OBJECTS))
        return np.asarray(np.sqrt(np.clip(cls * obj, 0, 1)), np.float32)


def teaching_loss(maps_NPC: Tensor, score_NP: Tensor, priors_P3: Tensor, regions: Targets) -> Tensor:
    """The divergence of the student's scores from the teacher's, per place in which the teacher sees a face.

    Boxes stay those of the annotators, which are a little tighter. Known faces and regions to ignore count only where the teacher
    sees them: one that misses masked faces must not teach that.
    """
    score_NP = score_NP.clamp(LEAST, 1 - LEAST)
    log_NP = (F.logsigmoid(maps_NPC[..., 0]) + F.logsigmoid(maps_NPC[..., 1])) / 2
    other_NP = torch.log1p(-log_NP.exp().clamp(max=1 - LEAST))
    divergence_NP = score_NP * (score_NP.log() - log_NP) + (1 - score_NP) * ((1 - score_NP).log() - other_NP)
    heard_NP = _heard(score_NP, priors_P3, regions)
    faces = score_NP[(score_NP > SHOWS) & heard_NP].sum()
    return (divergence_NP * heard_NP).sum() / faces.clamp(min=1)


def _heard(score_NP: Tensor, priors_P3: Tensor, regions: Targets) -> Tensor:
    """Which places [N, P] count: all but those in regions in which the teacher sees nothing."""
    picture_M = torch.cat([regions.picture_M, regions.ignore_picture_K])
    boxes_M4 = torch.cat([regions.boxes_M4, regions.ignore_K4])
    is_missed_M = (score_NP[picture_M] * inside(boxes_M4, priors_P3)).amax(1) < SEES
    return ~covered(picture_M[is_missed_M], boxes_M4[is_missed_M], priors_P3, len(score_NP))
