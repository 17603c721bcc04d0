"""Faces: people and pairs as they are distributed, verification counted by hand, and the ArcFace loss."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from secateurs.app.data.faces import FacePair, People, draw_pairs, read_pairs
from secateurs.app.training.verification import ArcFace, best_threshold, embeddings, standardised, verify
from secateurs.errors import InputError


@pytest.fixture
def folder(tmp_path):
    """Six people with three images each, a shade of grey for each image."""
    for n, name in enumerate("ABCDEF"):
        (tmp_path / name).mkdir()
        for k in (1, 2, 3):
            Image.new("RGB", (4, 6), (40 * n + k,) * 3).save(tmp_path / name / f"{name}_{k:04d}.png")
    return tmp_path


def listed(folder, text):
    (folder / "pairs.txt").write_text(text)
    return folder / "pairs.txt"


PAIRS = "2\t1\nA\t1\t2\nA\t1\tB\t2\nC\t1\t3\nC\t2\tD\t1\n"


def test_people_and_pairs_are_read_as_distributed(folder):
    """Numbers are those in the names of the files; who is in no pair is outside."""
    people, folds = People.open(folder), read_pairs(listed(folder, PAIRS))

    assert (len(people), len(folds), people.path(("C", 3)).name) == (18, 2, "C_0003.png")
    assert [[pair.same for pair in fold] for fold in folds] == [[True, False], [True, False]]
    assert list(people.outside(folds).images) == ["E", "F"]
    pixels = people.read([("B", 2), ("A", 1)])
    assert (pixels.shape, pixels[:, 0, 0, 0].tolist()) == ((2, 3, 6, 4), [42, 1])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no list of pairs"),
        ("2\t1\nA\t1\t2\n", "whole file"),
        ("2\t1\nA\t1\tB\t2\nA\t1\t2\nC\t1\t3\nC\t2\tD\t1\n", "come first"),
        ("2\t1\nA\t1\nA\t1\tB\t2\nC\t1\t3\nC\t2\tD\t1\n", "3 or 4"),
        ("2\tx\n", "no list of pairs"),
    ],
)
def test_lists_that_are_none_are_refused(folder, text, words):
    """With what is wrong."""
    with pytest.raises(InputError, match=words):
        read_pairs(listed(folder, text))


def test_images_that_are_not_there_are_named(folder):
    """Of a person without a folder, and of a number that is not there; images without numbers."""
    people = People.open(folder)
    with pytest.raises(InputError, match="'G'"):
        people.path(("G", 1))
    with pytest.raises(InputError, match="numbers 1, 2, 3"):
        people.path(("A", 9))
    Image.new("RGB", (4, 6)).save(folder / "A" / "portrait.png")
    with pytest.raises(InputError, match=r"portrait\.png has no number"):
        People.open(folder)


def test_drawn_pairs_share_no_person_between_folds(folder):
    """Half are of one person; the same seed draws the same."""
    people = People.open(folder)
    folds = draw_pairs(people, folds=3, seed=1)
    names = [{face[0] for pair in fold for face in (pair.first, pair.second)} for fold in folds]

    assert all(sum(pair.same for pair in fold) * 2 == len(fold) == len(set(fold)) for fold in folds)
    assert sum(map(len, names)) == len(set().union(*names)) == 6
    assert folds == draw_pairs(people, folds=3, seed=1) != draw_pairs(people, folds=3, seed=2)
    with pytest.raises(InputError, match="fewer folds"):
        draw_pairs(people, folds=4)


def test_the_threshold_is_the_best_on_the_other_folds():
    """Cosines around a common mean, counted by hand: the fold that is measured has no say."""
    torch.manual_seed(0)
    features = {(name, k): torch.randn(3).double() for name in "abcdef" for k in (1, 2)}
    folds = [
        (FacePair((a, 1), (a, 2)), FacePair((b, 1), (b, 2)), FacePair((a, 1), (b, 2)), FacePair((a, 2), (b, 1)))
        for a, b in ("ab", "cd", "ef")
    ]
    found = verify(features, folds)

    for k, fold in enumerate(folds):
        others = [pair for n, other in enumerate(folds) if n != k for pair in other]
        mean = torch.stack([features[f] for p in others for f in (p.first, p.second)]).mean(0)

        def cosine(pair, mean=mean):
            return F.cosine_similarity(features[pair.first] - mean, features[pair.second] - mean, 0).item()

        tried = {t: sum((cosine(p) >= t) == p.same for p in others) for t in map(cosine, others)}
        threshold = min(t for t, right in tried.items() if right == max(tried.values()))
        assert found.thresholds[k] == pytest.approx(threshold)
        assert found.folds[k] == np.mean([(cosine(p) >= threshold) == p.same for p in fold])


def test_the_best_threshold_is_found_by_trying_all():
    """Also with ties."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        cosines, same = rng.integers(0, 5, 12) / 5.0, rng.random(12) < 0.5
        right = {t: ((cosines >= t) == same).sum() for t in set(cosines)}

        assert best_threshold(cosines, same) == min(t for t, n in right.items() if n == max(right.values()))


def test_features_are_of_the_image_and_its_mirror(folder):
    """Side by side, in eval mode; the mode is left as it was."""
    people = People.open(folder)

    class Corner(torch.nn.Module):
        def forward(self, x):
            assert not self.training
            return x[:, :1, 0, :2].flatten(1)

    model = Corner().train()
    image = people.read([("A", 1)])
    image[0, :, 0, 0] = 255
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(People, "read", lambda *_: image)
        found = embeddings(model, People.open(folder), [("A", 1)])[("A", 1)]

    assert torch.equal(found, torch.cat([standardised(image)[0, 0, 0, :2], standardised(image)[0, 0, 0, [3, 2]]]))
    assert model.training


def test_arcface_adds_its_margin_to_the_angle_of_the_right_person():
    """Against the angles themselves, also beyond π - m; without a margin it is the cosine classifier."""
    torch.manual_seed(0)
    x, y, head = torch.randn(6, 4), torch.randint(3, (6,)), ArcFace(4, 3, scale=8.0, margin=0.4)
    x[0] = -head.weight[y[0]].detach()  # the opposite direction
    cosine = F.normalize(x) @ F.normalize(head.weight).t()
    angle = cosine.clamp(-1 + 1e-7, 1 - 1e-7).acos()
    wanted = torch.where(angle + 0.4 < math.pi, (angle + 0.4).cos(), cosine - 0.4 * math.sin(0.4))
    rows = torch.arange(6)
    logits = cosine.clone()
    logits[rows, y] = wanted[rows, y]

    assert head(x, y).item() == pytest.approx(F.cross_entropy(8 * logits, y).item(), rel=1e-4)
    with pytest.raises(InputError):
        ArcFace(4, 3, scale=0.0)
