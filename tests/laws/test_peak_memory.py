"""The most activations alive at once: counted as eager PyTorch holds them, and met as a budget where it binds."""

import numpy as np
import pytest
import torch
from tests.laws.test_exact import chain, drawn
from torch import nn

import secateurs as sct
from secateurs.allocate.exact import least_loss
from secateurs.deploy import activation_memory
from secateurs.errors import BudgetError


class Branching(nn.Module):
    """A wide early stage with a residual and a concatenation, and a narrow late one that never binds."""

    def __init__(self):
        super().__init__()
        self.wide, self.again = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.side, self.late = nn.Conv2d(16, 8, 1), nn.Conv2d(24, 12, 3, stride=2)
        self.head = nn.Linear(12, 4)

    def forward(self, x):
        x = torch.relu(self.wide(x))
        x = x + torch.relu_(self.again(x))
        x = torch.cat([x, self.side(x)], 1)
        return self.head(torch.relu(self.late(x).flatten(2).mean(-1)))


X = torch.zeros(2, 3, 10, 10)


@pytest.mark.parametrize("seed", range(3))
def test_it_is_what_pytorch_holds(seed):
    """In a network whose variables hold nothing longer than it is read, whole and pruned at random."""
    torch.manual_seed(0)
    model = Branching().eval()
    graph, random = sct.trace(model, X), np.random.default_rng(seed)
    assert graph.peak_memory() == activation_memory(model, X).peak
    keep = {g.name: np.sort(random.choice(g.units, random.integers(1, g.units), replace=False)) for g in graph.groups}
    plan = sct.Plan.from_keep(graph, keep)

    assert graph.peak_memory(plan) == activation_memory(sct.apply(plan, model), X).peak


@pytest.mark.parametrize("share", [0.9, 0.6, 0.3])
def test_only_what_is_alive_then_loses_units(share):
    """The budget is met; groups that do not matter at the crowded moments stay whole."""
    model = Branching().eval()
    result = sct.prune(model, X, method="magnitude", budget=sct.Budget(peak_memory=share, multiple_of=1))

    assert result.graph.peak_memory(result.plan) <= share * result.graph.peak_memory()
    assert activation_memory(result.model, X).peak <= share * activation_memory(model, X).peak
    assert len(result.plan.keep["late"]) == 12


def test_it_holds_beside_other_limits():
    model = Branching().eval()
    budget = sct.Budget(peak_memory=0.6, macs=0.2, multiple_of=1)
    result = sct.prune(model, X, method="magnitude", budget=budget)

    assert result.graph.peak_memory(result.plan) <= 0.6 * result.graph.peak_memory()
    assert result.cost_after.macs <= 0.2 * result.cost_before.macs


@pytest.mark.parametrize("seed", range(3))
def test_least_loss_under_a_peak(seed):
    """Against every combination."""
    graph = chain(6, 5, 7)
    losses, budget = drawn(graph, seed), sct.Budget(peak_memory=0.55, multiple_of=1)
    keep = least_loss(graph, budget, losses)
    found = np.array([len(keep[g.name]) for g in graph.groups])
    every = np.stack(np.meshgrid(*(np.arange(1, g.units + 1) for g in graph.groups)), -1).reshape(-1, 3)
    fits = every[graph.costs.peak(every) <= 0.55 * graph.peak_memory()]

    assert any((fits == found).all(1))
    assert losses.total(graph, found) <= 1.002 * min(losses.total(graph, row) for row in fits)


def test_out_of_reach_and_sessions_are_told():
    model = Branching().eval()
    with pytest.raises(BudgetError, match=r"peak_memory=0\.01 asks for .* bytes"):
        sct.prune(model, X, method="magnitude", budget=sct.Budget(peak_memory=0.01))
    with pytest.raises(BudgetError, match=r"peak_memory=0\.5 is met where"):
        sct.Session(model, X, method="greg1", budget=sct.Budget(peak_memory=0.5), steps_per_epoch=4, epochs=2)
