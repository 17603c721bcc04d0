"""Backward elimination against brute force: least squares anew for every subset."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import secateurs as sct
from secateurs.allocate.exact import convex
from secateurs.errors import BudgetError, EvidenceError, InputError
from secateurs.evidence import Reads, observe
from secateurs.methods import BackwardElimination
from secateurs.methods.elimination.measured import Curves
from secateurs.methods.elimination.order import eliminate
from secateurs.network import Network
from secateurs.running.batches import read_batch


def left_over(x, w, kept):
    """Squared error of the map's output if only these inputs are kept and the weights are fitted anew."""
    wanted = x @ w.T
    return np.square(wanted - x[:, kept] @ np.linalg.lstsq(x[:, kept], wanted, rcond=None)[0]).sum() / len(x)


@pytest.mark.parametrize("seed", range(4))
def test_each_removal_is_the_cheapest_refit(seed):
    """What a removal adds to the error is what least squares from scratch says, and no other unit is cheaper."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(200, 6)) @ draw.normal(size=(6, 6))
    x -= x.mean(0)
    w = draw.normal(size=(5, 6))
    order, errors = eliminate(x.T @ x / len(x), w.T @ w, 1e-12)
    kept, before = list(range(6)), 0.0
    for u, error in zip(order[:-1], errors[:-1], strict=True):
        costs = {v: left_over(x, w, [k for k in kept if k != v]) for v in kept}
        assert min(costs, key=costs.get) == u
        assert costs[u] - before == pytest.approx(error, rel=1e-6, abs=1e-9)
        kept.remove(u)
        before = costs[u]


def test_steps_of_a_convex_curve_never_fall_and_lie_below():
    losses = np.concatenate([[0], np.random.default_rng(0).random(12).cumsum()])
    steps = convex(losses)

    assert (np.diff(steps) >= -1e-12).all()
    assert (steps.cumsum() <= losses[1:] + 1e-12).all()
    assert steps.sum() == pytest.approx(losses[-1])


class Redundant(nn.Module):
    """Twelve channels of which six are combinations of the others, read by two layers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.read, self.also = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 4, 3), nn.Conv2d(12, 4, 1)
        with torch.no_grad():
            mix = torch.randn(6, 6)
            self.first.weight[6:] = torch.einsum("ij,j...->i...", mix, self.first.weight[:6])
            self.first.bias[6:] = mix @ self.first.bias[:6]

    def forward(self, x):
        x = self.first(x)
        return self.read(x).mean((2, 3)) + self.also(x).mean((2, 3))


@pytest.fixture(scope="module")
def images():
    return torch.randn(32, 3, 10, 10, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("widths", ["measured", "modelled"])
def test_what_the_rest_expresses_goes_and_reconstruction_finds_it(widths, images):
    """Half of the channels go, and the outputs come back to rounding."""
    net = Redundant().double().eval()
    result = sct.prune(
        net, images[:1], method=BackwardElimination(widths=widths), budget=sct.Budget(macs=0.51), data=[images],
        recover=sct.Reconstruct(),
    )  # fmt: skip

    assert len(result.plan.keep["first"]) == 6
    lost = (result.model(images) - net(images)).square().sum() / (net(images) - net(images).mean(0)).square().sum()
    assert lost < 1e-4


def test_the_measured_loss_is_that_of_the_refitted_network(images):
    """Replacing units by what the others say is the same as removing them and giving their readers the new weights."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 5, 1), nn.Flatten()).double().eval()
    graph = sct.trace(net, images[:1])
    moments = observe(graph, net, BackwardElimination(), data=[images])["moments"]["0"]
    curves = Curves.of(Network.of(net), [read_batch(images, 0, torch.device("cpu"))])
    gone = np.array([1, 4, 6])
    found = curves.loss(Reads()(graph.sites("0")), moments, gone, 1e-12)

    rows = net[:2](images).movedim(1, -1).flatten(0, 2)
    kept = [u for u in range(8) if u not in gone]
    known = torch.cat([rows[:, kept], torch.ones(len(rows), 1)], 1).double()
    line = torch.linalg.lstsq(known, rows[:, gone]).solution
    small = copy.deepcopy(net)
    with torch.no_grad():
        read = net[2].weight[:, :, 0, 0]
        small[2].weight[:, kept, 0, 0] += read[:, gone] @ line[:-1].T
        small[2].weight[:, gone] = 0
        small[2].bias += read[:, gone] @ line[-1]
    expected = (small(images) - net(images)).square().sum() / (net(images) - net(images).mean(0)).square().sum()
    assert found == pytest.approx(expected.item(), rel=1e-6)


def test_bad_settings_and_missing_things_are_told(images):
    net = Redundant().double()
    graph = sct.trace(net, images[:1])
    with pytest.raises(InputError, match="measures nothing"):
        BackwardElimination(points=0)
    with pytest.raises(BudgetError, match="was given no budget"):
        BackwardElimination().select(graph, net, None, data=[images])
    with pytest.raises(EvidenceError, match="no data was given"):
        BackwardElimination().select(graph, net, sct.Budget(macs=0.5))
    with pytest.raises(EvidenceError, match="puts out the same for all images"):
        BackwardElimination().select(graph, net, sct.Budget(macs=0.5), data=[torch.zeros_like(images)])


def test_groups_without_a_module_that_reads_them_stay_whole():
    """Heads of nn.MultiheadAttention are read by no module; the layers of the MLP are."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 32, 0.0, batch_first=True, norm_first=True)
    net = nn.Sequential(nn.Linear(6, 16), layer, nn.Linear(16, 2)).double().eval()
    x = torch.randn(8, 5, 6, dtype=torch.float64)
    graph = sct.trace(net, x)
    keep = BackwardElimination(scope="coupled").select(graph, net, sct.Budget(macs=0.9), data=[x])
    silent = {g.name for g in graph.groups if not Reads()(graph.sites(g.name))}

    assert silent
    assert not silent & set(keep)
    assert graph.cost(sct.Plan.from_keep(graph, keep)).macs <= 0.9 * graph.cost().macs
