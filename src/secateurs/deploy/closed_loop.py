"""Meet a latency budget: choose widths by prediction, build, measure, correct; refuse a network slower than dense."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import final

import numpy as np

from secateurs.allocate import Budget
from secateurs.allocate.choice import choose
from secateurs.allocate.exact import within
from secateurs.allocate.levels import Tied
from secateurs.allocate.steps import kept
from secateurs.deploy.calibrate import calibrated
from secateurs.deploy.predict import Predictor
from secateurs.deploy.rig import Rig, Timing
from secateurs.deploy.worth import Worth, macs_of
from secateurs.errors import BudgetError
from secateurs.graph import Graph
from secateurs.types import Ints, Keep

ROUNDS = 3
"""Most networks that are built and measured before the best is taken."""

NEAR = 0.03
"""Relative distance from the target at which it is met."""

CLOSE = 0.015
"""Relative distance from the target at which no other network is tried."""

Select = Callable[[Budget], Mapping[str, Ints]]


@final
@dataclass(frozen=True, eq=False)
class Proposal:
    """A network that is predicted to take the target's time.

    value: sum of the criterion over its widths. predicted: its predicted time over the dense network's. gap: relative
    optimality gap of the choice.
    """

    keep: Keep
    value: float = 0.0
    predicted: float | None = None
    gap: float | None = None


@final
@dataclass(frozen=True, eq=False)
class Tried:
    """A proposal that was built and measured; over: its time divided by the target."""

    proposal: Proposal
    timing: Timing
    over: float
    macs: int


def target_of(latency: float, dense: float) -> float:
    """Return the target in seconds: up to 1, `latency` is a share of the dense network's; above 1, milliseconds."""
    return latency * dense if latency <= 1 else latency / 1e3


def by_time(rig: Rig, worth: Worth, budget: Budget) -> tuple[Keep, Timing]:
    """Choose the units to keep within `budget.latency`, and its other constraints, by the value of widths.

    Segments are measured (once, if `Device.table` names a file) and the sum of their times is calibrated on random
    networks. First, aligned widths are chosen by MACs alone so that they meet the target. Then the widths with the
    highest value are chosen exactly, within the target and, if values come from scores, with no fewer MACs than that
    network. Each is built and measured at most three times; every measurement corrects the prediction and the aim.
    Raises BudgetError with the binding constraint if no allowed widths meet the target.
    """
    graph = rig.graph
    predictor, dense = calibrated(rig, worth.allowed)
    belief = Belief(graph, predictor)
    plain = partial(_by_macs_alone, rig, worth, budget, belief)
    rivals, aim = corrected(rig, budget, plain, target_of(budget.latency or 1.0, dense) / dense, belief.learn)
    rival = _within(rivals)
    limits = within(graph, budget.exact)
    least = 0 if rival is None or worth.by_value else rival.macs
    if least:
        limits.append((lambda widths: -macs_of(graph.costs, widths), -float(least)))
    ties = [Tied.of(tie, graph).groups for tie in graph.ties]

    def exact(share: float) -> Proposal | None:
        choice = choose(worth.values, worth.allowed, graph.widths, [(belief.predictor.at, share), *limits], ties)
        if choice is None:
            return None
        predicted = float(belief.predictor.at(choice.widths))
        return Proposal(kept(graph, worth.orders, choice.widths), choice.value, predicted, choice.gap)

    found, _ = corrected(rig, budget, exact, aim, belief.learn)
    best = _within([*found, *([rival] if rival and worth.by_value else [])], least) or rival
    if best is None:
        raise BudgetError(_out_of_reach(budget, predictor, worth.allowed, [*rivals, *found], dense))
    plain_macs = None if rival is None else rival.macs
    return best.proposal.keep, replace(best.timing, calibration_error=predictor.error, plain_macs=plain_macs)


@final
class Belief:
    """The latency predictor, refitted after every measurement."""

    def __init__(self, graph: Graph, predictor: Predictor) -> None:
        """Start from a calibrated predictor."""
        self.graph, self.predictor = graph, predictor

    def learn(self, tried: Tried, aim: float) -> float:
        """Refit to one more network; return the aim that would meet the target if the relative error stays the same."""
        widths, ratio = _counts(self.graph, tried.proposal.keep), tried.timing.ratio
        self.predictor = self.predictor.also(widths, ratio)
        return float(self.predictor.at(widths)) / tried.over


def corrected(
    rig: Rig,
    budget: Budget,
    propose: Callable[[float], Proposal | None],
    aim: float,
    learn: Callable[[Tried, float], float],
) -> tuple[list[Tried], float]:
    """Build and measure proposals, at most three times, correcting the aim after each measurement.

    Returns the networks tried, and the last aim.
    """
    tried: list[Tried] = []
    for _ in range(ROUNDS):
        proposal = propose(aim)
        if proposal is None:
            break
        before, after = rig.measure([rig.build(proposal.keep)])
        predicted = None if proposal.predicted is None else proposal.predicted * before.median
        timing = Timing(before, after, predicted, gap=proposal.gap)
        over = timing.ratio * before.median / target_of(budget.latency or 1.0, before.median)
        macs = int(macs_of(rig.graph.costs, _counts(rig.graph, proposal.keep)))
        tried.append(Tried(proposal, timing, over, macs))
        aim = learn(tried[-1], aim)
        if abs(over - 1) <= CLOSE:
            break
    return tried, aim


