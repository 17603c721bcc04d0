"""Prune for a named device: choose widths, build, measure, and refuse a slower network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from secateurs.allocate import Budget, Ranked
from secateurs.allocate.agreement import agreed
from secateurs.criteria import Criterion, score
from secateurs.deploy.closed_loop import by_macs, by_time, guarded
from secateurs.deploy.device import Device
from secateurs.deploy.rig import Rig, Timing
from secateurs.deploy.worth import of_losses, of_scores
from secateurs.errors import BudgetError
from secateurs.evidence import observe
from secateurs.graph import Graph
from secateurs.methods.one_shot import Measured, Method
from secateurs.types import Ints, Keep, Loss


def keep_on_device(
    graph: Graph,
    model: nn.Module,
    method: Criterion | Method,
    budget: Budget,
    *,
    data: Iterable[Any] | None,
    loss: Loss | None,
    seed: int,
) -> tuple[Keep, Timing]:
    """Choose the units to keep within a budget that names a device; return them with the measured times.

    For a criterion, its scores are the objective of the exact choice of widths; for a method that measures losses
    (`Measured`), these losses are. Another method that chooses units itself is given a MACs budget, corrected until the
    measured time fits. Raises BudgetError for a latency that is not reached or a network slower than dense; DeviceError
    if the device cannot run the model, or the machine is too busy to measure.
    """
    device = budget.device
    if not isinstance(device, Device):
        raise BudgetError(f"device={device!r} is not a secateurs.Device, and only that builds and measures networks.")
    timing: Timing | None = None
    equal: Callable[[Budget], Keep] | None = None
    if isinstance(method, Criterion):
        evidence = observe(graph, model, method, data=data, loss=loss)
        scores = score(method, graph.groups, evidence)
        equal = partial(Ranked(), scores, graph)
        rig = Rig(graph, model, device)
        if budget.latency is None:
            keep = equal(budget)
            # the network has aligned widths already
            equal = None if budget.multiple_of == device.grid else equal
        else:
            keep, timing = by_time(rig, of_scores(graph, scores, budget), budget)
            equal = None  # it was compared with aligned widths of as many MACs
    else:
        rig = Rig(graph, model, device)

        def select(limited: Budget) -> Mapping[str, Ints]:
            return agreed(graph, method.select(graph, model, limited, data=data, loss=loss, seed=seed))

        if budget.latency is None:
            keep = dict(select(budget))
        elif isinstance(method, Measured):
            losses = method.losses(graph, model, budget, data=data, loss=loss, seed=seed)
            keep, timing = by_time(rig, of_losses(graph, losses, budget), budget)
        else:
            keep, timing = by_macs(rig, select, budget)
    handed, measured = guarded(rig, keep, budget, equal)
    return handed, measured if timing is None or handed is not keep else _measured_anew(timing, measured)


def _measured_anew(timing: Timing, measured: Timing) -> Timing:
    """Return the last measurement with the prediction, which is relative to the dense time and so rescaled to it."""
    share = None if timing.predicted is None else timing.predicted / timing.dense.median
    predicted = None if share is None else share * measured.dense.median
    return replace(timing, dense=measured.dense, pruned=measured.pruned, predicted=predicted)
