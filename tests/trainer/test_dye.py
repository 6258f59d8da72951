"""Masks of other colours."""

import cv2
import numpy as np

from trainer.dye import dye

FACE, MASK = (200, 160, 140), (225, 235, 240)


def masked(size: int = 128) -> np.ndarray:
    image = np.full((size, size, 3), FACE, np.uint8)
    cv2.rectangle(image, (24, 64), (104, 112), MASK, -1)
    return image


def test_the_mask_has_another_colour_and_the_face_its_own() -> None:
    changes = [np.abs(dye(masked(), np.random.default_rng(seed)).astype(int) - masked()) for seed in range(20)]
    assert all(change[72:104, 32:96].mean() > 15 for change in changes)
    assert all(change[:40].mean() < 1 for change in changes), "what is above the eyes stays"
    assert np.mean([change[72:104, :16].mean() for change in changes]) < 6, "skin beside the mask stays"


def test_no_two_draws_are_alike_and_each_can_be_repeated() -> None:
    one, two, again = (dye(masked(), np.random.default_rng(seed)) for seed in (1, 2, 1))
    assert not np.array_equal(one, two)
    assert np.array_equal(one, again)
    assert one.shape == (128, 128, 3)
    assert one.dtype == np.uint8


def test_black_and_blank_pictures_are_dyed_too() -> None:
    for value in (0, 255):
        for seed in range(10):
            assert dye(np.full((128, 128, 3), value, np.uint8), np.random.default_rng(seed)).shape == (128, 128, 3)
