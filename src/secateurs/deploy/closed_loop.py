"""A network within a time: chosen by prediction, built, measured, corrected; and never one that is slower."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, final

import numpy as np
from torch import Tensor, nn

from secateurs.allocate import Budget, Ranked, levels
from secateurs.allocate.budget import RESOURCES
from secateurs.allocate.steps import Limits, checked, kept, removal_order
from secateurs.deploy.builder import Builder
from secateurs.deploy.device import Device
from secateurs.deploy.latency import Choice, Function, choose, log_shares, thinned
from secateurs.deploy.predict import Predictor
from secateurs.deploy.runtimes import Program
from secateurs.deploy.segment_table import Table, needed
from secateurs.deploy.segments import find_segments
from secateurs.deploy.stopwatch import Measurement
from secateurs.errors import BudgetError, DeviceError
from secateurs.graph import Graph
from secateurs.surgery import Plan, apply
from secateurs.surgery.tensors import duplicate
from secateurs.types import Floats, Ints, Keep

ROUNDS = 3
"""Networks that are built and measured before the nearest is taken."""

NEAR = 0.03
"""Relative distance from the target at which it is met."""

CALIBRATION = 8
"""Random networks that the prediction is fitted to."""

Select = Callable[[Budget], Mapping[str, Ints]]


@final
@dataclass(frozen=True)
class Timing:
    """What was measured in turns on the device. predicted: seconds, as the choice was made by; gap: of that choice."""

    dense: Measurement
    pruned: Measurement
    predicted: float | None = None
    calibration_error: float | None = None
    gap: float | None = None

    def __str__(self) -> str:
        ratio = self.pruned.median / self.dense.median
        words = f"latency: {1e3 * self.dense.median:.2f} -> {1e3 * self.pruned.median:.2f} ms ({ratio:.1%})"
        if self.predicted is not None:
            words += f", predicted {1e3 * self.predicted:.2f} ms"
        return f"{words}; {self.pruned.conditions}"


@final
class Rig:
    """A dense network on a device, on which pruned versions of it are built and measured in turns with it."""

    def __init__(self, graph: Graph, model: nn.Module, device: Device, *, seconds: float = 2.0) -> None:
        """Make the dense network ready; `seconds`: what measuring one network takes."""
        self.graph, self.device, self.model, self._seconds = graph, device, model, seconds
        args, kwargs = graph.example
        self.example: Any = kwargs or args
        self._builder = Builder(device, model, self.example)
        self._dense = self._builder.program(model)

    def build(self, keep: Mapping[str, Ints]) -> Program:
        """Make a pruned network ready."""
        plan = Plan.from_keep(self.graph, keep)
        return self._builder.program(apply(plan, duplicate(self.model), proof=False))

    def measure(self, programs: Sequence[Program], *, decide: bool = True) -> tuple[Measurement, ...]:
        """Measure the dense network and others in turns.

        Raises DeviceError on a machine that is too busy to decide on; a fit (`decide=False`) bears noise.
        """
        seconds = self._seconds * (1 + len(programs)) / 2
        found = self.device.race([self._dense, *programs], seconds=seconds)
        if decide and not all(one.steady for one in found):
            worst = max(found, key=lambda one: one.error)
            raise DeviceError(
                f"the machine is too busy to measure on: after {4 * seconds:.0f} s one median is known to within "
                f"{worst.error:.0%} only, and nothing is decided on noise. Other work disturbed "
                f"{worst.disturbed:.0%} of the samples. Stop it, or measure later."
            )
        return found


def target_of(latency: float, dense: float) -> float:
    """Seconds that a budget's latency allows: a fraction of the dense network's, or milliseconds above 1."""
    return latency * dense if latency <= 1 else latency / 1e3


def by_time(rig: Rig, scores: Mapping[str, Tensor], budget: Budget) -> tuple[Keep, Timing]:
    """Choose the units to keep within `budget.latency`, and its other constraints, by scores.

    Segments are measured (once: the table is kept where the device says), a sum of them is calibrated on random
    networks, widths are chosen exactly under it, and the real network is measured; at most three times the aim is
    corrected by what was measured. Raises BudgetError if the grid does not reach it, naming what binds.
    """
    graph = rig.graph
    steps = levels(graph, budget.exact)
    allowed = [thinned(counts) for counts in steps]
    ranked = checked(scores, graph, steps)
    predictor, dense = calibrated(rig, allowed)
    target = target_of(budget.latency or 1.0, dense)
    values = [
        log_shares(ranked[group.name], counts) if group.name in ranked else np.zeros(len(counts))
        for group, counts in zip(graph.groups, allowed, strict=True)
    ]
    limits = _resources(graph, budget)
    orders = {name: removal_order(values) for name, values in ranked.items()}
    tried: list[tuple[Choice, Keep, Timing]] = []
    aim = target
    for _ in range(ROUNDS):
        choice = choose(values, allowed, graph.widths, [(predictor.at, aim), *limits])
        if choice is None:
            break
        keep = kept(graph, orders, choice.widths)
        before, after = rig.measure([rig.build(keep)])
        predicted = float(predictor.at(choice.widths))
        tried.append((choice, keep, Timing(before, after, predicted, predictor.error, choice.gap)))
        goal = target_of(budget.latency or 1.0, before.median)
        if abs(after.median / goal - 1) <= NEAR:
            break
        aim *= goal / after.median
    return _best(tried, budget, predictor, allowed)


def _best(
    tried: Sequence[tuple[Choice, Keep, Timing]], budget: Budget, predictor: Predictor, allowed: Sequence[Ints]
) -> tuple[Keep, Timing]:
    """Take the most valuable network that is within the target, or refuse."""

    def over(timing: Timing) -> float:
        return timing.pruned.median / target_of(budget.latency or 1.0, timing.dense.median)

    within = [one for one in tried if over(one[2]) <= 1 + NEAR]
    if within:
        _, keep, timing = max(within, key=lambda one: one[0].value)
        return keep, timing
    lowest = np.array([counts[0] for counts in allowed], np.int64)
    least = (
        f"the smallest widths ({budget.multiple_of or 'any'}) are predicted to take {1e3 * predictor.at(lowest):.2f} ms"
    )
    binding = ", ".join(predictor.slowest(lowest))
    nearest = min((over(one[2]) for one in tried), default=None)
    measured = f"; of {len(tried)} measured networks the fastest took {nearest:.0%} of the target" if nearest else ""
    raise BudgetError(
        f"latency={budget.latency} is not reached: {least}, most of it in {binding}{measured}. "
        "Ask for more time, or loosen the floors and multiples."
    )


def calibrated(rig: Rig, allowed: Sequence[Ints]) -> tuple[Predictor, float]:
    """A prediction fitted to random networks, and the dense network's seconds."""
    graph, device = rig.graph, rig.device
    step = device.grid.finest
    placed = find_segments(graph, rig.model, rig.example)
    table = Table.of(device, device.table)
    if table.measure(device, needed(placed, step)) and device.table is not None:
        table.save(device.table)
    random = np.random.default_rng(0)
    rows: list[Ints] = [graph.widths]
    for share in np.linspace(0.25, 0.95, CALIBRATION):
        wanted = share * random.uniform(0.7, 1.3, len(allowed)) * graph.widths
        rows.append(np.array([c[np.abs(c - w).argmin()] for c, w in zip(allowed, wanted, strict=True)], np.int64))
    programs = [rig.build(_first(graph, row)) for row in rows[1:]]
    found = rig.measure(programs, decide=False)
    predictor = Predictor(placed, table, graph.costs, step)
    return predictor.fitted(rows, [one.median for one in found]), found[0].median


