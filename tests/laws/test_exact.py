"""Widths of the least loss within exact costs: as good as any, and never worse than the order of loss per cost."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

import secateurs as sct
from secateurs.allocate.exact import Losses, least_loss, least_loss_per_cost
from secateurs.errors import BudgetError


def chain(*widths):
    """Convolutions of which each reads the one before, so that costs are products."""
    pairs = itertools.pairwise((3, *widths))
    layers = [layer for a, b in pairs for layer in (nn.Conv2d(a, b, 3, padding=1), nn.ReLU())]
    return sct.trace(nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * widths[-1], 4)), torch.zeros(1, 3, 8, 8))


def drawn(graph, seed):
    """Losses that never fall, and are not convex."""
    random = np.random.default_rng(seed)
    lost = {g.name: np.append(0.0, random.exponential(size=g.units).cumsum()) for g in graph.groups}
    return Losses({g.name: random.permutation(g.units) for g in graph.groups}, lost)


def counts(graph, keep):
    return np.array([len(keep[g.name]) for g in graph.groups])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("limits", [{"macs": 0.5}, {"macs": 0.6, "params": 0.4}, {"filters": 0.55}], ids=str)
def test_no_other_widths_lose_less(seed, limits):
    """Against every combination."""
    graph = chain(6, 5, 7)
    losses, budget = drawn(graph, seed), sct.Budget(**limits, multiple_of=1)
    found = counts(graph, least_loss(graph, budget, losses))
    every = np.array(list(itertools.product(*(range(1, g.units + 1) for g in graph.groups))))
    left, whole = graph.costs.at(every), graph.costs.at(graph.widths)
    share = {
        "macs": left[:, 0] / whole[0],
        "params": left[:, 1] / whole[1],
        "filters": every.sum(1) / every.max(0).sum(),
    }
    fits = every[np.all([share[name] <= most for name, most in limits.items()], axis=0)]

    assert any((fits == found).all(1))
    assert losses.total(graph, found) <= 1.002 * min(losses.total(graph, row) for row in fits)


@pytest.mark.parametrize("seed", range(2))
def test_wide_groups_are_refined_between_what_was_offered(seed):
    """More widths than the program takes at once: no worse than by loss per cost, the last to go are kept."""
    graph = chain(96, 80)
    losses, budget = drawn(graph, seed), sct.Budget(macs=0.4, multiple_of=1)
    keep, greedy = least_loss(graph, budget, losses), least_loss_per_cost(graph, budget, losses)

    assert losses.total(graph, counts(graph, keep)) <= losses.total(graph, counts(graph, greedy))
    assert graph.cost(sct.Plan.from_keep(graph, keep)).macs <= 0.4 * graph.cost().macs
    every = np.array(list(itertools.product(range(1, 97), range(1, 81))))
    fits = every[graph.costs.at(every)[:, 0] <= 0.4 * graph.cost().macs]
    best = min(losses.total(graph, row) for row in fits[::7])
    assert losses.total(graph, counts(graph, keep)) <= 1.01 * best
    assert all(set(keep[name]) == set(order[len(order) - len(keep[name]) :]) for name, order in losses.orders.items())


def test_a_budget_out_of_reach_is_told():
    graph = chain(6, 5)
    with pytest.raises(BudgetError, match="the smallest network"):
        least_loss(graph, sct.Budget(macs=0.001), drawn(graph, 0))
