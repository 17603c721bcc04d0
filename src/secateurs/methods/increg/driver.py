"""The driver of IncReg: penalty factors that move with running mean ranks, and removal at a ceiling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from secateurs.session.flat_units import l1
from secateurs.session.method import Driver, State
from secateurs.session.penalty import Decay
from secateurs.session.per_group import group_sums, lowest, ranks, spread
from secateurs.session.run import Run
from secateurs.session.scope import Scoped, scoped, silent_units, too_short

if TYPE_CHECKING:
    from secateurs.methods.increg.method import IncReg


class IncRegDriver(Driver):
    """All state is flat vectors on the device; what was removed is read back at every fiftieth step at most."""

    def __init__(self, run: Run, options: IncReg) -> None:
        if options.limit > run.clock.total:
            raise too_short(
                "IncReg", options.limit, run.clock.total, "what its factors leave is decided by rank only then"
            )
        self._run, self._how = run, options
        self._every = max(1, min(50, options.limit // 100))
        self._done = False
        self._updates = 0
        self._bind(scoped(run, options.unit, options.scope, options.remove, up=True))
        units, device = self._sets.ledger.total, run.device
        self._factor = torch.zeros(units, device=device)
        self._rank = torch.zeros(units, device=device)
        self._dead = torch.zeros(units, dtype=torch.bool, device=device)

    def _bind(self, sets: Scoped) -> None:
        self._sets = sets
        self._decay = Decay(sets.decayed)
        self._target = torch.tensor(sets.counts, dtype=torch.float32, device=self._run.device)
        self._mask = torch.ones(sets.measured.total, device=self._run.device)
        self._views = sets.measured.factors(self._mask)

    @property
    @override
    def phase(self) -> str:
        return "done" if self._done else "punishing"

    @property
    @override
    def ready(self) -> bool:
        return self._done

    @override
    def attached(self) -> None:
        if not self._done:
            device = self._run.device
            self._sets.relocate()
            self._bind(self._sets)
            self._factor, self._rank, self._dead = (t.to(device) for t in (self._factor, self._rank, self._dead))
            self._mask.copy_(self._sets.measured.expand((~self._dead).float(), fill=1.0))

    @override
    def gradients_ready(self) -> None:
        if not self._done:
            self._update()
            self._decay.add(self._run.optimizers, decoupled=self._how.decoupled)

    @override
    def stepped(self) -> None:
        if self._done:
            return
        if self._updates >= self._how.ceiling / self._how.step:
            self._zero()
        if self._updates % self._every == 0:
            self._read("their penalty factor reached the ceiling")
        if not self._done and self._updates >= self._how.limit:
            self._cut("still below the ceiling at the limit; the lowest mean ranks")

    @override
    def conclude(self, *, early: bool) -> None:
        if early and not self._done:
            self._read("their penalty factor reached the ceiling")
            self._cut("finished early; the lowest mean ranks")

    @override
    def missing(self) -> str | None:
        if self._done:
            return None
        left = int((self._target.sum() - self._dead.sum()).item())
        return f"{left} {self._how.unit}s have to go still; the limit is in {self._how.limit - self._updates} steps"

    @override
    def compacted(self, keep: Mapping[str, NDArray[Any]]) -> None:
        """Units leave only when all that have to go are gone."""

    @override
    def state(self) -> State:
        return {
            "done": self._done,
            "updates": self._updates,
            "factor": self._factor,
            "rank": self._rank,
            "dead": self._dead,
        }

    @override
    def restore(self, state: State) -> None:
        self._done, self._updates = state["done"], state["updates"]
        if not self._done:
            device = self._run.device
            self._factor, self._rank = state["factor"].to(device), state["rank"].to(device)
            self._dead = state["dead"].to(device)
            self._mask.copy_(self._sets.measured.expand((~self._dead).float(), fill=1.0))

    @override
    def close(self) -> None:
        pass

    # --- one update: 1 score, 2 rank, 3 running mean, 4 rank again, 5 increment, 6 factor ---

    @torch.no_grad()
    def _update(self) -> None:
        ledger, dead = self._sets.ledger, self._dead
        self._updates += 1
        score = self._sets.measured.measure(l1, mean=True)
        rank = ranks(torch.where(dead, -torch.inf, score), ledger).float()
        self._rank += (rank - self._rank) / self._updates  # h ← ((n − 1)·h + r) / n
        alive = ranks(torch.where(dead, torch.inf, self._rank), ledger).float()
        remaining = spread(self._target - group_sums(dead.float(), ledger), ledger)
        self._factor = (self._factor + self._how.step * self._how.punish(alive, remaining)).clamp_(min=0.0)
        # A group with nothing left to lose is not penalised any more, and the dead need no penalty.
        self._factor *= (remaining > 0) & ~dead
        self._decay.set(self._factor)
        self._dead = dead | (self._factor >= self._how.ceiling)

    @torch.no_grad()
    def _zero(self) -> None:
        self._mask.copy_(self._sets.measured.expand((~self._dead).float(), fill=1.0))
        tensors = self._sets.measured.tensors
        torch._foreach_mul_(tensors, [v.to(t) for v, t in zip(self._views, tensors, strict=True)])  # pyright: ignore[reportPrivateImportUsage]

    def _read(self, why: str) -> None:
        """Tell the run what has died since the last reading: the one place that waits for the device."""
        parts = self._sets.ledger.split(self._dead.cpu())
        picked = {name: np.flatnonzero(part.numpy()) for name, part in parts.items()}
        if self._how.unit == "filter":
            picked = {name: units[self._run.alive[name][units]] for name, units in picked.items()}
        if sum(map(len, picked.values())):
            self._sets.remove(self._run, picked, why)
        counts = [len(np.flatnonzero(part.numpy())) for part in parts.values()]
        if counts == list(self._sets.counts):
            self._finish()

    def _cut(self, why: str) -> None:
        if self._done:
            return
        counts = self._target.long()
        chosen: Tensor = lowest(torch.where(self._dead, -torch.inf, self._rank), self._sets.ledger, counts)
        self._dead = self._dead | chosen
        self._zero()
        self._read(why)

    def _finish(self) -> None:
        self._done = True
        if self._how.unit == "column":
            self._run.remove(silent_units(self._run), "every column that reads them is zero")
        self._run.note("phase", "all that has to go is gone; the network recovers")
        if self._run.shrinks:
            self._run.compact()
