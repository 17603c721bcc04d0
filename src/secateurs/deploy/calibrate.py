"""Calibration of latency predictions: fit the sum of segment times to random networks that are built and measured."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from secateurs.allocate.levels import Tied
from secateurs.deploy.predict import Predictor
from secateurs.deploy.rig import Rig, Timing
from secateurs.deploy.segment_table import Table, needed
from secateurs.deploy.segments import find_segments
from secateurs.types import Ints, Keep

NETWORKS = 10
"""Number of random networks that the prediction is fitted to."""


def calibrated(rig: Rig, allowed: Sequence[Ints]) -> tuple[Predictor, float]:
    """Return a predictor fitted to random networks, and the dense network's latency in seconds.

    Segments that are missing in the device's table are measured first; the table is written to `Device.table`.
    """
    graph, device = rig.graph, rig.device
    step = device.grid.finest
    placed = find_segments(graph, rig.model, rig.example)
    table = Table.of(device, device.table)
    if table.measure(device, needed(placed, step)) and device.table is not None:
        table.save(device.table)
    rows = [graph.widths, *drawn(allowed, graph.widths, [Tied.of(tie, graph).groups for tie in graph.ties])]
    dense, *found = rig.measure([rig.build(_first(rig, row)) for row in rows[1:]], decide=False)
    ratios = np.array([1.0, *(Timing(dense, one).ratio for one in found)])
    return Predictor(placed, table, graph.costs, step, np.stack(rows), ratios), dense.median


def drawn(allowed: Sequence[Ints], whole: Ints, ties: Sequence[Sequence[int]], seed: int = 0) -> list[Ints]:
    """Return random widths of every group, from about a quarter to nearly all units; tied groups get the same level."""
    random = np.random.default_rng(seed)
    rows: list[Ints] = []
    for share in np.linspace(0.25, 0.95, NETWORKS):
        wanted = share * random.uniform(0.4, 1.6, len(allowed)) * whole
        level = [int(np.abs(counts - w).argmin()) for counts, w in zip(allowed, wanted, strict=True)]
        for tied in ties:
            for follower in tied[1:]:
                level[follower] = level[tied[0]]
        rows.append(np.array([counts[k] for counts, k in zip(allowed, level, strict=True)], np.int64))
    return rows


def _first(rig: Rig, widths: Ints) -> Keep:
    """Keep the first units of every group: the time depends on their number only."""
    groups = zip(rig.graph.groups, widths.tolist(), strict=True)
    return {group.name: np.arange(count, dtype=np.int64) for group, count in groups}
