"""Where a forward needs values, the trace makes some up, unless they could decide which operators run."""

import pytest
import torch
from torch import nn

import secateurs as sct

X = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
HALF = sct.Budget(macs=0.5)


class Detector(nn.Module):
    """Scores every place of a map, and computes more where the score is high."""

    def __init__(self):
        super().__init__()
        self.trunk, self.score, self.more = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 1, 1), nn.Linear(8, 5)

    def forward(self, x):
        maps = self.trunk(x).relu()
        scores = self.score(maps)[0, 0].flatten().sigmoid()
        rows = maps[0].flatten(1).t()
        found = [self.more(rows[scores > 0.5]), self.more(rows[(scores > 0.4).nonzero()[:, 0]])]
        best = int(scores.argmax().item())
        return [*found, scores[: best + 1]]


class Branch(nn.Module):
    """A value decides about the order of channels, or about a layer."""

    def __init__(self, decide):
        super().__init__()
        self.a, self.b, self.out, self.decide = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1), decide

    def forward(self, x):
        y = self.a(x) - 100.0
        return self.out(self.decide(self, y))


def flips(net, y):
    return net.b(y.flip(1) * y if y.mean() > 0 else y)


def skips(net, y):
    return y if (y > 0).nonzero().shape[0] else net.b(y)


def waits(net, y):
    y = net.b(y)
    while y.sum() > 0:
        y = y - 1.0
    return y * 2.0


def test_values_are_made_up_for_a_detector():
    """Its channels are found on meta, and what is pruned equals the mask on real values."""
    model = Detector().eval()
    graph = sct.trace(model, X)
    plan = sct.plan(graph, model, criterion="l2", budget=HALF)

    assert "made-up values" in graph.notes[0]
    assert "nonzero" in graph.notes[0]
    assert ["trunk"] == [group.name for group in graph.groups]
    assert sct.verify(plan, model, X).passed


@pytest.mark.parametrize("decide", [flips, skips, waits])
def test_values_that_decide_are_real(decide):
    """Made-up values would take another branch, leave a layer out, or never end a loop."""
    torch.manual_seed(0)
    model = Branch(decide).eval()
    graph = sct.trace(model, X)

    assert "real tensors" in graph.notes[0]
    assert graph.groups
    plan = sct.Plan.from_keep(graph, {group.name: range(3) for group in graph.groups})
    assert sct.verify(plan, model, X).passed
