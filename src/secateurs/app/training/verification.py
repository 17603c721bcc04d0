"""Face embeddings: verification by pairs, and the ArcFace loss for training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from secateurs.app.data.faces import Face, FacePair, People
from secateurs.errors import InputError

Floats = NDArray[np.float64]


@final
@dataclass(frozen=True)
class Verification:
    """The accuracy of every fold, at the threshold that is best on all the others."""

    folds: tuple[float, ...]
    thresholds: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean accuracy of the folds."""
        return float(np.mean(self.folds))

    @property
    def spread(self) -> float:
        """Standard deviation over the folds."""
        return float(np.std(self.folds))

    def __str__(self) -> str:
        """Percent, with the spread.

        >>> print(Verification((0.98, 1.0), (0.3, 0.3)))
        99.00 ± 1.00 %
        """
        return f"{100 * self.mean:.2f} ± {100 * self.spread:.2f} %"


def standardised(pixels: Tensor) -> Tensor:
    """Return raw pixels scaled for face networks: (x - 127.5) / 128."""
    return (pixels.float() - 127.5) / 128.0


def embeddings(model: nn.Module, people: People, faces: Sequence[Face], *, batch: int = 128) -> dict[Face, Tensor]:
    """Features of images: those of the image and of its mirror image side by side, [2 x features], on the CPU."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    was, found = model.training, dict[Face, Tensor]()
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(faces), batch):
            part = faces[start : start + batch]
            images = standardised(people.read(part)).to(device)
            both = torch.cat([model(images), model(images.flip(3))], 1).cpu()
            found |= dict(zip(part, both, strict=True))
    model.train(was)
    return found


def verify(features: Mapping[Face, Tensor], folds: Sequence[Sequence[FacePair]]) -> Verification:
    """Classify pairs (same person or not) by the cosine of their features.

    For each fold, the mean feature of the others' pairs is subtracted, and the threshold is the one of their cosines
    that classifies most of them correctly (of several, the lowest).
    """
    if len(folds) < 2:
        raise InputError(f"{len(folds)} fold leaves none to choose a threshold on; give at least 2")
    sides = [[torch.stack([features[getattr(p, s)] for p in fold]) for s in ("first", "second")] for fold in folds]
    truth = [np.array([pair.same for pair in fold]) for fold in folds]
    accuracies: list[float] = []
    thresholds: list[float] = []
    for k in range(len(folds)):
        others = [n for n in range(len(folds)) if n != k]
        mean = torch.cat([side for n in others for side in sides[n]]).mean(0)
        cosines = [F.cosine_similarity(a - mean, b - mean).double().numpy() for a, b in sides]
        threshold = best_threshold(
            np.concatenate([cosines[n] for n in others]), np.concatenate([truth[n] for n in others])
        )
        thresholds.append(threshold)
        accuracies.append(float(((cosines[k] >= threshold) == truth[k]).mean()))
    return Verification(tuple(accuracies), tuple(thresholds))


def best_threshold(cosines: Floats, same: NDArray[np.bool_]) -> float:
    """Return the lowest threshold on the cosine that classifies most pairs correctly.

    >>> best_threshold(np.array([0.1, 0.4, 0.6, 0.9]), np.array([False, True, False, True]))
    0.4
    """
    order = np.argsort(cosines, kind="stable")
    values, truth = cosines[order], same[order]
    # Right at threshold values[i]: all pairs of two people below it, all of one person from it on.
    below = np.concatenate([[0], np.cumsum(~truth)[:-1]])
    above = truth[::-1].cumsum()[::-1]
    first = np.concatenate([[True], values[1:] > values[:-1]])
    right = np.where(first, below + above, -1)
    return float(values[int(np.argmax(right))])


@final
class ArcFace(nn.Module):
    """Cross entropy over people, with a margin in the angle between a feature and its person's direction.

        logits = s · cos(θ_k + m · [k = y]),   cos θ_k = <x, w_k> / (‖x‖ ‖w_k‖)

    Deng, Guo, Xue and Zafeiriou, "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", CVPR 2019, arXiv
    1801.07698. Where θ + m exceeds π, cos θ − m·sin m is used instead, as in the authors' code, so that it keeps
    decreasing. Put the head's parameters into the optimizer beside the network's; it is not needed afterwards.

    >>> head = ArcFace(2, 2, scale=1.0, margin=0.0)
    >>> head.weight.data = torch.eye(2)
    >>> round(head(torch.tensor([[3.0, 0.0]]), torch.tensor([0])).item(), 4)  # log(1 + e^-1)
    0.3133
    """

    def __init__(self, features: int, people: int, *, scale: float = 64.0, margin: float = 0.5) -> None:
        super().__init__()
        if not scale > 0 or not 0 <= margin < math.pi:
            raise InputError(f"ArcFace(scale={scale}, margin={margin}): a scale above 0 and a margin in [0, π)")
        self.weight = nn.Parameter(torch.empty(people, features))
        nn.init.xavier_uniform_(self.weight)
        self.scale, self.margin = scale, margin

    def forward(self, x: Tensor, people: Tensor) -> Tensor:
        """Features [n, features] and the numbers of their people [n] -> the mean loss."""
        cosine = F.linear(F.normalize(x), F.normalize(self.weight)).clamp(-1.0, 1.0)
        sine = (1.0 - cosine.square()).clamp_min(1e-12).sqrt()
        shifted = cosine * math.cos(self.margin) - sine * math.sin(self.margin)
        shifted = torch.where(
            cosine > math.cos(math.pi - self.margin), shifted, cosine - self.margin * math.sin(self.margin)
        )
        chosen = F.one_hot(people, len(self.weight)).bool()
        return F.cross_entropy(self.scale * torch.where(chosen, shifted, cosine), people)
