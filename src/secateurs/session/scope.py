"""What a magnitude-driven method works on: coupled filters, im2col columns or single weights, with their removals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from secateurs.session.run import Run
from secateurs.session.schedule import count, count_up
from secateurs.session.targets import Rates, removals, share_of_entries
from secateurs.session.units import Ledger, Rows

Unit = Literal["filter", "column", "weight"]

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


@dataclass(frozen=True, eq=False)
class Scoped:
    """Units, the rows they are measured by, the rows that a penalty acts on, and how many each group loses."""

    unit: Unit
    measured: Rows
    decayed: Rows
    counts: tuple[int, ...]

    @property
    def ledger(self) -> Ledger:
        """Where each group's units lie in a flat vector."""
        return self.measured.ledger

    def relocate(self) -> None:
        """Follow the model to another device."""
        self.measured.relocate()
        self.decayed.relocate()

    def remove(self, run: Run, picked: Mapping[str, NDArray[np.int64]], note: str) -> None:
        """Remove units: whole filters from the network, columns and weights by masks that hold them at zero."""
        if self.unit == "filter":
            run.remove(picked, note)
            return
        masks = {}
        for place in self.measured.places:
            mask = torch.ones(place.size, dtype=torch.bool)
            mask[torch.from_numpy(np.asarray(picked.get(place.tensor, ()), dtype=np.int64))] = False
            masks[place.tensor] = mask.view(place.shape).to(self.measured.device)
        run.hold(masks)
        zeros = sum(len(units) for units in picked.values())
        run.note("zeroed", f"{zeros} {self.unit}s in {len(masks)} tensors ({note}); zeros alone do not run faster")


def scoped(run: Run, unit: Unit, scope: str, rates: Rates | None, *, up: bool, norms: bool = False) -> Scoped:
    """Find the units and the numbers to remove; `up` rounds a group's share up (GReg, IncReg), else down (SFP)."""
    rounding = count_up if up else count
    if unit == "filter":
        groups = run.groups(scope=scope)
        measured = run.rows(groups)
        counts = removals(run, groups, rates, rounding=rounding)
        return Scoped(unit, measured, run.rows(groups, norms=True) if norms else measured, counts)
    names = layers(run)
    rows = Rows.inside(names, run.parameters, columns=unit == "column")
    shares = share_of_entries(run, rows, rates)
    rounding = rounding if rates is not None else count_up  # a budget holds to the last weight
    return Scoped(unit, rows, rows, tuple(rounding(n, s) for n, s in zip(rows.ledger.sizes, shares, strict=True)))


def layers(run: Run) -> tuple[str, ...]:
    """Weights of convolutions and linear layers that the budget does not exclude, each once."""
    seen: dict[int, str] = {}
    for path, module in run.model.named_modules():
        weight = getattr(module, "weight", None)
        out = any(path == name or path.startswith(f"{name}.") for name in run.budget.exclude)
        if isinstance(module, _LAYERS) and isinstance(weight, nn.Parameter) and not out:
            seen.setdefault(id(weight), f"{path}.weight" if path else "weight")
    return tuple(seen.values())


def silent_units(run: Run) -> dict[str, NDArray[np.int64]]:
    """Units that every consumer reads with zero weights, so that nothing depends on them; one of each group stays."""
    tensors, found = run.parameters, dict[str, NDArray[np.int64]]()
    for group in run.groups():
        read = [piece for piece in group.slices if piece.role == "in" and piece.tensor in tensors]
        quiet = run.alive[group.name].copy() if read else np.zeros(group.units, dtype=bool)
        for piece in read:
            weight = tensors[piece.tensor].detach()
            used = weight.transpose(0, piece.dim).flatten(1).ne(0).any(dim=1).cpu().numpy()
            quiet &= ~used[piece.index].any(axis=1)
        if quiet.sum() == run.alive[group.name].sum():
            quiet[np.flatnonzero(quiet)[:1]] = False
        found[group.name] = np.flatnonzero(quiet)
    return found
