"""Handwritten digits bundled with scikit-learn: 1,797 real 8x8 images by 43 people, 17 levels of grey.

E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998
(doi:10.24432/C50P49), of which scikit-learn bundles the test part.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from secateurs.app.data.images import Images, Shift, Standard
from secateurs.app.data.splits import Splits, stratified
from secateurs.errors import InputError

FRACTIONS = (0.6, 0.2, 0.2)
"""Train, validation, test: 1,078, 360 and 359 images."""


def digits(side: int | None = None) -> Splits:
    """The digits, split 60/20/20 within every class; with `side`, enlarged to so many pixels and in three channels."""
    try:
        from sklearn.datasets import load_digits  # an extra, needed here only
    except ImportError as missing:
        raise InputError(
            f"the digits come with scikit-learn, which cannot be imported ({missing}); install it: "
            "python -m pip install 'secateurs[train]'"
        ) from missing
    bundle: Any = load_digits()
    pixels = torch.from_numpy(bundle.images).to(torch.uint8).unsqueeze(1)
    shift = 1
    if side is not None:
        pixels = F.interpolate(pixels.float(), size=(side, side), mode="bilinear").round().to(torch.uint8)
        pixels, shift = pixels.expand(-1, 3, -1, -1).contiguous(), max(1, side // 8)
    _, channels, height, width = pixels.shape
    labels = torch.from_numpy(bundle.target)
    train, validation, test = map(torch.from_numpy, stratified(bundle.target, FRACTIONS))
    seen = pixels[train].float() / 16
    standard = Standard(16.0, (seen.mean().item(),) * channels, (seen.std().item(),) * channels)
    return Splits(
        name="digits",
        train=Images(pixels[train], labels[train], standard, Shift(shift, mirror=False)),
        calibration=Images(pixels[train], labels[train], standard),
        validation=Images(pixels[validation], labels[validation], standard),
        test=Images(pixels[test], labels[test], standard),
        classes=tuple(map(str, bundle.target_names)),
        shape=(channels, height, width),
    )
