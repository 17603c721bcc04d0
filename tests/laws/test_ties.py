"""Ties in count hold in every plan, whoever makes it, and the budget with them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.laws.loops import EPOCHS, LESSONS, METHODS, PER_EPOCH, X, sgd, train
from torch import nn

import secateurs as sct
from secateurs import registry
from secateurs.allocate.agreement import agreed

BUDGET = sct.Budget(macs=0.6)


class Attentive(nn.Module):
    """The attention's inner width is read from its input, four heads of it."""

    def __init__(self):
        super().__init__()
        self.stem, self.inner, self.out = nn.Conv2d(1, 16, 3, stride=2), nn.Linear(16, 16), nn.Linear(16, 16)
        self.wide, self.narrow, self.head = nn.Conv2d(16, 12, 1), nn.Conv2d(12, 16, 1), nn.Linear(16, 3)

    def forward(self, x):
        maps = self.stem(x)
        x = maps.flatten(2).mT
        b, n, c = x.shape
        q = self.inner(x).reshape(b, n, 4, c // 4).transpose(1, 2)
        x = x + self.out((q @ q.mT * 0.1).softmax(-1).matmul(q).transpose(1, 2).reshape(b, n, c))
        maps = x.mT.unflatten(2, maps.shape[2:])
        return self.head((maps + self.narrow(self.wide(maps).relu())).mean((2, 3)))


def attentive():
    torch.manual_seed(0)
    return Attentive()


@pytest.fixture(scope="module")
def graph():
    return sct.trace(attentive(), X)


def check(plan, graph):
    """As many steps of each, some of the tied groups at all, and the budget."""
    (tie,) = graph.ties
    steps = {(graph.group(name).units - len(plan.keep.get(name, range(graph.group(name).units)))) / n
             for name, n in zip(tie.groups, tie.step, strict=True)}  # fmt: skip
    assert len(steps) == 1
    assert graph.cost(plan).macs <= BUDGET.targets(graph.cost())[0]
    return steps.pop()


@pytest.mark.parametrize(
    "name",
    [name if name in ("GReg1", "GroupFisher") else pytest.param(name, marks=pytest.mark.slow) for name in METHODS],
)
def test_in_training(graph, name):
    """Methods that remove unit by unit too."""
    model = attentive()
    session = sct.Session(
        model, X, method=METHODS[name], budget=BUDGET, data=LESSONS, steps_per_epoch=PER_EPOCH, epochs=EPOCHS
    )
    optimizer = sgd(model)
    session.attach(optimizer)
    train(model, optimizer)
    session.finish()

    check(session.plan, graph)


@pytest.mark.parametrize("name", ["l2", *registry.names("one-shot")])
def test_in_one_shot(graph, name):
    """Where groups of several producers may lose units, tied ones do so in step."""
    method = registry.make(name)
    method = replace(method, scope="coupled") if hasattr(method, "scope") else method
    result = sct.prune(attentive(), X, method=method, budget=BUDGET, data=LESSONS[:2])

    check(result.plan, graph)


def test_what_cannot_go_in_step_stays(graph):
    """A choice of one group alone is cut down to none, whole steps of all go."""
    (tie,) = graph.ties
    alone = agreed(graph, {tie.groups[0]: np.arange(2)})
    assert all(len(kept) == graph.group(name).units for name, kept in alone.items() if name in tie.groups)
