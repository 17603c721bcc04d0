"""Data: three disjoint splits, the same on every run, standardised by what was learnt from."""

import os
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from secateurs.app.data import Images, Preprocessing, Standard, check_name, load, stratified
from secateurs.app.data.images import Shift
from secateurs.app.training import Loaders
from secateurs.errors import InputError, RecipeError


@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=80),
    cuts=st.lists(st.floats(0.05, 1), min_size=1, max_size=4),
)
def test_splits_are_disjoint_complete_and_fair(labels, cuts):
    """Every index is in one part, and each part has its share of each class, to one image."""
    fractions = tuple(cut / sum(cuts) for cut in cuts)
    parts = stratified(labels, fractions)

    assert list(range(len(labels))) == sorted(np.concatenate(parts).tolist())
    for fraction, part in zip(fractions, parts, strict=True):
        for label in set(labels):
            share = sum(labels[k] == label for k in part)
            assert abs(share - fraction * labels.count(label)) <= 1


def test_splits_are_the_same_on_every_run():
    """Whatever the global generators did before."""
    first = stratified([0, 1] * 20, (0.5, 0.5))
    np.random.seed(5)  # noqa: NPY002
    torch.manual_seed(5)

    again = stratified([0, 1] * 20, (0.5, 0.5))

    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("fractions", [(0.5, 0.4), (1.5, -0.5)])
def test_fractions_that_are_none_are_refused(fractions):
    """They must be non-negative and sum to one."""
    with pytest.raises(ValueError, match="sum to 1"):
        stratified([0, 1], fractions)


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def test_digits_share_no_image(digits):
    """No position of the bundle is in two splits: together they are all 1,797 images."""
    parts = [digits.train, digits.validation, digits.test]

    assert (1078, 360, 359) == tuple(map(len, parts))
    every = torch.cat([part.pixels for part in parts]).flatten(1)
    whole = torch.from_numpy(np.asarray(__import__("sklearn.datasets").datasets.load_digits().data)).to(torch.uint8)
    assert sorted(map(tuple, whole.tolist())) == sorted(map(tuple, every.tolist()))


def test_digits_are_standardised_by_the_training_split(digits):
    """Mean 0 and variance 1 over the training images, and nothing learnt from the others."""
    images, _ = digits.calibration.__getitems__(list(range(len(digits.calibration))))

    assert images.mean().item() == pytest.approx(0, abs=1e-5)
    assert images.std().item() == pytest.approx(1, abs=1e-4)
    assert digits.validation.standard == digits.train.standard == digits.test.standard


def test_only_training_images_are_augmented(digits):
    """Asked twice, training images differ, all others do not."""
    indices = list(range(16))
    twice = {
        name: [getattr(digits, name).__getitems__(indices)[0] for _ in range(2)]
        for name in ("train", "calibration", "validation", "test")
    }

    assert {"calibration", "validation", "test"} == {name for name, (a, b) in twice.items() if torch.equal(a, b)}


def test_calibration_is_the_training_images(digits):
    """Unaugmented, in the same order."""
    assert torch.equal(digits.train.pixels, digits.calibration.pixels)
    assert torch.equal(digits.train.labels, digits.calibration.labels)


def test_shift_moves_and_mirrors_and_does_nothing_else():
    """Every augmented image is a shifted, perhaps mirrored copy; both kinds occur."""
    image = torch.arange(1, 10, dtype=torch.uint8).view(1, 1, 3, 3)
    padded = torch.nn.functional.pad(image, (1, 1, 1, 1))[0, 0]
    windows = {tuple(padded[i : i + 3, j : j + 3].flatten().tolist()) for i in range(3) for j in range(3)}
    mirrored = {tuple(torch.tensor(w).view(3, 3).flip(1).flatten().tolist()) for w in windows}

    torch.manual_seed(0)
    found = {tuple(x.flatten().tolist()) for x in Shift(1, mirror=True)(image.expand(400, 1, 3, 3))}

    assert windows | mirrored == found


def test_one_image_is_the_batch_of_one(digits):
    """Indexing and fetching a batch agree."""
    image, label = digits.test[3]
    images, labels = digits.test.__getitems__([3])

    assert torch.equal(image, images[0])
    assert torch.equal(label, labels[0])


def test_standard_is_channel_by_channel():
    """(x / scale - mean) / std, with each channel's own numbers."""
    standard = Standard(255.0, (0.0, 0.5), (1.0, 0.25))
    pixels = torch.tensor([[[[255]], [[255]]]], dtype=torch.uint8)

    assert [1.0, 2.0] == standard(pixels).flatten().tolist()


