"""EPruner: keep the filters that affinity propagation selects as exemplars of the others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from secateurs.allocate import Budget, Uniform
from secateurs.allocate.steps import Limits
from secateurs.criteria.distances import squared_distances
from secateurs.criteria.reductions import of_roles, rows
from secateurs.errors import InputError, RecipeError, check_choice, near
from secateurs.evidence import Needs, Weights, observe
from secateurs.graph import Graph, Group
from secateurs.methods.epruner.affinity import CAREFUL, Clustering, Messages, affinity_propagation, column_median
from secateurs.methods.epruner.restart import project_consumers, reset_norms, restart
from secateurs.methods.one_shot import Part, named, part_of, ranked
from secateurs.surgery.plan import Plan
from secateurs.types import Keep, Loss, Scope

Patterns = tuple[tuple[str, float], ...]


Preference = Literal["column", "overall"]
Initialisation = Literal["exemplars", "random_project", "random"]

_LATE = {
    "resnet18": (("layer4.*.conv1", 0.86),),
    "resnet34": (("layer4.[12].conv1", 0.92),),
    "resnet50": (("layer4.*.conv2", 0.85),),
    "resnet101": (("layer3.2[12].conv2", 0.92), ("layer4.*.conv2", 0.92)),
    "resnet152": (("layer3.3[45].conv2", 0.92), ("layer4.*.conv2", 0.92)),
    "vgg16_bn": tuple((f"features.{layer}", 0.92) for layer in (27, 30, 34, 37, 40)),
}
_BETA = {
    "vgg16_bn": 0.73,
    "googlenet": 0.65,
    "resnet56": 0.76,
    "resnet110": 0.60,
    "resnet18": 0.73,
    "resnet34": 0.75,
    "resnet50": 0.73,
    "resnet101": 0.67,
    "resnet152": 0.63,
}


@dataclass(frozen=True)
class EPruner:
    """Cluster the filters of a layer by affinity propagation, and keep the exemplars; the weights decide how many.

        s(i, j) = - || A_i - A_j ||^2,        p_k = beta × median over i of s(i, k)

    A_i is filter i, flattened; the median includes s(k, k) = 0 (published code). Similarities are negative, so a larger
    beta keeps fewer. No data is needed. The width depends steeply on beta, and differently for every checkpoint, and a
    layer may collapse to a single filter: `min_keep` is the floor, filled by the largest r(k, k) + a(k, k).

    beta: larger keeps fewer; it is used for every group but those that match a pattern of `betas` (the last match
    counts); `EPruner.preset(name)` gives the paper's. Layers whose messages do not converge are run again
    with damping 0.9 and up to 1000 iterations, and then keep their last exemplars; `guard=False` is scikit-learn's
    behaviour, and that of the published code.

    With a budget (ours), one factor on all betas is bisected until the exemplars of one beta meet it and those of the
    next smaller one do not; between the two, units go by r(k, k) + a(k, k), to within one unit. Widths then are as
    uneven as the exemplars'; `uniform` keeps the same share of every group, in the same order. Coupled groups (ours):
    the filters of all layers that write the units are concatenated, so their squared distances add; scope="uncoupled"
    leaves such groups whole, as the paper does.

    preference: definition of a filter's preference. "column": beta × the median of its own similarities, the
    zero to itself included, one a filter (published code). "overall" (ours): beta × the median of all similarities of
    the layer, those to oneself left out; layers collapse less.

    initialisation: initial weights of the pruned network; the paper compares three at equal widths. "exemplars", the
    method: the weights of the exemplars, and the matching inputs of their consumers. "random_project": the consumers'
    by a sparse random projection of the dense ones. "random": fresh weights. BatchNorm keeps the exemplars' entries;
    the published code resets it (`reset_bn`), which gives chance accuracy before fine-tuning. Both act in `finish`, on
    the pruned network.

    betas: (pattern, beta) of the groups whose beta is another. guard: run layers that do not converge again. min_keep:
    fewest filters of a layer. uniform: the same share of every group, with a budget. scope: "coupled", or "uncoupled"
    for groups with one producer only. reset_bn: fresh BatchNorm.

    Raises InputError for values out of range.

    >>> from secateurs.graph import trace
    >>> net = nn.Sequential(nn.Conv2d(1, 6, 1, bias=False), nn.Conv2d(6, 1, 1))
    >>> net[0].weight.data[:, 0, 0, 0] = torch.tensor([0.0, 1.0, 2.0, 10.0, 11.0, 12.0])
    >>> EPruner(beta=0.3).select(trace(net, torch.zeros(1, 1, 4, 4)), net, None)["0"].tolist()
    [1, 4]
    """

    beta: float = 0.75
    _: KW_ONLY
    betas: Patterns = ()
    preference: Preference = "column"
    guard: bool = True
    min_keep: int = 1
    uniform: bool = False
    scope: Scope = "coupled"
    reset_bn: bool = False
    initialisation: Initialisation = "exemplars"
    reference: ClassVar[str] = (
        "Lin, Ji, Li, Wang, Wu, Huang and Ye. Network Pruning Using Adaptive Exemplar Filters. "
        "IEEE TNNLS 33(12):7357-7366, 2022. arXiv 2101.07985"
    )

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        check_choice(self, preference=Preference, initialisation=Initialisation, scope=Scope)
        for beta in (self.beta, *(value for _, value in self.betas)):
            if not beta > 0:
                message = (
                    f"EPruner(beta={beta}) prefers every filter to itself. Larger keeps fewer. Give a beta above 0."
                )
                raise InputError(message)
        if self.min_keep < 1:
            message = f"EPruner(min_keep={self.min_keep}) may leave a layer empty. Give at least 1."
            raise InputError(message)

    @staticmethod
    def preset(network: str) -> EPruner:
        """Return the paper's betas for a network, by this library's and torchvision's module names.

        "published" is the authors' code for any network: their default beta, norms reset, layers that do not converge
        as scikit-learn returns them. For "vgg16_bn" and the others, add these with `dataclasses.replace`.
        The rule for the last blocks is the published code's, which cannot generate every row of the paper's table.
        Raises RecipeError for an unknown network.

        >>> EPruner.preset("resnet18")
        EPruner(beta=0.73, betas=(('layer4.*.conv1', 0.86),), scope=uncoupled)
        """
        if network == "published":
            return EPruner(guard=False, reset_bn=True, scope="uncoupled")
        if network not in _BETA:
            message = f"no preset of EPruner is called {network!r}: {near(network, (*_BETA, 'published'))}"
            raise RecipeError(message)
        return EPruner(_BETA[network], betas=_LATE.get(network, ()), scope="uncoupled")

    def __repr__(self) -> str:
        """Name beta, and the settings that differ from the defaults."""
        return named(self, "beta")

    @property
    def needs(self) -> Needs:
        """The weights alone."""
        return {"weights": Weights}

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
        """Choose from the weights alone; `seed` is for noise at rounding level, which breaks ties."""
        part = part_of(graph, budget, self.scope)
        layers = self._layers(part, observe(graph, model, self)["weights"])
        if budget is None:
            found = self._cluster(layers, 1.0, seed)
            return {name: _exemplars(one, self.min_keep) for name, one in found.items()}
        scores = self._scores(part, budget, layers, seed)
        return ranked(part, budget, scores, self, allocator=Uniform() if self.uniform else None)

    def finish(self, pruned: nn.Module, dense: nn.Module, plan: Plan, *, seed: int = 0) -> None:
        """Set the pruned network's initial weights as in the paper, in place."""
        if self.initialisation == "random":
            restart(pruned, seed)
        elif self.initialisation == "random_project":
            project_consumers(pruned, dense, plan, seed)
        if self.reset_bn:
            reset_norms(pruned, plan)

    def _layers(self, part: Part, weights: Weights) -> list[_Layers]:
        """Similarities and preferences of all groups, those of equal width together."""
        by_width: dict[int, list[int]] = defaultdict(list)
        for at, group in enumerate(part.groups):
            by_width[group.units].append(at)
        found: list[_Layers] = []
        for width, places in by_width.items():
            groups = [part.groups[at] for at in places]
            s: Tensor | None = None
            for at, group in enumerate(groups):
                d = squared_distances(_filters(group, weights, repr(self)))
                s = d.new_empty(len(groups), width, width) if s is None else s
                torch.neg(d, out=s[at])
            if s is not None:
                beta = s.new_tensor([self.beta_of(group.name) for group in groups])
                found.append(_Layers(tuple(group.name for group in groups), s, beta[:, None] * self._median(s)))
        return found

    def _median(self, s: Tensor) -> Tensor:
        if self.preference == "column" or s.shape[-1] == 1:
            return column_median(s)
        off = s[:, ~torch.eye(s.shape[-1], dtype=torch.bool, device=s.device)]
        return off.quantile(0.5, dim=-1, keepdim=True).expand(s.shape[:2])

    def beta_of(self, group: str) -> float:
        """Return the beta of a group: that of the last pattern it matches."""
        return next((value for pattern, value in reversed(self.betas) if fnmatchcase(group, pattern)), self.beta)

    def _cluster(self, layers: list[_Layers], factor: float, seed: int) -> dict[str, Clustering]:
        retry = CAREFUL if self.guard else None
        found: dict[str, Clustering] = {}
        for one in layers:
            clusters = affinity_propagation(one.s, factor * one.p, messages=Messages(), retry=retry, seed=seed)
            found |= dict(zip(one.names, clusters, strict=True))
        return found

    def _scores(self, part: Part, budget: Budget, layers: list[_Layers], seed: int) -> dict[str, NDArray[np.float64]]:
        """Score all units: exemplars of the least beta that meets the budget, of the next below it, then the rest.

        Inside each class, units are ordered by the rank of r(k, k) + a(k, k).
        """
        limits, floors = Limits.of(part, replace(budget, exclude=())), budget.floors(part)

        def fits(found: Mapping[str, Clustering]) -> bool:
            widths = [max(len(found[g.name].exemplars), n) for g, n in zip(part.groups, floors, strict=True)]
            return not limits.exceeded(np.array(widths, np.int64)).any()

        low, high, larger, smaller = 0.0, 1.0, None, self._cluster(layers, 1.0, seed)
        while not fits(smaller) and high < _STEEPEST:
            low, high, larger = high, 2 * high, smaller
            smaller = self._cluster(layers, high, seed)
        while high - low > _NEAR_ENOUGH * high:
            middle = (low + high) / 2
            tried = self._cluster(layers, middle, seed)
            if fits(tried):
                high, smaller = middle, tried
            else:
                low, larger = middle, tried
        return {g.name: _classes(smaller[g.name], larger[g.name] if larger else None) for g in part.groups}


