"""Images are made ready for published weights as their publisher makes them ready, and the recipe says how."""

from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from torch.testing import assert_close
from transformers import BitImageProcessor, ConvNextImageProcessor, ViTImageProcessor

from secateurs.app import models
from secateurs.app.cli.pretrained import image_words, with_preprocessing
from secateurs.app.cli.recipe import Recipe
from secateurs.app.data import Preprocessing, load
from secateurs.app.models.publisher import of_processor
from secateurs.errors import InputError


def photo(width, height):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize(
    ("entry", "weights"),
    [
        ("resnet18", "DEFAULT"),
        ("resnet50", "IMAGENET1K_V2"),
        ("efficientnet_b3", "DEFAULT"),
        ("vit_b_16", "IMAGENET1K_SWAG_E2E_V1"),
        ("inception_v3", "DEFAULT"),
    ],
)
def test_torchvision_weights_see_what_their_own_transforms_give(entry, weights):
    ours = models.published_preprocessing(f"torchvision:{entry}", weights).still()
    theirs = torchvision.models.get_model_weights(entry)[weights].transforms()
    image = photo(400, 320)

    assert_close(ours(image), theirs(image))


@pytest.mark.parametrize("tagged", ["resnet18.a1_in1k", "vit_tiny_patch16_224.augreg_in21k_ft_in1k", "mixer_b16_224"])
def test_timm_weights_see_what_timm_gives(tagged):
    """In another size, with other statistics and another crop than ImageNet's usual ones."""
    config = timm.get_pretrained_cfg(tagged).to_dict()
    theirs = timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=config))
    image = photo(400, 320)

    assert_close(models.published_preprocessing(f"timm:{tagged}", "DEFAULT").still()(image), theirs(image))


@pytest.mark.parametrize(
    ("processor", "side"),
    [
        (ViTImageProcessor(), 224),
        (ViTImageProcessor(do_normalize=False, size={"height": 32, "width": 32}), 32),
        (ViTImageProcessor(rescale_factor=1 / 127.5, image_mean=[1.0] * 3, image_std=[1.0] * 3), 224),
        (BitImageProcessor(size={"shortest_edge": 48}, crop_size={"height": 32, "width": 32}), 48),
        (ConvNextImageProcessor(size={"shortest_edge": 96}, crop_pct=0.75), 128),
    ],
    ids=["squash", "plain", "rescale", "crop", "share"],
)
def test_repositories_see_what_their_processor_gives(processor, side):
    """On a square image as large as it is resized to, where nothing but the crop and the numbers is left."""
    image = photo(side, side)
    theirs = processor(image, return_tensors="pt")["pixel_values"][0]

    assert_close(of_processor(processor).still()(image), theirs, atol=1e-5, rtol=1e-5)


def test_the_recipe_says_what_published_weights_expect(tmp_path):
    """What the user says stays, and a file of one's own weights is ImageNet's."""
    base = Recipe(model="timm:vit_tiny_patch16_224", weights="augreg_in21k_ft_in1k", data=f"imagefolder:{tmp_path}")
    found = with_preprocessing(base)

    assert (found.image_size, found.image_resize, found.image_mean, found.interpolation) == (
        224,
        248,
        (0.5, 0.5, 0.5),
        "bicubic",
    )
    kept = with_preprocessing(Recipe(**{**vars(base), "image_size": 64, "image_std": (1.0, 1.0, 1.0)}))
    assert (kept.image_size, kept.image_resize, kept.image_std, kept.image_mean) == (64, None, (1.0,) * 3, (0.5,) * 3)
    own = with_preprocessing(Recipe(model="timm:vit_tiny_patch16_224", weights="w.pth", data=base.data))
    assert own.preprocessing() == Preprocessing()
    assert own.image_mean == Preprocessing().mean
    assert with_preprocessing(Recipe(data="digits")).image_size is None


@pytest.mark.parametrize(("data", "words"), [("imagefolder:x", "48 pixels"), ("cifar10:x", "32 pixels")])
def test_the_run_says_the_size_that_images_have(data, words):
    """Where images keep the size they were stored in, no crop is said."""
    images = SimpleNamespace(shape=(3, 32, 32))
    said = image_words(with_preprocessing(Recipe(data=data, image_size=48)), images)
    assert said.startswith(words)
    assert ("cropped" in said) == data.startswith("imagefolder")


def test_a_repository_that_says_nothing_and_one_that_cannot_be_asked(tmp_path, monkeypatch):
    """A folder without a processor has none; one that cannot be read is refused, with the flags that say the same."""
    assert models.published_preprocessing(f"hf:{tmp_path}", "DEFAULT") is None
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(InputError, match="--image-mean"):
        models.published_preprocessing(f"hf:{tmp_path}", "DEFAULT")


def test_every_folder_of_images_is_seen_through_it(tmp_path):
    """Classes, masks and images alone: white under mean 0.25 and std 0.5 is 1.5."""
    how = Preprocessing(8, resize=8, mean=(0.25,) * 3, std=(0.5,) * 3)
    for name in ("photos/a", "photos/b", "pairs/images", "pairs/masks"):
        (tmp_path / name).mkdir(parents=True)
    for index in range(12):
        white = Image.new("RGB", (9, 10), "white")
        for name in ("photos/a", "photos/b", "pairs/images"):
            white.save(tmp_path / name / f"{index}.png")
        Image.new("L", (9, 10), index % 2).save(tmp_path / "pairs/masks" / f"{index}.png")

    for name in ("imagefolder:photos", "masks:pairs", "images:photos"):
        kind, _, folder = name.partition(":")
        splits = load(f"{kind}:{tmp_path / folder}", how=how)
        for part in (splits.train, splits.test):
            pixels = part[0] if kind == "images" else part[0][0]
            assert_close(pixels, torch.full((3, 8, 8), 1.5))


@pytest.mark.parametrize("wrong", [{"size": 32, "resize": 16}, {"mean": (0.5,)}, {"std": (0.0, 1.0, 1.0)}, {"size": 0}])
def test_what_makes_no_images_is_refused(wrong):
    with pytest.raises(InputError, match="--image-"):
        Preprocessing(**wrong)