def test_loaders_read_each_split_in_its_own_way(digits):
    """Training is shuffled and drops a short batch; the rest is whole and in order; calibration stops where told."""
    loaders = Loaders(digits, batch_size=64)
    train = [y for _, y in loaders.train_dataloader()]

    assert [64] * 16 == [len(y) for y in train]
    assert not torch.equal(torch.cat(train)[:64], digits.train.labels[:64])
    assert torch.equal(digits.test.labels, torch.cat([y for _, y in loaders.test_dataloader()]))
    assert torch.equal(digits.validation.labels, torch.cat([y for _, y in loaders.val_dataloader()]))
    assert 128 == sum(len(y) for _, y in loaders.calibration(2))
    assert 1078 == sum(len(y) for _, y in loaders.calibration(100))
    assert (1, 1, 8, 8) == loaders.example().shape


def _draw(root, folders, count):
    for folder in folders:
        (root / folder).mkdir(parents=True)
        for k in range(count):
            Image.new("RGB", (20, 16), (10 * k, 0, 0)).save(root / folder / f"{k}.png")


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (["cat", "dog"], (16, 2, 2)),
        (["train/cat", "train/dog", "val/cat", "val/dog"], (18, 2, 20)),
        (["train/cat", "train/dog", "test/cat", "test/dog"], (18, 2, 20)),
        ([f"{part}/{name}" for part in ("train", "val", "test") for name in ("cat", "dog")], (20, 20, 20)),
    ],
)
def test_imagefolder_layouts(tmp_path, folders, expected):
    """A flat folder, ImageNet's two folders, and three folders: each in three disjoint splits."""
    _draw(tmp_path, folders, 10)
    splits = load(f"imagefolder:{tmp_path}", how=Preprocessing(14))
    parts = (splits.train, splits.validation, splits.test)
    files = [{part.dataset.folder.samples[k][0] for k in part.indices} for part in parts]

    assert expected == tuple(map(len, parts))
    assert sum(expected) == len(set.union(*files))
    assert (("cat", "dog"), (3, 14, 14)) == (splits.classes, splits.shape)
    assert (3, 14, 14) == splits.train[0][0].shape == splits.test[0][0].shape
    images, labels = next(iter(Loaders(splits, batch_size=2).val_dataloader()))
    assert ((2, 3, 14, 14), (2,)) == (images.shape, labels.shape)


def test_imagefolder_with_other_classes_in_its_test_is_refused(tmp_path):
    """Labels would mean different things in the two folders."""
    _draw(tmp_path, ["train/cat", "train/dog", "val/cat", "val/wolf"], 2)

    with pytest.raises(InputError, match=r"not hold the same classes.*dog, wolf"):
        load(f"imagefolder:{tmp_path}")


def test_imagefolder_without_images_is_refused(tmp_path):
    """An empty root says what should be there."""
    with pytest.raises(InputError, match="folder of its own"):
        load(f"imagefolder:{tmp_path}")


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("digit", RecipeError, "did you mean 'digits'"),
        ("cifar11:x", RecipeError, "did you mean 'cifar1"),
        ("cifar10", RecipeError, "cifar10:ROOT"),
        ("cifar10:", RecipeError, "cifar10:ROOT"),
        ("digits:here", RecipeError, "no data set"),
        ("cifar100:nowhere/at/all", InputError, "nowhere/at/all is not there"),
        ("imagefolder:" + "x" * 5000, InputError, "xxx is not there"),
    ],
)
def test_unknown_data_is_refused(name, error, words):
    """Before any image is read."""
    with pytest.raises(error, match=words):
        check_name(name)


def test_cifar_root_without_cifar_says_how_to_get_it(tmp_path):
    """The folder is there and the data are not."""
    with pytest.raises(InputError, match=r"CIFAR10\(.*download=True"):
        load(f"cifar10:{tmp_path}")


