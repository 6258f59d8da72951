"""What it costs a student to say otherwise than its teacher.

Annotations say where faces are; the teacher also says how much everything else looks like one, and was trained on
hundreds of times as many bare faces as are annotated here. Its answers need no annotation, so scenes may be as odd as one likes.
Its boxes are a little larger and higher than those of annotators, by shares that are the same for masked and bare faces.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from trainer.detector_loss import BOX_WEIGHT, Targets, covered, decode, eiou_loss, inside
from trainer.detector_usual import Usual

SEES = 0.5
"""A teacher whose best answer within a known face is below this does not see it, and has nothing to say there."""
SHOWS = 0.3
"""The loss is counted per place where the teacher's score is above this, as the annotated loss is per place that answers for a face."""
SMALL_PX, BESIDE_PX = 32, 8
"""A face smaller than the first is seen from so far beside its box, too."""
LEAST = 1e-5
MOVED, SIZED = (0.01, 0.065), (1.015, 0.95)
"""From the teacher's boxes to those of the library, which are the middle of its own and the annotators': moved by these shares of the sides,
the sides times these (medians of 1,500 faces that both see)."""


@dataclass(frozen=True)
class Answers:
    """What the teacher says of each place of some scenes."""

    score_TP: Tensor
    """Root of class x objectness."""
    bbox_TP4: Tensor
    """Boxes as the network gives them, to be decoded."""


def teaching_loss(maps_NPC: Tensor, answers: Answers, priors_P3: Tensor, regions: Targets, usual: Usual) -> dict[str, Tensor]:
    """How unlike the teacher's the student's scores are (their divergence), and how far its boxes are from where the teacher's should be.

    Both count per place in which the teacher sees a face, more or less (`Usual`). Its boxes are moved to where the library has them: halfway
    to the annotators'. Known faces count only where the teacher sees them: one that misses masked faces must not teach that. In regions
    that annotated scenes ignore, because at some size it was in doubt, the teacher is listened to: of hair, hands and sleeves it says no
    at most others.
    """
    score_NP = answers.score_TP.clamp(LEAST, 1 - LEAST)
    log_NP = (F.logsigmoid(maps_NPC[..., 0]) + F.logsigmoid(maps_NPC[..., 1])) / 2
    other_NP = torch.log1p(-log_NP.exp().clamp(max=1 - LEAST))
    divergence_NP = score_NP * (score_NP.log() - log_NP) + (1 - score_NP) * ((1 - score_NP).log() - other_NP)
    heard_NP = _heard(score_NP, priors_P3, regions)
    is_face_NP = (score_NP > SHOWS) & heard_NP
    faces = usual.number(score_NP[is_face_NP].sum())
    at_Q3 = priors_P3[is_face_NP.nonzero()[:, 1]]
    apart_Q = eiou_loss(decode(maps_NPC[is_face_NP][:, 2:6], at_Q3), _as_in_library(decode(answers.bbox_TP4[is_face_NP], at_Q3)))
    return {"like": (divergence_NP * heard_NP).sum() / faces, "where": BOX_WEIGHT * (apart_Q * score_NP[is_face_NP]).sum() / faces}


def _as_in_library(corners_Q4: Tensor) -> Tensor:
    """The teacher's boxes as the library would have them: the middle of its own and the annotators'."""
    side_Q2 = corners_Q4[:, 2:] - corners_Q4[:, :2]
    middle_Q2 = (corners_Q4[:, 2:] + corners_Q4[:, :2]) / 2 + side_Q2 * side_Q2.new_tensor(MOVED)
    half_Q2 = side_Q2 * side_Q2.new_tensor(SIZED) / 2
    return torch.cat([middle_Q2 - half_Q2, middle_Q2 + half_Q2], 1)


def _heard(score_NP: Tensor, priors_P3: Tensor, regions: Targets) -> Tensor:
    """Which places [N, P] count: all but those in known faces that the teacher does not see."""
    beside_M1 = (regions.boxes_M4[:, 2:].amin(1, keepdim=True) < SMALL_PX) * float(BESIDE_PX)
    boxes_M4 = torch.cat([regions.boxes_M4[:, :2] - beside_M1, regions.boxes_M4[:, 2:] + 2 * beside_M1], 1)
    is_missed_M = (score_NP[regions.picture_M] * inside(boxes_M4, priors_P3)).amax(1) < SEES
    return ~covered(regions.picture_M[is_missed_M], boxes_M4[is_missed_M], priors_P3, len(score_NP))
