"""The driver of Group Fisher pruning: every few steps, remove the least important unit of the whole network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from secateurs.allocate.agreement import parties
from secateurs.methods.group_fisher.gradients import Taps
from secateurs.methods.group_fisher.maps import measure_elements
from secateurs.running.samples import Layout, find_layouts
from secateurs.session.flat_units import Ledger
from secateurs.session.method import Driver, State
from secateurs.session.run import Run
from secateurs.session.scope import refuse_filters, removals, too_short
from secateurs.types import Floats

if TYPE_CHECKING:
    from secateurs.methods.group_fisher.method import GroupFisher

Normaliser = Literal["memory", "macs", "none"]


_PER = {"memory": "activation saved", "macs": "MAC saved", "none": "unit"}


class FisherDriver(Driver):
    """Scores are sums over samples of squared, coupled gate gradients; see `Taps`."""

    saved: ClassVar[tuple[str, ...]] = ("_events", "_shrunk_at", "_taps.total", "_taps.blind", "_last")

    def __init__(self, run: Run, options: GroupFisher) -> None:
        super().__init__(run)
        refuse_filters(run.budget, options)
        self._how = options
        self._events = 0
        self._done = run.within_budget()
        self._allowed = run.levels()
        self._check_length()
        self._shrunk_at = run.cost().macs
        self._layouts: dict[str, Layout | str] | None = None
        self._bind()
        self._last: Floats = np.zeros(0)

    def _check_length(self) -> None:
        run, how = self._run, self._how
        # Also says whether the budget can be reached at all.
        units = sum(removals(run, run.groups(), None, rounding=lambda n, _: n))
        if how.until is None:
            needed = -(-units // how.per_event) * how.every
            if needed > run.clock.total:
                why = f"about {units} units have to go, {how.per_event} every {how.every} steps"
                raise too_short("GroupFisher", needed, run.clock.total, why)

    def _bind(self) -> None:
        run = self._run
        sites = {g.name: [s for s in run.graph.sites(g.name) if s.reads and s.port == "input"] for g in run.groups()}
        self._groups = [group for group in run.groups() if sites[group.name]]
        self._ledger = Ledger.of(self._groups)
        if self._layouts is None:
            paths = dict.fromkeys(site.module for found in sites.values() for site in found)
            self._layouts = find_layouts(run.model, run.example, paths)
        self._taps = Taps(run.model, self._ledger, sites, self._layouts)
        self._elements = np.array(measure_elements(run.graph, run.model, run.example, self._groups))

    # --- members of Driver ---

    @override
    def attached(self) -> None:
        if not self._done:
            self._taps.total = self._taps.total.to(self._run.device)
            self._taps.open()

    @override
    def gradients_ready(self) -> None:
        if not self._done:
            self._taps.fold()

    @override
    def stepped(self) -> None:
        if not self._done and self._run.step % self._how.every == 0:
            self._event()

    @override
    def conclude(self, *, early: bool) -> None:
        if early and not self._done:
            self._prune(self._run.targets, None)
            if self._run.within_budget():
                self._finish()

    @override
    def missing(self) -> str | None:
        if self._done:
            return None
        run = self._run
        blind = "".join(f"; {name!r} cannot be scored: {why}" for name, why in list(self._taps.blind.items())[:3])
        return f"{run.cost()} remains and the budget asks for {run.targets[0]} MACs, {run.targets[1]} parameters{blind}"

    @override
    def compacted(self, keep: Mapping[str, NDArray[Any]]) -> None:
        opened = self._taps.is_open
        old, taps = self._ledger, self._taps
        blind, total = taps.blind, taps.total
        taps.close()
        self._bind()
        self._taps.total = total.index_select(0, old.positions(keep).to(total.device))
        self._taps.blind = blind
        self._last = self._last[old.positions(keep).numpy()] if len(self._last) else self._last
        if opened:
            self._taps.open()

    @override
    def state(self) -> State:
        self._taps.fold()
        return super().state()

    @override
    def restore(self, state: State) -> None:
        super().restore(state)
        if self._done:
            self._taps.close()

    @override
    def close(self) -> None:
        self._taps.close()

    # --- events ---

    def _event(self) -> None:
        self._events += 1
        self._last = self._run.ranks.sum(self._taps.total).double().cpu().numpy()
        self._taps.reset()
        if not np.isfinite(self._last).all():
            self._run.note("skipped", "scores were not finite; nothing was removed")
            return
        if self._how.until is None:
            self._prune(self._run.targets, self._how.per_event)
        else:
            self._prune(self._target_now(self._how.until), None)
        if self._run.within_budget():
            self._finish()
        elif self._run.shrinks:
            macs = self._run.cost().macs
            if self._shrunk_at - macs >= self._how.shrink_every * self._run.origin.cost().macs:
                self._shrunk_at = macs
                self.shrink()

    def _target_now(self, within: float) -> NDArray[np.int64]:
        """The intermediate budget at this event: linear from the whole network to the target."""
        events = max(1, int(within * self._run.clock.total) // self._how.every)
        share = min(1.0, self._events / events)
        dense = np.array([*vars(self._run.origin.cost()).values()], dtype=np.float64)
        goal = np.minimum(self._run.targets.astype(np.float64), dense)
        return np.ceil(dense + share * (goal - dense)).astype(np.int64)

    def _prune(self, targets: NDArray[np.int64], most: int | None) -> None:
        """Remove units by lowest score over cost, one at a time, until the targets are met or `most` are removed."""
        run, scores = self._run, self._last
        if not len(scores):
            return
        at = {group.name: i for i, group in enumerate(run.graph.groups)}
        widths, picked = run.widths, {name: list[int]() for name in self._ledger.names}
        alive = {name: run.alive[name].copy() for name in self._ledger.names}
        while (run.graph.costs.at(widths) > targets).any() and (most is None or sum(map(len, picked.values())) < most):
            choice = self._least(scores, alive, widths, at)
            if choice is None:
                break
            for name, units in choice.items():
                alive[name][units] = False
                widths[at[name]] -= len(units)
                picked[name].extend(int(u) for u in units)
        run.remove(picked, f"least Fisher information per {_PER[self._how.normaliser]} over {self._how.every} steps")

    def _least(
        self, scores: Floats, alive: Mapping[str, NDArray[np.bool_]], widths: NDArray[np.int64], at: Mapping[str, int]
    ) -> dict[str, NDArray[np.int64]] | None:
        """The units with the lowest mean normalised score: one, a block that keeps a multiple, or a step of a tie."""
        per_unit = dict(zip(self._ledger.names, self._normalisers(widths, at).tolist(), strict=True))
        starts = dict(zip(self._ledger.names, self._ledger.starts, strict=True))
        best: tuple[float, dict[str, NDArray[np.int64]]] | None = None
        for party in parties(self._run.graph.ties, self._ledger.names):
            if any(name in self._taps.blind for name in party):
                continue
            units, values = dict[str, NDArray[np.int64]](), list[Floats]()
            for name in party:
                living = np.flatnonzero(alive[name])
                lower = self._allowed[name][self._allowed[name] < len(living)]
                own = scores[starts[name] + living] / per_unit[name]
                units[name] = living[
                    np.argsort(own, kind="stable")[: len(living) - int(lower[-1]) if len(lower) else 0]
                ]
                values.append(scores[starts[name] + units[name]] / per_unit[name])
            if not all(len(found) for found in units.values()):
                continue
            value = float(np.concatenate(values).mean())
            if best is None or value < best[0]:
                best = (value, units)
        return None if best is None else best[1]

    def _normalisers(self, widths: NDArray[np.int64], at: Mapping[str, int]) -> Floats:
        if self._how.normaliser == "memory":
            return self._elements
        if self._how.normaliser == "none":
            return np.ones(len(self._groups))
        # ΔC: MACs that one unit less saves, in producers and consumers, at the present widths.
        columns = [at[name] for name in self._ledger.names]
        fewer = widths[None, :] - np.eye(len(widths), dtype=np.int64)[columns]
        costs = self._run.graph.costs
        return np.maximum(costs.at(widths)[0] - costs.at(fewer)[:, 0], 1).astype(np.float64)

    def _finish(self) -> None:
        self._done = True
        self._taps.close()
        self._run.note("phase", "the budget is reached; the network recovers")
        if self._run.shrinks:
            self.shrink()