@pytest.mark.parametrize(("name", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_cifar_is_split_and_standardised(data_root, name, classes):
    """45,000, 5,000 and 10,000 images; a tenth of each class validates; test labels in the official order."""
    folder = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}[name]
    if not (data_root / folder).is_dir():
        pytest.skip(f"needs {folder} under {data_root}")
    splits = load(f"{name}:{data_root}")

    assert (45_000, 5_000, 10_000) == tuple(map(len, (splits.train, splits.validation, splits.test)))
    assert [5_000 // classes] * classes == torch.bincount(splits.validation.labels).tolist()
    assert classes == len(splits.classes)
    assert isinstance(splits.train, Images)
    assert {"cifar10": [3, 8, 8, 0], "cifar100": [49, 33, 72, 51]}[name] == splits.test.labels[:4].tolist()
    assert abs(splits.calibration.__getitems__(list(range(2000)))[0].mean().item()) < 0.2


def _stray(root, place, content=b"GIF?"):
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    (root / place).write_bytes(content)


LAYOUTS = {
    "train alone": (["train/cat", "train/dog"], r"holds train/ alone"),
    "test alone": (["test/cat", "test/dog"], r"holds test/ alone"),
    "val and test": (["val/cat", "test/cat"], r"holds val/ and test/ alone"),
    "one class": (["cat"], "one class only, 'cat'"),
    "one class in each": (["train/cat", "val/cat"], "one class only, 'cat'"),
}


@pytest.mark.parametrize(("folders", "words"), LAYOUTS.values(), ids=LAYOUTS)
def test_layouts_that_are_none_are_refused(tmp_path, folders, words):
    """Read as classes they would give a network that is right every time, about nothing."""
    _draw(tmp_path, folders, 12)

    with pytest.raises(InputError, match=words):
        load(f"imagefolder:{tmp_path}")


@pytest.mark.parametrize("count", [1, 3, 4])
def test_too_few_images_for_the_parts_are_refused(tmp_path, count):
    """By the name of the class."""
    _draw(tmp_path, ["cat"], 12)
    _draw(tmp_path, ["dog"], count)

    with pytest.raises(InputError, match=f"'dog'.*has {count} images"):
        load(f"imagefolder:{tmp_path}")


def test_hidden_folders_and_files_are_no_classes(tmp_path):
    """Notebooks and desktops leave them."""
    _draw(tmp_path, ["cat", "dog"], 10)
    _stray(tmp_path, ".ipynb_checkpoints/a.png")
    _stray(tmp_path, "cat/.hidden.png")
    _stray(tmp_path, "cat/notes.txt")

    assert load(f"imagefolder:{tmp_path}", how=Preprocessing(8)).classes == ("cat", "dog")


def test_gifs_are_read_and_other_images_are_named(tmp_path):
    """Nothing is skipped in silence that somebody may take for a picture."""
    _draw(tmp_path, ["cat", "dog"], 10)
    Image.new("RGB", (20, 16)).save(tmp_path / "cat" / "moving.gif")
    splits = load(f"imagefolder:{tmp_path}", how=Preprocessing(8))
    assert sum(map(len, (splits.train, splits.validation, splits.test))) == 21

    for name in ("picture.psd", "phone.HEIC", "drawing.svg"):
        _stray(tmp_path, f"dog/{name}")
        with pytest.raises(InputError, match=rf"{name} is an image of a type that is not read"):
            load(f"imagefolder:{tmp_path}")
        (tmp_path / "dog" / name).unlink()


def _cut(path):
    path.write_bytes(path.read_bytes()[:-30])


def _huge(path):
    """A header that claims 60,000 by 60,000 pixels."""
    content = bytearray(path.read_bytes())
    content[16:24] = (60_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [_cut, _huge, lambda path: path.write_text("hello")])
@pytest.mark.parametrize("workers", [0, 1])
def test_images_that_cannot_be_read_are_named(tmp_path, damage, workers):
    """By their path, also where another process reads them."""
    _draw(tmp_path, ["cat", "dog"], 10)
    for path in (tmp_path / "cat").iterdir():
        damage(path)
    loaders = Loaders(load(f"imagefolder:{tmp_path}", how=Preprocessing(8)), batch_size=4, workers=workers)

    with pytest.raises(InputError, match=r"the image .*cat.\d\.png cannot be read"):
        list(loaders.test_dataloader())


def test_what_is_no_file_is_not_waited_for(tmp_path):
    """A named pipe with the name of an image, and a link in a circle."""
    _draw(tmp_path, ["cat", "dog"], 10)
    os.mkfifo(tmp_path / "cat" / "pipe.png")
    with pytest.raises(InputError, match=r"pipe\.png cannot be read"):
        load(f"imagefolder:{tmp_path}")
    (tmp_path / "cat" / "pipe.png").unlink()
    (tmp_path / "dog" / "again").symlink_to(tmp_path)
    with pytest.raises(InputError, match="not followed"):
        load(f"imagefolder:{tmp_path}")


def test_another_listing_has_another_fingerprint(tmp_path):
    """An image more, one less, or one of another size: the class whose folder changed is told."""
    _draw(tmp_path, ["train/cat", "train/dog", "val/cat", "val/dog"], 10)
    first = load(f"imagefolder:{tmp_path}").fingerprint
    (tmp_path / "train" / "dog" / "3.png").rename(tmp_path / "train" / "dog" / "300.png")
    second = load(f"imagefolder:{tmp_path}").fingerprint

    assert first.keys() == {"train/cat", "train/dog", "val/cat", "val/dog"}
    assert [place for place in first if first[place] != second[place]] == ["train/dog"]
