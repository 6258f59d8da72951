"""Which places of the maps answer for which face, and what their answers cost.

Assignment is SimOTA (Ge et al., YOLOX, arXiv 2107.08430), as YuNet uses it (Wu et al., Machine Intelligence Research 2023):
the places around a face's centre compete by their present cost, and the better they are, the more of them may answer.
Written for all faces of a batch at once: each face looks at a 5x5 window of priors at each of the three strides only.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from trainer.detector_net import STRIDES
from trainer.detector_usual import Usual

WINDOW = 2
"""Half side of the window of candidate priors, in priors."""
TOP = 10
"""The IoUs of so many best candidates, added up, say how many priors answer for a face."""
BOX_WEIGHT = 5
"""Of the boxes' loss beside the others, as in YuNet."""


@dataclass(frozen=True)
class Targets:
    """The faces of a batch of pictures, one row a face, in pixels of the picture."""

    picture_M: Tensor
    """Which picture of the batch each face is in."""
    boxes_M4: Tensor
    """x, y, w, h."""
    landmarks_M10: Tensor
    """Five x, y; NaN where unknown."""
    ignore_picture_K: Tensor
    ignore_K4: Tensor
    """Regions x, y, w, h that may or may not hold a face: silence and answer there cost nothing."""


def priors(size_px: int) -> Tensor:
    """[P, 3]: x and y in pixels, and the stride, of every place of the maps of a square picture."""
    levels = []
    for stride in STRIDES:
        axis = torch.arange(size_px // stride, dtype=torch.float32) * stride
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        levels.append(torch.stack([x.flatten(), y.flatten(), torch.full((x.numel(),), float(stride))], 1))
    return torch.cat(levels)


def decode(bbox_Q4: Tensor, priors_Q3: Tensor) -> Tensor:
    """Boxes [Q, 4] as corners x1, y1, x2, y2 in pixels, the way `cv2.FaceDetectorYN` reads them."""
    stride = priors_Q3[:, 2:]
    centre = priors_Q3[:, :2] + bbox_Q4[:, :2] * stride
    half = bbox_Q4[:, 2:].clamp(-6, 6).exp() * stride / 2
    return torch.cat([centre - half, centre + half], 1)


def iou(a_Q4: Tensor, b_Q4: Tensor) -> Tensor:
    """Overlap over union [Q] of boxes given as corners, row by row."""
    sides = (torch.minimum(a_Q4[..., 2:], b_Q4[..., 2:]) - torch.maximum(a_Q4[..., :2], b_Q4[..., :2])).clamp(min=0)
    both = sides.prod(-1)
    areas = (a_Q4[..., 2:] - a_Q4[..., :2]).prod(-1) + (b_Q4[..., 2:] - b_Q4[..., :2]).prod(-1)
    return both / (areas - both + 1e-7)


def eiou_loss(found_Q4: Tensor, true_Q4: Tensor) -> Tensor:
    """1 - EIoU [Q] of corners (Zhang et al., arXiv 2101.08158): overlap, distance of centres, differences of the sides."""
    hull = torch.maximum(found_Q4[:, 2:], true_Q4[:, 2:]) - torch.minimum(found_Q4[:, :2], true_Q4[:, :2]) + 1e-7
    shift = (found_Q4[:, :2] + found_Q4[:, 2:] - true_Q4[:, :2] - true_Q4[:, 2:]) / 2
    sides = (found_Q4[:, 2:] - found_Q4[:, :2]) - (true_Q4[:, 2:] - true_Q4[:, :2])
    distance = shift.square().sum(1) / hull.square().sum(1)
    return 1 - iou(found_Q4, true_Q4) + distance + (sides / hull).square().sum(1)


def corners(boxes_M4: Tensor) -> Tensor:
    """x, y, w, h -> x1, y1, x2, y2."""
    return torch.cat([boxes_M4[:, :2], boxes_M4[:, :2] + boxes_M4[:, 2:]], 1)


def inside(boxes_M4: Tensor, priors_P3: Tensor) -> Tensor:
    """Which priors lie within which boxes (x, y, w, h), [M, P]."""
    box = corners(boxes_M4)[:, :, None]
    x, y = priors_P3[:, 0], priors_P3[:, 1]
    return (x >= box[:, 0]) & (x <= box[:, 2]) & (y >= box[:, 1]) & (y <= box[:, 3])


def covered(picture_M: Tensor, boxes_M4: Tensor, priors_P3: Tensor, pictures: int) -> Tensor:
    """Which places of which pictures lie within any of the boxes in them, [N, P]."""
    covered_NP = torch.zeros(pictures, len(priors_P3), dtype=torch.bool, device=priors_P3.device)
    region, prior = inside(boxes_M4, priors_P3).nonzero(as_tuple=True)
    covered_NP[picture_M[region], prior] = True
    return covered_NP


def candidates(boxes_M4: Tensor, size_px: int) -> tuple[Tensor, Tensor]:
    """Rows of `priors` around each face's centre, [M, 75], and which of them may answer: those within the picture.

    Also outside of the box: a network whose places look a little to one side sees a small face best from beside it.
    """
    centre = boxes_M4[:, :2] + boxes_M4[:, 2:] / 2
    step = torch.arange(-WINDOW, WINDOW + 1, device=boxes_M4.device)
    dy, dx = (t.flatten() for t in torch.meshgrid(step, step, indexing="ij"))
    rows, allowed, start = [], [], 0
    for stride in STRIDES:
        side = size_px // stride
        nearest = (centre / stride).round().long()
        column, row = nearest[:, :1] + dx, nearest[:, 1:] + dy  # [M, 25]
        allowed.append((column >= 0) & (column < side) & (row >= 0) & (row < side))
        rows.append(start + row.clamp(0, side - 1) * side + column.clamp(0, side - 1))
        start += side * side
    return torch.cat(rows, 1), torch.cat(allowed, 1)


@torch.no_grad()
def assign(maps_NPC: Tensor, priors_P3: Tensor, targets: Targets, size_px: int) -> tuple[Tensor, Tensor]:
    """Flat rows (picture x P + prior) [Q] that answer for a face, and the face [Q] of each; no row appears twice."""
    rows_MA, allowed_MA = candidates(targets.boxes_M4, size_px)
    faces, window = rows_MA.shape
    maps = maps_NPC[targets.picture_M[:, None], rows_MA]  # [M, A, 16]
    boxes = decode(maps[..., 2:6].reshape(-1, 4), priors_P3[rows_MA.flatten()]).view(faces, window, 4)
    overlap_MA = iou(boxes, corners(targets.boxes_M4)[:, None].expand_as(boxes)) * allowed_MA
    score_MA = (maps[..., 0].sigmoid() * maps[..., 1].sigmoid()).sqrt()
    cost_MA = -score_MA.clamp(min=1e-6).log() - 3 * overlap_MA.clamp(min=1e-6).log()
    cost_MA = cost_MA.masked_fill(~allowed_MA, 1e8)
    count_M = overlap_MA.topk(TOP, 1).values.sum(1).long().clamp(min=1)
    rank_MA = cost_MA.argsort(1).argsort(1)
    face_Q, place_Q = ((rank_MA < count_M[:, None]) & allowed_MA).nonzero(as_tuple=True)
    flat_Q = targets.picture_M[face_Q] * maps_NPC.shape[1] + rows_MA[face_Q, place_Q]
    return _one_face_each(flat_Q, face_Q, cost_MA[face_Q, place_Q])


def _one_face_each(flat_Q: Tensor, face_Q: Tensor, cost_Q: Tensor) -> tuple[Tensor, Tensor]:
    """Of the faces that want the same prior, the one it serves best keeps it."""
    order = cost_Q.argsort(stable=True)
    flat_Q, face_Q = flat_Q[order], face_Q[order]
    by_row = flat_Q.argsort(stable=True)
    flat_Q, face_Q = flat_Q[by_row], face_Q[by_row]
    first = torch.ones_like(flat_Q, dtype=torch.bool)
    first[1:] = flat_Q[1:] != flat_Q[:-1]
    return flat_Q[first], face_Q[first]


def detection_loss(maps_NPC: Tensor, priors_P3: Tensor, targets: Targets, size_px: int, usual: Usual) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a batch, and its parts (class, objectness, box, landmarks), per answering prior, more or less (`Usual`)."""
    count = maps_NPC.shape[1]
    flat_Q, face_Q = assign(maps_NPC, priors_P3, targets, size_px)
    maps = maps_NPC.reshape(-1, maps_NPC.shape[2])
    found, at = maps[flat_Q], priors_P3[flat_Q % count]
    number = usual.number(torch.tensor(len(flat_Q)))
    boxes, true = decode(found[:, 2:6], at), corners(targets.boxes_M4)[face_Q]
    objectness = torch.zeros(len(maps), device=maps.device).index_fill_(0, flat_Q, 1.0)
    ignored_NP = covered(targets.ignore_picture_K, targets.ignore_K4, priors_P3, maps_NPC.shape[0])
    weight = (~ignored_NP).float().view(-1).index_fill_(0, flat_Q, 1.0)
    parts = {
        "cls": F.binary_cross_entropy_with_logits(found[:, 0], iou(boxes.detach(), true), reduction="sum") / number,
        "obj": F.binary_cross_entropy_with_logits(maps[:, 1], objectness, weight, reduction="sum") / number,
        "box": BOX_WEIGHT * eiou_loss(boxes, true).sum() / number,
        "kps": _landmark_loss(found[:, 6:], at, targets.landmarks_M10[face_Q]) / number,
    }
    return torch.stack(list(parts.values())).sum(), {name: part.detach() for name, part in parts.items()}


def _landmark_loss(kps_Q10: Tensor, priors_Q3: Tensor, true_Q10: Tensor) -> Tensor:
    """Smooth L1 in strides, summed over the faces whose landmarks are known."""
    true = (true_Q10 - priors_Q3[:, :2].repeat(1, 5)) / priors_Q3[:, 2:]
    known = ~true.isnan().any(1)
    return F.smooth_l1_loss(kps_Q10[known], true[known], reduction="none", beta=1 / 9).mean(1).sum()