def by_macs(rig: Rig, select: Select, budget: Budget) -> tuple[Keep, Timing]:
    """Meet `budget.latency` with a method that knows only exact costs, by searching the MACs that take that time."""
    latency = budget.latency or 1.0
    share = latency if latency <= 1 else min(1.0, 1e-3 * latency / rig.measure([])[0].median)

    def propose(aim: float) -> Proposal:
        return Proposal(dict(select(replace(budget, latency=None, macs=min(1.0, max(0.02, aim))))))

    def learn(tried: Tried, aim: float) -> float:
        return aim / tried.over

    tried, share = corrected(rig, budget, propose, share, learn)
    if not any(abs(one.over - 1) <= NEAR for one in tried):
        tried += corrected(rig, budget, propose, share, learn)[0]
    within = [one for one in tried if one.over <= 1 + NEAR]
    if not within:
        raise BudgetError(
            f"latency={budget.latency} is not reached by MACs: of {len(tried)} measured networks the fastest took "
            f"{min(one.over for one in tried):.0%} of the target. Ask for more time, or use a criterion."
        )
    best = max(within, key=lambda one: one.over)
    return best.proposal.keep, best.timing


def guarded(rig: Rig, keep: Keep, budget: Budget, equal: Callable[[Budget], Keep] | None) -> tuple[Keep, Timing]:
    """Measure the chosen network against the dense one, and against aligned widths with as many MACs.

    If the aligned network is faster, it is returned instead. Raises BudgetError for a network that is slower than the
    dense one, unless the budget has `allow_slower`.
    """
    candidates = [keep]
    if equal is not None:
        macs = int(macs_of(rig.graph.costs, _counts(rig.graph, keep)))
        candidates.append(equal(replace(budget, latency=None, macs=max(macs, 2), multiple_of=rig.device.grid)))
    dense, *found = rig.measure([rig.build(one) for one in candidates])
    chosen = 0
    ratios = [Timing(dense, one).ratio for one in found]
    if len(found) > 1 and not budget.allow_slower and ratios[1] < ratios[0] * (1 - 2 * found[0].doubt):
        chosen = 1
    pruned = found[chosen]
    if ratios[chosen] > 1 + 2 * pruned.doubt and not budget.allow_slower:
        raise BudgetError(
            f"the pruned network takes {1e3 * pruned.median:.2f} ms and the dense one {1e3 * dense.median:.2f} ms "
            f"({rig.device.name}). A smaller network that is slower is refused. Leave multiple_of out, so that widths "
            "are aligned, ask for less to remain, or insist: Budget(macs=..., allow_slower=True)."
        )
    return candidates[chosen], Timing(dense, pruned)


def _by_macs_alone(rig: Rig, worth: Worth, budget: Budget, belief: Belief, share: float) -> Proposal | None:
    """Return the largest aligned network, chosen by MACs, with a predicted share of the dense time up to `share`."""
    graph = rig.graph
    aligned = replace(budget, multiple_of=budget.multiple_of or rig.device.grid).exact
    allowed = worth.levels(aligned)
    lowest, whole = (int(macs_of(graph.costs, np.array([counts[k] for counts in allowed]))) for k in (0, -1))
    low, high = lowest, min(whole, int(aligned.targets(graph.cost())[0]))
    best = None
    while low <= high:
        middle = (low + high) // 2
        keep = worth.select(replace(aligned, macs=max(middle, 2)))
        counts = _counts(graph, keep)
        predicted = float(belief.predictor.at(counts))
        if predicted <= share:
            value = worth.of(counts) if worth.by_value else 0.0
            best, low = Proposal(keep, value, predicted), middle + max(1, whole // 2000)
        else:
            high = min(middle - 1, int(macs_of(graph.costs, counts)) - 1)
    return best


def _within(tried: Sequence[Tried], least: int = 0) -> Tried | None:
    """Return the best network (score, then MACs) among those within the target that have at least `least` MACs."""
    within = [one for one in tried if one.over <= 1 + NEAR and one.macs >= least]
    near = [one for one in within if abs(one.over - 1) <= CLOSE] or [one for one in within if one.over >= 1 - NEAR]
    return max(near or within, key=lambda one: (one.proposal.value, one.macs), default=None)


def _out_of_reach(
    budget: Budget, predictor: Predictor, allowed: Sequence[Ints], tried: Sequence[Tried], dense: float
) -> str:
    """Return a message that says how fast the network can become and which constraint prevents more."""
    lowest = np.array([counts[0] for counts in allowed], np.int64)
    nearest = min((one.over for one in tried), default=None)
    measured = f"; of {len(tried)} measured networks the fastest took {nearest:.0%} of the target" if nearest else ""
    least, binding = 1e3 * dense * float(predictor.at(lowest)), ", ".join(predictor.slowest(lowest))
    return (
        f"latency={budget.latency} is not reached: the smallest widths ({budget.multiple_of or 'any'}) are predicted "
        f"to take {least:.2f} ms, most of it in {binding}{measured}. "
        "Ask for more time, or loosen the floors and multiples."
    )


def _counts(graph: Graph, keep: Mapping[str, Ints]) -> Ints:
    """Units kept per group."""
    return np.array([len(keep.get(group.name, range(group.units))) for group in graph.groups], np.int64)
