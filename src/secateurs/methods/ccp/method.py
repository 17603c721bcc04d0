"""CCP: choose the channels of a layer together, by a quadratic model of the loss."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from itertools import islice
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from secateurs.allocate import AsIs, Budget, Ranked, Uniform
from secateurs.allocate.levels import Costed
from secateurs.errors import BudgetError, EvidenceError, InputError, check_choice
from secateurs.evidence import GateGradients, Needs, Reads, SitePolicy, Writes, observe
from secateurs.graph import Graph
from secateurs.methods.ccp.auxiliary import with_classifiers
from secateurs.methods.ccp.moments import GateMoments, Moments
from secateurs.methods.ccp.quadratic import Array, Solver, descent, remove
from secateurs.methods.one_shot import meet_budget, named, part_of
from secateurs.running.batches import cross_entropy
from secateurs.session.method import check_preset
from secateurs.types import Keep, Loss, Scope

Gate = Literal["conv", "activation"]
Sizes = Literal["uniform", "by_loss"]
Curvature = Literal["empirical", "sampled", "logits"]


@dataclass(frozen=True)
class CCP:
    """Remove the channels whose joint removal costs least in a second-order model of the loss.

        minimise over a in {0, 1}^C with sum(a) = m:   a'S a - u'a
        u = mean of z_n,     S = Z'Z / 2N,     z_n[i] = w_i · dL_n / dw_i

    a_i = 1 removes channel i, and z is the gradient of sample n's loss for a gate on channel i: one forward and one
    backward with norms in eval mode. S is the outer-product approximation of the Hessian; its off-diagonal entries make
    it expensive to remove two channels that can replace each other. See `remove` for the solver.

    Only the paper's abstract could be read; the derivation is self-contained, constants and solver are from memory.

    gate: position of the gate of a channel. "conv": on the output of the layers that write the channel, z = <w, dL/dw>,
    the paper's formula. "activation" (ours): on the input of the modules that read it, after norm and activation, which
    is exact to first order for removal, as that takes away the norm's shift too. sizes: rule for the number of channels
    that each group keeps. "uniform": the same share of every group, as in the paper (inferred). "by_loss" (ours): those
    whose removal costs the least modelled loss per unit of budget, over the whole network. curvature: gradients that S
    is computed from. "empirical": those of each sample's own loss, as in the paper (the empirical Fisher matrix; it
    vanishes on data that the network has memorised, but for the few samples that are still wrong). "sampled" (ours):
    those of the loss for a class drawn from the prediction (the Fisher matrix; it vanishes where the prediction is
    certain). "logits" (ours): those of a random projection of the logits (the Gauss-Newton matrix of a squared change
    of the outputs); it needs no labels, vanishes nowhere, and u is zero. solver: "relax" rounds the relaxed problem, as
    the paper does (from memory); "polish" then swaps single channels. damping: value added to the diagonal of S,
    relative to its mean: without it, removals have no cost in some directions if there are fewer samples than channels.
    keep: the share of every group that stays, instead of a budget. auxiliary: classifiers on intermediate features
    whose losses are added (CCP-AC, from memory). Coupled groups (ours) share the gate, so z adds over their layers;
    scope="uncoupled" leaves them whole, as the paper does.

    scope: "coupled", or "uncoupled" for groups with one producer only. batches: batches of data that are read; None
    for all.

    Raises InputError for values out of range.

    >>> net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2, bias=False))
    >>> net[0].weight.data, net[2].weight.data = torch.eye(2), torch.tensor([[0.1, 1.0], [-0.1, -1.0]])
    >>> from secateurs.graph import trace
    >>> data = [(torch.ones(4, 2), torch.tensor([0, 1, 0, 1]))]
    >>> CCP(keep=0.5).select(trace(net, data[0][0]), net, None, data=data)["0"].tolist()
    [1]
    """

    gate: Gate = "conv"
    _: KW_ONLY
    solver: Solver = "polish"
    sizes: Sizes = "uniform"
    curvature: Curvature = "empirical"
    damping: float = 1e-3
    keep: float | None = None
    auxiliary: int = 0
    scope: Scope = "coupled"
    batches: int | None = None
    reference: ClassVar[str] = (
        "Peng, Wu, Chen and Huang. Collaborative Channel Pruning for Deep Networks. ICML 2019, PMLR 97:5113-5122"
    )

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        check_choice(self, gate=Gate, solver=Solver, sizes=Sizes, curvature=Curvature, scope=Scope)
        if not self.damping >= 0 or self.auxiliary < 0:
            message = f"{self} counts or damps by a negative number. Give damping and auxiliary of at least 0."
            raise InputError(message)
        if self.keep is not None and not 0 < self.keep <= 1:
            message = f"CCP(keep={self.keep}) is no share of channels to keep. Give a number in (0, 1]."
            raise InputError(message)
        if self.auxiliary and self.curvature == "logits":
            message = (
                f"CCP(auxiliary={self.auxiliary}, curvature={self.curvature}) adds losses of classifiers, and that "
                "curvature uses no loss. Choose one of the two."
            )
            raise InputError(message)

    @classmethod
    def preset(cls, name: str = "published") -> Self:
        """Return what is known or inferred of the paper: the relaxed solver alone, without damping. No code exists."""
        check_preset(cls, name, ("published",))
        return cls(solver="relax", damping=0.0, scope="uncoupled")

    def __repr__(self) -> str:
        """Name the settings that differ from the defaults."""
        return named(self)

    @property
    def needs(self) -> Needs:
        """Gate gradients at the position of the gate."""
        return {"moments": GateGradients(GateMoments, at=self._sites)}

    @property
    def _sites(self) -> SitePolicy:
        return Writes() if self.gate == "conv" else Reads()

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
        """Choose by one pass over `data` (labelled), or two with auxiliary classifiers.

        Raises BudgetError unless exactly one of a budget and `keep` is given.
        """
        if (budget is None) == (self.keep is None):
            message = (
                f"{self!r} has {'no budget and no keep' if budget is None else 'both a budget and keep'}. CCP is told "
                "how many channels stay. Pass a budget, or CCP(keep=...), the share of every group."
            )
            raise BudgetError(message)
        part = part_of(graph, budget, self.scope, at=self._sites)
        with self._loss(graph, model, data, loss, seed) as (batches, used):
            evidence = observe(graph, model, self, data=batches, loss=used, batches=self.batches, groups=part.names)
        problems = {name: self._problem(moments) for name, moments in evidence["moments"].items()}
        if budget is None:
            widths = {g.name: max(1, round((self.keep or 1.0) * g.units)) for g in part.groups}
        else:
            kept = meet_budget(part, budget, lambda costed, left: self._sized(problems, costed, left), self)
            widths = {name: len(units) for name, units in kept.items()}
        return {
            name: np.flatnonzero(~remove(s, u, len(u) - widths[name], solver=self.solver))
            for name, (s, u) in problems.items()
        }

    def _problem(self, moments: Moments) -> tuple[Array, Array]:
        """S with damping, and u."""
        s, u = moments.s.cpu().numpy().copy(), moments.u.cpu().numpy()
        if self.curvature == "logits":
            u = np.zeros_like(u)
        s[np.diag_indices_from(s)] += self.damping * np.diagonal(s).mean()
        return s, u

    def _sized(self, problems: Mapping[str, tuple[Array, Array]], part: Costed, budget: Budget) -> Keep:
        """Return the first units of each group, as many as stay; the solver then chooses which."""
        if self.sizes == "uniform":
            even = {name: torch.zeros(len(u), dtype=torch.float64) for name, (_, u) in problems.items()}
            return Uniform()(even, part, budget)
        # Negative costs are set to 0: divided by the saving, they would favour small savings.
        losses = {name: torch.from_numpy(descent(s, u).clip(0)) for name, (s, u) in problems.items()}
        return Ranked(AsIs(), per_cost=True)(losses, part, budget)

    @contextmanager
    def _loss(
        self, graph: Graph, model: nn.Module, data: Iterable[Any] | None, loss: Loss | None, seed: int
    ) -> Generator[tuple[Iterable[Any] | None, Loss | None]]:
        """Prepare the loss: with auxiliary classifiers, and with the curvature asked for."""
        if not self.auxiliary or data is None:
            yield data, self._curved(loss, seed)
            return
        held = list(islice(data, self.batches))
        with with_classifiers(graph, model, held, count=self.auxiliary, loss=loss) as total:
            yield held, self._curved(total, seed)

    def _curved(self, loss: Loss | None, seed: int) -> Loss | None:
        """Return the loss whose per-sample gradients make S; random numbers depend on `seed` and the order of data."""
        if self.curvature == "empirical":
            return loss
        generator = torch.Generator().manual_seed(seed)

        def drawn(outputs: Any, targets: Any) -> Any:
            logits = _logits(outputs, self.curvature)
            if self.curvature == "sampled":
                chances = logits.detach().double().softmax(-1).cpu()
                classes = torch.multinomial(chances, 1, generator=generator)[:, 0]
                return (loss or cross_entropy)(outputs, classes.to(logits.device))
            # E[v v'] = 1: the mean outer product of the gradients of v'f is the sum over outputs of that of f.
            v = torch.randn(logits.shape, generator=generator).to(logits)
            return (v * logits).flatten(1).sum(1)

        return drawn


def _logits(outputs: Any, curvature: Curvature) -> Tensor:
    """Return the model's predictions, [samples, outputs]."""
    logits = outputs if isinstance(outputs, Tensor) else getattr(outputs, "logits", None)
    if not isinstance(logits, Tensor) or logits.dim() < 2 or (curvature == "sampled" and logits.dim() != 2):
        message = (
            f"curvature={curvature} draws from logits [samples, classes], and the model returned "
            f"{type(outputs).__name__}. Use curvature='empirical', with a loss of your own."
        )
        raise EvidenceError(message)
    return logits
