"""FOAD: keep the channels whose feature maps represent those of the others."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
from torch import nn

from secateurs.allocate import Budget
from secateurs.errors import InputError, check_choice
from secateurs.evidence import Activations, Needs, Reads, SitePolicy, observe
from secateurs.graph import Graph
from secateurs.methods.foad.absorb import Array, absorption_levels
from secateurs.methods.foad.similarity import FeatureSimilarity, Similarity
from secateurs.methods.foad.unpooled import Unpooled
from secateurs.methods.one_shot import named, part_of, ranked
from secateurs.session.method import check_preset
from secateurs.types import Keep, Loss, Scope

Order = Literal["stored", "energy"]
Maps = Literal["read", "unpooled"]


@dataclass(frozen=True)
class FOAD:
    """Remove the channels whose feature maps are nearest to that of a kept channel.

        S(i, j) = mean over images b of  1 / (1 + || F[b, i] - F[b, j] ||_2)

    F: inputs of the modules that read the units, after norm, activation and pooling, as in the paper. In index order,
    every remaining channel is kept, and those of its `neighbors` nearest that are not kept and reach `threshold` are
    removed (absorbed); see `absorb`, also for `duplicates` (a tolerance; None is the published code).

    maps: "read": F as above everywhere. "unpooled": where a linear layer reads the units, the map after norm and
    activation and before pooling, as in the published code.
    order: order of visits; earlier channels are kept. "stored": in index order, as in the published code; the first is
    never removed. "energy" (ours): by decreasing mean |F|^2, so that of two similar channels the stronger is kept.

    Without a budget, one pass of absorption decides the widths, as in the paper. With a budget (ours), absorption is
    repeated on the kept units until one is left, which orders the units by round and similarity; units of all groups
    are removed in this order until the budget is met. Smaller budgets keep subsets, and nothing is random. Coupled
    groups (ours): S is the mean over all modules that read the units; scope="uncoupled" leaves units made by several
    operators whole, as the paper does.

    Pass training images, never test images: the published script reads its 128 images from the test set. batches: the
    most batches to read. neighbors: channels that a kept one may absorb. threshold: least similarity for that.
    duplicates: 1 − the similarity from which two channels are equal; None disables this. scope: "coupled", or
    "uncoupled" for units that one operator writes. min_keep: floor for the unbudgeted form; a budget brings its own.

    Raises InputError for values out of range.

    >>> import torch
    >>> from secateurs.graph import trace
    >>> net = nn.Sequential(nn.Conv2d(1, 4, 1, bias=False), nn.Conv2d(4, 1, 1))
    >>> net[0].weight.data[:, 0, 0, 0] = torch.tensor([1.0, 5.0, 1.0, 5.1])
    >>> images = torch.ones(2, 1, 2, 2)
    >>> keep = FOAD().select(trace(net, images), net, None, data=[images], loss=None, seed=0)
    >>> keep["0"].tolist()  # 0 absorbs its twin 2, and 1 absorbs 3
    [0, 1]
    """

    neighbors: int = 1
    _: KW_ONLY
    threshold: float = 0.0
    duplicates: float | None = 1e-6
    order: Order = "stored"
    scope: Scope = "coupled"
    min_keep: int = 1
    batches: int | None = None
    maps: Maps = "read"
    reference: ClassVar[str] = "Shi et al. FOAD. Journal of Computer Research and Development 61(7):1836-1849, 2024"

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        check_choice(self, order=Order, scope=Scope, maps=Maps)
        if self.neighbors < 1 or self.min_keep < 1:
            message = f"{self} examines or keeps no unit. Both are counted. Give neighbors and min_keep of at least 1."
            raise InputError(message)
        if not 0 <= self.threshold <= 1 or not (self.duplicates is None or 0 <= self.duplicates < 1):
            message = (
                f"{self} is off the scale of similarities, which is (0, 1]. Give a threshold and a tolerance in it."
            )
            raise InputError(message)

    @classmethod
    def preset(cls, name: str = "published") -> Self:
        """Return the authors' code's settings: no duplicate rule, the last maps before their pooling."""
        check_preset(cls, name, ("published",))
        return cls(duplicates=None, maps="unpooled", scope="uncoupled")

    def __repr__(self) -> str:
        """Name the settings that differ from the defaults."""
        return named(self)

    @property
    def needs(self) -> Needs:
        """The inputs of the modules that read each group."""
        return {"maps": Activations(FeatureSimilarity, at=self._sites)}

    @property
    def _sites(self) -> SitePolicy:
        return Unpooled() if self.maps == "unpooled" else Reads()

    def select(
        self,
        graph: Graph,
        model: nn.Module,
        budget: Budget | None,
        *,
        data: Iterable[Any] | None = None,
        loss: Loss | None = None,
        seed: int = 0,
    ) -> Keep:
        """Choose by one pass over `data`; labels and loss are not used."""
        part = part_of(graph, budget, self.scope, at=self._sites)
        evidence = observe(graph, model, self, data=data, loss=loss, batches=self.batches, groups=part.names)
        levels = {name: self._levels(found) for name, found in evidence["maps"].items()}
        if budget is None:
            return {name: _left(values, self.min_keep) for name, values in levels.items()}
        return ranked(part, budget, levels, self)

    def _levels(self, found: Similarity) -> Array:
        s, energy = found.s.cpu().numpy(), found.energy.cpu().numpy()
        first = np.argsort(-energy, kind="stable") if self.order == "energy" else np.arange(len(energy))
        levels = np.empty(len(energy))
        levels[first] = absorption_levels(
            s[np.ix_(first, first)], neighbors=self.neighbors, threshold=self.threshold, duplicates=self.duplicates
        )
        return levels


def _left(levels: Array, min_keep: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the units that one pass of absorption leaves, and the last absorbed ones up to the floor; ascending."""
    count = max(int((levels > 1).sum()), min(min_keep, len(levels)))
    return np.sort(np.argsort(-levels, kind="stable")[:count])
