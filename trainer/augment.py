"""One picture -> the same face as another camera, another light or another detector would have shown it.

In the training data bare faces are larger and sharper than masked ones, so a network can learn sharpness instead of
masks. Scale, blur and compression are therefore drawn over the whole range that a door camera gives (faces of 15 to
128 pixels), for both classes alike.
"""

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Image = NDArray[np.uint8]


def augment(image_HWC: Image, rng: Generator) -> Image:
    """A random variant of an RGB picture, of the same size."""
    image = _move(image_HWC, rng)
    image = _light(image, rng)
    if rng.random() < 0.3:
        image = _occlude(image, rng)
    return _degrade(image, rng)


def _move(image: Image, rng: Generator) -> Image:
    """Flip, rotate, scale, slant and shift: how differently detectors cut the same face."""
    size = image.shape[0]
    if rng.random() < 0.5:
        image = np.ascontiguousarray(image[:, ::-1])
    # Log-uniform, from a box that is far too loose to one that cuts the chin off.
    matrix = cv2.getRotationMatrix2D((size / 2, size / 2), rng.uniform(-20, 20), float(np.exp(rng.uniform(np.log(0.62), np.log(1.35)))))
    slant = np.array([[rng.uniform(0.88, 1.12), rng.uniform(-0.1, 0.1)], [0, 1.0]])
    about_middle = np.full(2, size / 2) - slant @ np.full(2, size / 2)
    matrix = np.hstack([slant @ matrix[:, :2], (slant @ matrix[:, 2] + about_middle + rng.uniform(-16, 16, 2))[:, None]])
    return cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).astype(np.uint8, copy=False)


def _light(image: Image, rng: Generator) -> Image:
    """Brightness, contrast, gamma, colour casts, grey, and a shadow that ends somewhere in the picture."""
    if rng.random() < 0.15:
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB).astype(np.uint8, copy=False)
    elif rng.random() < 0.5:
        image = _tint(image, rng)
    # One look-up table per channel holds contrast, gamma, cast and brightness: a single pass over the picture.
    levels = np.linspace(0, 1, 256, dtype=np.float32)[:, None]
    table = levels ** rng.uniform(0.65, 1.5)
    table = (table - 0.5) * rng.uniform(0.6, 1.4) + 0.5 + rng.uniform(-0.15, 0.15)
    cast = rng.uniform(0.85, 1.15, 3) if rng.random() < 0.6 else np.ones(3)
    table = table * cast
    image = cv2.LUT(image, np.clip(table * 255, 0, 255).astype(np.uint8)[None]).astype(np.uint8, copy=False)
    if rng.random() < 0.3:
        image = _shadow(image, rng)
    return image


def _tint(image: Image, rng: Generator) -> Image:
    """Other hues and paler or richer colours: masks come in all of them."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    levels = np.arange(256)
    hue = (levels + rng.normal(0, 9)) % 180 if rng.random() < 0.8 else (levels + rng.uniform(0, 180)) % 180
    tables = np.stack([hue, np.clip(levels * rng.uniform(0.3, 1.5), 0, 255), levels], 1).astype(np.uint8)
    return cv2.cvtColor(cv2.LUT(hsv, tables[None]), cv2.COLOR_HSV2RGB).astype(np.uint8, copy=False)


def _shadow(image: Image, rng: Generator) -> Image:
    size = image.shape[0]
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size - 0.5
    angle = rng.uniform(0, 2 * np.pi)
    ramp = np.clip(0.5 + (x * np.cos(angle) + y * np.sin(angle) - rng.uniform(-0.3, 0.3)) * rng.uniform(1, 8), 0, 1)
    shade = 1 - ramp * rng.uniform(0.2, 0.65)
    shaded: Image = (image * shade[:, :, None]).astype(np.uint8)
    return shaded


def _occlude(image: Image, rng: Generator) -> Image:
    """A plain rectangle or ellipse of a random colour, or of one in the picture (a hand), that covers up to a tenth of it."""
    size = image.shape[0]
    image = image.copy()
    centre = rng.integers(0, size, 2)
    half = rng.integers(size // 16, size // 6, 2)
    colour = rng.integers(0, 256, 3).tolist() if rng.random() < 0.5 else image[rng.integers(size), rng.integers(size)].tolist()
    if rng.random() < 0.5:
        cv2.rectangle(image, (centre - half).tolist(), (centre + half).tolist(), colour, -1)
    else:
        cv2.ellipse(image, centre.tolist(), half.tolist(), float(rng.uniform(0, 180)), 0, 360, colour, -1)
    return image


def _degrade(image: Image, rng: Generator) -> Image:
    """Fewer pixels, blur, noise and JPEG: a far, moving or cheap camera's view."""
    size = image.shape[0]
    if rng.random() < 0.7:
        # Log-uniform: small faces are as frequent as large ones.
        small = int(np.exp(rng.uniform(np.log(15), np.log(110))))
        image = cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
        if rng.random() < 0.5:
            image = _jpeg(image, rng)
        up = cv2.INTER_LINEAR if rng.random() < 0.7 else cv2.INTER_CUBIC
        image = cv2.resize(image, (size, size), interpolation=up).astype(np.uint8, copy=False)
    if rng.random() < 0.3:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 2.5)).astype(np.uint8, copy=False)
    elif rng.random() < 0.15:
        image = _motion_blur(image, rng)
    if rng.random() < 0.35:
        noise = rng.standard_normal(image.shape, dtype=np.float32) * rng.uniform(2, 16)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    if rng.random() < 0.4:
        image = _jpeg(image, rng)
    return image


def _motion_blur(image: Image, rng: Generator) -> Image:
    length = int(rng.integers(3, 10))
    kernel = np.zeros((length, length), np.float32)
    direction = np.array([np.cos(angle := rng.uniform(0, np.pi)), np.sin(angle)]) * (length - 1) / 2
    middle = (length - 1) / 2
    cv2.line(kernel, (middle - direction).round().astype(int).tolist(), (middle + direction).round().astype(int).tolist(), 1.0, 1)
    return cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE).astype(np.uint8, copy=False)


def _jpeg(image: Image, rng: Generator) -> Image:
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 91))])
    again = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert again is not None, "what was just encoded can be decoded"
    return again.astype(np.uint8, copy=False)
