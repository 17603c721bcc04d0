"""Preprocessing of images for published weights, as their publisher defines it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from secateurs.app.choices import Interpolation
from secateurs.app.data.preprocessing import Preprocessing
from secateurs.app.models.zoo import DEFAULT, package, timm_name, told, torchvision_weights
from secateurs.errors import InputError

PILLOW: Mapping[int, Interpolation] = {
    0: "nearest",
    1: "lanczos",
    2: "bilinear",
    3: "bicubic",
    4: "box",
    5: "hamming",
}
"""Numbers of Pillow's filters, which transformers stores."""


def published_preprocessing(model: str, weights: str) -> Preprocessing | None:
    """Return the preprocessing that published weights were trained with; None if none is published.

    It is read from torchvision's `weights.transforms()`, timm's data configuration, or the image processor of a
    repository. A processor that resizes to a square without cropping is replaced by a centre crop of the same size, so
    that images are not distorted.
    """
    source, _, entry = model.partition(":")
    with told(model, weights, "or say what images are: --image-size, --image-resize, --image-mean, --image-std"):
        return {"torchvision": _of_torchvision, "timm": _of_timm, "hf": _of_repository}[source](entry, weights)


def _of_torchvision(entry: str, weights: str) -> Preprocessing | None:
    """Preprocessing of a classifier or a segmentation network; detectors normalise inside the model."""
    preset: Any = torchvision_weights(entry, weights).transforms()
    if not hasattr(preset, "mean"):
        return None
    resized = preset.resize_size[0]
    size = getattr(preset, "crop_size", preset.resize_size)[0]
    return Preprocessing(size, resized, tuple(preset.mean), tuple(preset.std), preset.interpolation.value)


def _of_timm(entry: str, weights: str) -> Preprocessing:
    config = package("timm").get_pretrained_cfg(timm_name(entry, weights))
    found = package("timm.data").resolve_data_config(pretrained_cfg=config.to_dict())
    _, height, width = found["input_size"]
    size = _square(height, width)
    resized = int(size / found["crop_pct"])
    return Preprocessing(size, resized, tuple(found["mean"]), tuple(found["std"]), found["interpolation"])


def _of_repository(entry: str, weights: str) -> Preprocessing | None:
    if Path(entry).is_dir() and not (Path(entry) / "preprocessor_config.json").is_file():
        return None
    revision = "main" if weights == DEFAULT else weights
    processor = package("transformers").AutoImageProcessor.from_pretrained(
        entry, revision=revision, trust_remote_code=False
    )
    return of_processor(processor)


def of_processor(processor: Any) -> Preprocessing:
    """Return the preprocessing of a transformers image processor."""
    size, resized = _sizes(processor)
    scale = 255.0 * (getattr(processor, "rescale_factor", 1 / 255) if getattr(processor, "do_rescale", True) else 1.0)
    shift = 1.0 if getattr(processor, "rescale_offset", False) else 0.0
    plain = not getattr(processor, "do_normalize", True)
    mean, std = ((0.0,) * 3, (1.0,) * 3) if plain else (tuple(processor.image_mean), tuple(processor.image_std))
    return Preprocessing(
        size,
        resized,
        tuple((m + shift) / scale for m in mean),
        tuple(s / scale for s in std),
        PILLOW.get(int(processor.resample or 2), "bilinear"),
    )


def _sizes(processor: Any) -> tuple[int, int]:
    """Side of the network's input, and the shorter side of the resized image."""
    size = _of_sides(processor.size)
    if getattr(processor, "do_center_crop", False) and getattr(processor, "crop_size", None):
        cropped = _of_sides(processor.crop_size)
        return cropped, max(size, cropped)
    return size, int(size / (getattr(processor, "crop_pct", None) or 1.0))


def _of_sides(size: Any) -> int:
    """One side, from a number or a size dictionary of transformers."""
    if isinstance(size, int):
        return size
    sides = {key: value for key, value in dict(cast("Mapping[str, Any]", size)).items() if value}
    if "shortest_edge" in sides:
        return int(sides["shortest_edge"])
    return _square(int(sides["height"]), int(sides["width"]))


def _square(height: int, width: int) -> int:
    if height != width:
        raise InputError(
            f"these weights were trained on images of {width}x{height} pixels, and only squares are fed; name a size: "
            "--image-size"
        )
    return height