def by_macs(rig: Rig, select: Select, budget: Budget) -> tuple[Keep, Timing]:
    """Meet `budget.latency` with a method that knows only exact costs: by the MACs that turn out to take that time."""
    tried: list[tuple[float, Keep, Timing]] = []
    latency = budget.latency or 1.0
    share = latency if latency <= 1 else min(1.0, 1e-3 * latency / rig.measure([])[0].median)
    for _ in range(2 * ROUNDS):
        keep = dict(select(replace(budget, latency=None, macs=share)))
        before, after = rig.measure([rig.build(keep)])
        over = after.median / target_of(latency, before.median)
        tried.append((over, keep, Timing(before, after)))
        if abs(over - 1) <= NEAR:
            break
        share = min(1.0, max(0.02, share / over))
    within = [one for one in tried if one[0] <= 1 + NEAR]
    if not within:
        raise BudgetError(
            f"latency={budget.latency} is not reached by MACs: of {len(tried)} measured networks the fastest took "
            f"{min(tried, key=lambda one: one[0])[0]:.0%} of the target. Ask for more time, or use a criterion."
        )
    _, keep, timing = max(within, key=lambda one: one[0])
    return keep, timing


def guarded(rig: Rig, keep: Keep, budget: Budget, equal: Callable[[Budget], Keep] | None) -> tuple[Keep, Timing]:
    """Measure what is to be handed over against the dense network, and against aligned widths of as many MACs.

    Where the aligned network is faster, it is handed over instead. Raises BudgetError for a network that is slower than
    the dense one, unless the budget says `allow_slower`.
    """
    candidates = [keep]
    if equal is not None:
        macs = int(rig.graph.costs.at(np.array([len(keep.get(g.name, range(g.units))) for g in rig.graph.groups]))[0])
        candidates.append(equal(replace(budget, latency=None, macs=max(macs, 2), multiple_of=rig.device.grid)))
    dense, *found = rig.measure([rig.build(one) for one in candidates])
    chosen = 0
    if len(found) > 1 and not budget.allow_slower and found[1].median < found[0].median * (1 - 2 * found[0].error):
        chosen = 1
    pruned = found[chosen]
    if pruned.median > dense.median * (1 + 2 * pruned.error) and not budget.allow_slower:
        raise BudgetError(
            f"the pruned network takes {1e3 * pruned.median:.2f} ms and the dense one {1e3 * dense.median:.2f} ms "
            f"({rig.device.name}). A smaller network that is slower is refused. Leave multiple_of out, so that widths "
            "are aligned, ask for less to remain, or insist: Budget(..., allow_slower=True)."
        )
    return candidates[chosen], Timing(dense, pruned)


def ranked_within(graph: Graph, scores: Mapping[str, Tensor]) -> Callable[[Budget], Keep]:
    """The units that `Ranked()` keeps, as a function of the budget."""
    return partial(Ranked(), scores, graph)


def _resources(graph: Graph, budget: Budget) -> list[tuple[Function, float]]:
    """The exact costs that the budget limits beside the time."""
    limits = Limits.of(graph, budget.exact)
    return [
        (partial(_cost, limits, place), float(most))
        for place, (name, most) in enumerate(zip((*RESOURCES, "filters"), limits.most.tolist(), strict=True))
        if getattr(budget, name) is not None
    ]


def _cost(limits: Limits, place: int, widths: Ints) -> Floats:
    return limits.remains(widths)[..., place].astype(np.float64)


def _first(graph: Graph, widths: Ints) -> Keep:
    """Keep the first so many units: which ones does not change the time."""
    return {g.name: np.arange(n, dtype=np.int64) for g, n in zip(graph.groups, widths.tolist(), strict=True)}
