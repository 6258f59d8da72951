"""What a student learns from a teacher: its answers, softened, and which pictures look alike to it."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from trainer.models import Network, prepare
from trainer.train import Objective, label_loss

TEACHER_BATCH = 16
"""Pictures that the teacher looks at together: its features then stay in the processor's cache."""
LEAST = 1e-5
"""A teacher is taken to be no surer than this: where it is, it says nothing more about the picture."""


@dataclass(frozen=True)
class Teaching:
    """How much of the loss comes from where."""

    temperature: float = 4.0
    soft_share: float = 0.7
    """The teacher's answers weigh this much, the labels the rest."""
    feature_weight: float = 0.0
    label_smoothing: float = 0.02


def distillation(teacher: Network, teaching: Teaching, log_counts_2: Tensor) -> Objective:
    """The objective of learning from a teacher, which sees the very pictures that the student sees.

    Softened answers: Kullback-Leibler divergence at temperature T, times T squared (Hinton et al., 2015). Features:
    the similarities of a batch's pictures to each other, which need no common width (after Tung and Mori, 2019).
    Labels: `label_loss`.
    """
    teacher = copy.deepcopy(teacher).eval().requires_grad_(requires_grad=False)

    def objective(network: Network, images_NHWC: Tensor, classes_N: Tensor) -> Tensor:
        features_NC = network.embed(prepare(images_NHWC, network.architecture.input_px))
        logits_N2 = network.judge(features_NC).float()
        taught_NC, taught_N2 = _ask(teacher, images_NHWC)
        soft = soft_loss(logits_N2, taught_N2, teaching.temperature)
        hard = label_loss(logits_N2, classes_N, teaching.label_smoothing, log_counts_2)
        loss = teaching.soft_share * soft + (1 - teaching.soft_share) * hard
        if teaching.feature_weight:
            loss = loss + teaching.feature_weight * feature_loss(features_NC.float(), taught_NC)
        return loss

    return objective


def told(teaching: Teaching, log_counts_2: Tensor) -> Objective:
    """The objective of learning from labelled views: what the teacher said of a picture, softened, beside its class."""

    def objective(network: Network, images_NHWC: Tensor, told_N2: Tensor, classes_N: Tensor) -> Tensor:
        logits_N2 = network(prepare(images_NHWC, network.architecture.input_px)).float()
        soft = soft_loss(logits_N2, told_N2.clamp(min=LEAST).log(), teaching.temperature)
        # Half and half is said of no face: its class is drawn, whatever the counts of faces are.
        is_face_N1 = told_N2[:, :1] != told_N2[:, 1:]
        hard = label_loss(logits_N2, classes_N, teaching.label_smoothing, log_counts_2 * is_face_N1)
        return teaching.soft_share * soft + (1 - teaching.soft_share) * hard

    return objective


def soft_loss(student_N2: Tensor, teacher_N2: Tensor, temperature: float) -> Tensor:
    """T squared times the divergence of the student's softened answers from the teacher's; its gradient does not depend on T."""
    return (
        F.kl_div(
            (student_N2 / temperature).log_softmax(1),
            (teacher_N2 / temperature).log_softmax(1),
            reduction="batchmean",
            log_target=True,
        )
        * temperature**2
    )


def feature_loss(student_NC: Tensor, teacher_ND: Tensor) -> Tensor:
    """How differently two networks, of any widths, see which pictures of a batch are alike: 0 to 4."""
    alike_student = F.normalize(student_NC) @ F.normalize(student_NC).T
    alike_teacher = F.normalize(teacher_ND) @ F.normalize(teacher_ND).T
    return F.mse_loss(alike_student, alike_teacher)


@torch.no_grad()
def _ask(teacher: Network, images_NHWC: Tensor) -> tuple[Tensor, Tensor]:
    """The teacher's features [N, D] and logits [N, 2]."""
    features = [teacher.embed(prepare(part, teacher.architecture.input_px)).float() for part in torch.split(images_NHWC, TEACHER_BATCH)]
    features_ND = torch.cat(features)
    return features_ND, teacher.judge(features_ND).float()