@dataclass(frozen=True, eq=False)
class _Layers:
    """Groups of equal width: similarities [L, C, C] and preferences at the betas given [L, C]."""

    names: tuple[str, ...]
    s: Tensor
    p: Tensor


def _filters(group: Group, weights: Weights, why: str) -> Tensor:
    """Flatten the filters of all layers that write the units, side by side: [units, features]."""
    slices = of_roles(group, ("out",), among=weights.parameters, why=why)
    found = [rows(weights.tensors[s.tensor], s) for s in slices]
    return found[0] if len(found) == 1 else torch.cat(found, dim=1)


_STEEPEST = 64.0
"""Factor on the betas beyond which widths hardly change: nearly every layer has one exemplar."""

_NEAR_ENOUGH = 1e-3
"""Relative width of the bisection's last interval; inside it, single units are removed."""


def _exemplars(found: Clustering, min_keep: int) -> NDArray[np.int64]:
    """Return the exemplars, topped up to the floor by evidence; ascending."""
    if len(found.exemplars) >= min(min_keep, len(found.evidence)):
        return np.sort(found.exemplars.cpu().numpy())
    order = np.argsort(-_classes(found, None), kind="stable")
    return np.sort(order[: min(min_keep, len(order))])


def _classes(smaller: Clustering, larger: Clustering | None) -> NDArray[np.float64]:
    """Score units by class (0 neither, 1 exemplar of the larger set, 2 of the smaller) and rank of evidence in [0, 1).

    Ranks make layers comparable: a class shrinks by the same share in every layer.
    """
    evidence = smaller.evidence.cpu().numpy()
    class_of = np.zeros(len(evidence), dtype=np.int64)
    if larger is not None:
        class_of[larger.exemplars.cpu().numpy()] = 1
    class_of[smaller.exemplars.cpu().numpy()] = 2
    scores = class_of.astype(np.float64)
    for one in range(3):
        members = np.flatnonzero(class_of == one)
        order = members[np.argsort(evidence[members], kind="stable")]
        scores[order] += np.arange(len(order)) / max(len(order), 1)
    return scores
