"""A share of the filters as the budget of methods that prune while the network trains."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from secateurs import Budget, Session
from secateurs.errors import BudgetError
from secateurs.methods import SFP, AdaptivePruning, Gradual, GReg1, GroupFisher, OrthoReg


class Residual(nn.Module):
    """A stem whose width a sum couples with a block's last convolution, and the free one inside it."""

    def __init__(self):
        super().__init__()
        self.stem, self.inner, self.outer = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 20, 3, padding=1), nn.Conv2d(20, 8, 1)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = F.relu(self.stem(x))
        return self.head(F.relu(x + self.outer(F.relu(self.inner(x)))).mean((2, 3)))


def left(method, **budget):
    """The widths that a method leaves after some steps of training."""
    torch.manual_seed(0)
    model = Residual()
    data = [(torch.randn(4, 3, 8, 8), torch.randint(4, (4,))) for _ in range(4)]
    how = dict(steps_per_epoch=4, epochs=10, data=data, seed=0)
    session = Session(model, data[0][0], method=method, budget=Budget(**budget), **how)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    session.attach(optimizer)
    for x, y in data * 10:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    small = session.finish()
    return small.stem.out_channels, small.inner.out_channels


@pytest.mark.parametrize(
    "method", [Gradual(rounds=3), OrthoReg(rounds=2, retrain_epochs=1), SFP(), GReg1()], ids=lambda m: type(m).__name__
)
def test_shares_are_of_the_first_network(method):
    """Also in rounds, where the network of the last round is smaller than the first."""
    stem, inner = left(method, filters=0.5)

    assert stem + inner in (13, 14)


def test_what_is_out_of_scope_is_not_counted():
    """Half of the filters that one operator makes; and half of one layer alone."""
    assert left(Gradual(rounds=2, scope="uncoupled"), filters=0.5) == (8, 10)
    assert left(Gradual(rounds=3), shares=(("inner", 0.5),)) == (8, 10)
    assert left(SFP(scope="uncoupled"), filters=0.5) == (8, 10)


@pytest.mark.parametrize("method", [GroupFisher(), AdaptivePruning()])
def test_methods_that_compare_costs_say_so(method):
    """Before any step."""
    with pytest.raises(BudgetError, match="no share of filters"):
        left(method, filters=0.5)
