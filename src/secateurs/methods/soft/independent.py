"""The authors' masks: filters of every convolution are selected separately, also where outputs are added."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from secateurs.errors import BudgetError
from secateurs.session.flat_units import Rows
from secateurs.session.run import Run
from secateurs.session.schedule import count
from secateurs.session.scope import Rates, Units, layers, named_rates
from secateurs.types import Ints


def find_filters(run: Run, rates: Rates | None) -> Units:
    """Return the filters of every convolution that the budget does not exclude, and the number to remove.

    Raises BudgetError without explicit rates, or with a budget of a size: zero filters of convolutions that end in
    one sum leave the sum's channels where they are.
    """
    if rates is None or run.budget is not None:
        raise BudgetError(
            "scope='independent' zeroes filters of every convolution by itself. Those whose outputs are added to "
            "others stay as zeros, so that no budget says what remains. Give remove=, the share of each convolution's "
            "filters, and no budget; or scope='coupled' for a network of a stated size."
        )
    convolutions = [name for name in layers(run) if run.parameters[name].dim() > 2]
    rows = Rows.layers(convolutions, run.parameters)
    shares = named_rates([name.removesuffix(".weight") for name in convolutions], rates)
    counts = tuple(count(n, share) for n, share in zip(rows.ledger.sizes, shares, strict=True))
    return Units("filter", rows, rows, counts)


def leave_zeros(run: Run, units: Units, selected: Tensor) -> None:
    """Keep the selected filters at zero, and remove the units that no operator writes any more."""
    picked = units.picked(selected)
    masks: dict[str, Tensor] = {}
    for place in units.rows.places:
        mask = torch.ones(place.size, dtype=torch.bool)
        mask[torch.from_numpy(picked[place.tensor])] = False
        masks[place.tensor] = mask.view(place.shape).to(units.rows.device)
    run.hold(masks)
    gone = _unwritten(run, picked)
    zeros = sum(map(len, picked.values()))
    run.note("zeroed", f"{zeros} filters in {len(picked)} convolutions; {sum(map(len, gone.values()))} units go")
    run.remove(gone, "all filters that write them are zero")


def _unwritten(run: Run, picked: Mapping[str, Ints]) -> dict[str, Ints]:
    """Return the units all of whose producing filters are picked; one of each group stays."""
    found: dict[str, Ints] = {}
    for group in run.groups():
        silent = np.ones(group.units, dtype=bool)
        for piece in group.slices:
            if piece.role == "out":
                zero = piece.tensor in picked and piece.dim == 0
                silent &= np.isin(piece.index, picked[piece.tensor]).all(axis=1) if zero else False
        if silent.all():
            silent[0] = False
        found[group.name] = np.flatnonzero(silent)
    return found
