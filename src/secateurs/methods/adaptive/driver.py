"""The driver of Adaptive Pruning (our reconstruction): rounds of measuring profits, removing and inserting units."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from secateurs.allocate.agreement import in_step, parties
from secateurs.methods.adaptive.fold import fold
from secateurs.methods.adaptive.profit import (
    Combination,
    candidates,
    correlation,
    effective_rank,
    next_profit,
    own_profit,
)
from secateurs.methods.adaptive.standing import Standing
from secateurs.methods.adaptive.statistics import Seen, fixed_batches, look, loss_rises, read_by_modules, small_batch
from secateurs.recover.recalibrate import recalibrate
from secateurs.session.method import Driver, State
from secateurs.session.run import Run
from secateurs.session.scope import check_reach, refuse_filters, too_short
from secateurs.types import Floats, Ints

if TYPE_CHECKING:
    from secateurs.methods.adaptive.method import AdaptivePruning


class AdaptiveDriver(Driver):
    """Removes and inserts units of each group in rounds; units keep their running scores when others change."""

    saved: ClassVar[tuple[str, ...]] = ("_rounds", "_kappa", "_best_loss", "_losses", "_params", "_mix", "_standing")

    def __init__(self, run: Run, options: AdaptivePruning) -> None:
        super().__init__(run)
        refuse_filters(run.budget, options)
        self._how = options
        self._last_step = int(options.until * run.clock.total)
        if options.round_steps(run.clock) * options.patience > self._last_step - options.start_step(run.clock):
            least = options.round_steps(run.clock) * options.patience + options.start_step(run.clock)
            why = "a unit must be a candidate in several rounds first"
            raise too_short("AdaptivePruning", int(least / options.until) + 1, run.clock.total, why)
        self._batches = fixed_batches(run, options.batches)
        self._random = np.random.default_rng(run.seed)
        self._done = run.budget is not None and run.within_budget()
        self._rounds = 0
        self._kappa = options.kappa
        self._best_loss = float("inf")
        self._losses: list[float] = []
        self._params: list[int] = []
        self._mix = Combination()
        self._groups = {group.name: group for group in read_by_modules(run)}
        self._standing = {name: Standing.fresh(group.units) for name, group in self._groups.items()}
        least = {name: int(found[0]) for name, found in run.levels().items()}
        self._floor = {n: max(least[n], 2, int(np.ceil(0.05 * g.units))) for n, g in self._groups.items()}
        check_reach(run, self._floor)

    # --- members of Driver ---

    @property
    @override
    def phase(self) -> str:
        if self._done:
            return "done"
        return "adapting" if self._run.step >= self._how.start_step(self._run.clock) else "warming"

    @override
    def stepped(self) -> None:
        clock, step = self._run.clock, self._run.step
        if self._done or step < self._how.start_step(clock) or step % self._how.round_steps(clock):
            return
        self._round()
        if not self._done and step + self._how.round_steps(clock) > self._last_step:
            self._settle("the structural part of the run is over")

    @override
    def conclude(self, *, early: bool) -> None:
        if early and not self._done:
            if self._run.budget is not None:
                self._measure(self._look())
                self._remove(self._for_budget(self._run.targets), {}, "finished early, the lowest profits")
            self._done = self._run.budget is None or self._run.within_budget()

    @override
    def missing(self) -> str | None:
        if self._done:
            return None
        return f"filters may come and go until step {self._last_step}, and {self._run.cost()} remains"

    @override
    def compacted(self, keep: Mapping[str, NDArray[Any]]) -> None:
        self._standing = {name: s.take(np.asarray(keep[name])) for name, s in self._standing.items() if name in keep}
        self._groups = {group.name: group for group in read_by_modules(self._run)}

    @override
    def state(self) -> State:
        return {**super().state(), "random": self._random.bit_generator.state}

    @override
    def restore(self, state: State) -> None:
        super().restore(state)
        self._random.bit_generator.state = state["random"]
        self._groups = {group.name: group for group in read_by_modules(self._run)}

    # --- a round ---

    def _round(self) -> None:
        self._rounds += 1
        run = self._run
        seen = self._look()
        partners = self._measure(seen)
        if self._how.criterion == "learned":
            self._probe(seen)
        self._press(seen.loss)
        picked = self._candidates()
        if run.budget is not None:
            goal = self._how.target_now(run)
            picked = self._merge(picked, self._for_budget(goal, picked))
        self._remove(
            picked, partners, f"profits below the threshold (κ {self._kappa:.2f}, w {self._mix.weight:.2f})", seen
        )
        if run.budget is not None and run.within_budget():
            self._settle("the budget is reached")
        elif self._how.grows and run.shrinks:
            self._grow(seen, set(picked))
        self._params.append(run.cost().params)
        if not self._done and run.budget is None and self._stable():
            self._settle("the number of filters has settled")

    def _look(self) -> Seen:
        """Broadcast the first process's statistics, so that every process makes the same choices."""
        return self._run.ranks.first(lambda: look(self._run, tuple(self._groups.values()), self._batches))

    def _measure(self, seen: Seen) -> dict[str, Ints]:
        """Update every unit's running score and candidate streak; returns redundant units' partners."""
        partners: dict[str, Ints] = {}
        for name, standing in self._standing.items():
            alive = np.flatnonzero(self._run.alive[name])
            z = seen.z[name][:, alive]
            standing.own[alive] = own_profit(z, seen.labels)
            standing.following[alive] = next_profit(seen.fisher[name][alive])
            standing.score(alive, self._mix.score(standing.own[alive], standing.following[alive]), self._how.smooth)
            low, partner = candidates(standing.value(alive), correlation(z), self._kappa, self._how.redundant)
            standing.mark(alive, low)
            partners[name] = np.full(len(standing.own), -1, dtype=np.int64)
            partners[name][alive] = np.where(partner >= 0, alive[partner], -1)
        return partners

    def _probe(self, seen: Seen) -> None:
        """Fit the weight of the two profits to measured loss changes of a few random units of each group."""
        batch = small_batch(self._run, self._batches[self._rounds % len(self._batches)], self._how.probe_samples)
        own, following, rises = list[Floats](), list[Floats](), list[Floats]()
        for name, group in self._groups.items():
            alive = np.flatnonzero(self._run.alive[name])
            units = self._random.choice(alive, size=min(self._how.probes, len(alive)), replace=False)
            rises.append(self._run.ranks.first(partial(loss_rises, self._run, group, units.tolist(), batch)))
            own.append(self._standing[name].own[units])
            following.append(self._standing[name].following[units])
        self._mix.learn(np.concatenate(own), np.concatenate(following), np.concatenate(rises))

    def _press(self, loss: float) -> None:
        """Lower κ (prune more) while the loss stays near its best; raise it otherwise."""
        smooth = loss if not self._losses else 0.7 * self._losses[-1] + 0.3 * loss
        self._losses.append(smooth)
        self._kappa *= 0.95 if smooth <= 1.02 * self._best_loss else 1.2
        self._best_loss = min(self._best_loss, smooth)

    def _candidates(self) -> dict[str, Ints]:
        """Return units that were candidates for `patience` rounds, up to 10 % of a group and 3 % of MACs a round."""
        run, picked, order = self._run, dict[str, list[int]](), list[tuple[float, str, int]]()
        for name, standing in self._standing.items():
            alive = np.flatnonzero(run.alive[name])
            ripe = alive[(standing.streak[alive] >= self._how.patience) & (standing.grace[alive] <= 0)]
            room = min(len(alive) - self._floor[name], max(1, len(alive) // 10))
            worst = sorted(ripe.tolist(), key=lambda u, s=standing: float(s.value(u)))[: max(0, room)]
            order += [(standing.relative(alive, unit), name, unit) for unit in worst]
        widths, at = run.widths, {group.name: i for i, group in enumerate(run.graph.groups)}
        least = run.cost().macs - 0.03 * run.origin.cost().macs
        for _, name, unit in sorted(order):
            if run.budget is not None and (run.graph.costs.at(widths) <= run.targets).all():
                break
            widths[at[name]] -= 1
            if picked and run.graph.costs.at(widths)[0] < least:
                break
            picked.setdefault(name, []).append(unit)
        return {name: np.asarray(units) for name, units in in_step(run.graph.ties, picked).items()}

    def _for_budget(self, goal: Ints, picked: Mapping[str, Ints] | None = None) -> dict[str, Ints]:
        """Return, in addition to `picked`, the units with the lowest relative scores until the goal is met."""
        run, more = self._run, dict[str, list[int]]()
        widths, at = run.widths, {group.name: i for i, group in enumerate(run.graph.groups)}
        taken = {name: set(units.tolist()) for name, units in (picked or {}).items()}
        for name, units in taken.items():
            widths[at[name]] -= len(units)
        for _, move in sorted(self._moves(taken), key=lambda one: one[0]):
            if (run.graph.costs.at(widths) <= goal).all():
                break
            if all(widths[at[name]] - len(units) >= self._floor[name] for name, units in move.items()):
                for name, units in move.items():
                    widths[at[name]] -= len(units)
                    more.setdefault(name, []).extend(units)
        return {name: np.asarray(units) for name, units in more.items()}

    def _moves(self, taken: Mapping[str, set[int]]) -> Iterator[tuple[float, dict[str, list[int]]]]:
        """Candidates for removal (one unit, or one step of groups tied in count), lowest score first."""
        for party in parties(self._run.graph.ties, self._standing.keys()):
            ranked: dict[str, list[tuple[float, int]]] = {}
            for name in party:
                standing, alive = self._standing[name], np.flatnonzero(self._run.alive[name])
                left = (int(u) for u in alive if int(u) not in taken.get(name, ()))
                ranked[name] = sorted((standing.relative(alive, u), u) for u in left)
            for k in range(min(len(ranked[name]) // n for name, n in party.items())):
                step = {name: ranked[name][k * n : (k + 1) * n] for name, n in party.items()}
                score = np.mean([value for units in step.values() for value, _ in units])
                yield float(score), {name: [u for _, u in units] for name, units in step.items()}

    @staticmethod
    def _merge(one: Mapping[str, Ints], other: Mapping[str, Ints]) -> dict[str, Ints]:
        empty = np.zeros(0, dtype=np.int64)
        return {n: np.concatenate([one.get(n, empty), other.get(n, empty)]) for n in sorted({*one, *other})}

    def _remove(
        self, picked: Mapping[str, Ints], partners: Mapping[str, Ints], note: str, seen: Seen | None = None
    ) -> None:
        run = self._run
        picked = {name: units for name, units in picked.items() if len(units)}
        if not picked:
            return
        for name, units in picked.items():
            self._standing[name].pruned_at = self._rounds
            if seen is not None and self._how.folds and len(run.producers(self._groups[name])) == 1:
                gone = set(units.tolist())
                partner = np.array([-1 if int(p) in gone else int(p) for p in partners[name]])
                fold(run, self._groups[name], units, partner, seen.z[name])
        run.remove(picked, note)
        if run.shrinks:
            self.shrink()
        recalibrate(run.model, self._batches)

    # --- growing and settling ---

    def _grow(self, seen: Seen, pruned: set[str]) -> None:
        """Insert copies into groups without weak or redundant units, while the loss does not fall."""
        wanted: dict[str, list[int]] = {}
        still = len(self._losses) > 2 and self._losses[-3] - self._losses[-1] < 0.005 * abs(self._losses[-3])
        for name, standing in self._standing.items():
            if name in pruned or not self._groups[name].exact:
                continue
            z = seen.z[name]
            full = not standing.streak.any() and effective_rank(z) / z.shape[1] > 0.9
            earning = bool(np.quantile(standing.following, 0.1) > 0.3)
            standing.saturated = standing.saturated + 1 if full and earning else 0
            if still and standing.saturated >= self._how.patience and standing.may_grow(self._rounds):
                wanted[name] = standing.parents(self._how.growth, self._random)
        if wanted:
            self.shrink()
            self._run.grow(wanted, "every unit earns, and the loss stands still")
            for name, parents in wanted.items():
                self._standing[name] = self._standing[name].grown(parents, self._rounds)
            self._groups = {group.name: group for group in read_by_modules(self._run)}

    def _stable(self) -> bool:
        """True after six rounds without an event, or with hardly any change of size."""
        if len(self._params) < 7 or self._rounds < 6 + self._how.patience:
            return False
        return abs(self._params[-1] - self._params[-7]) < 0.005 * self._params[-7]

    def _settle(self, why: str) -> None:
        run = self._run
        if run.budget is not None and not run.within_budget():
            self._remove(self._for_budget(run.targets), {}, "the lowest profits, to reach the budget")
        if run.budget is not None and not run.within_budget():
            return
        self._done = True
        widths = ", ".join(f"{name} {int(alive.sum())}" for name, alive in run.alive.items())
        run.note("phase", f"{why}; widths: {widths}")
