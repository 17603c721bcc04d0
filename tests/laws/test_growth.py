"""Growth: units are inserted, and no output moves."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.laws.networks import Coupled, Tied, images, made
from torch import nn
from torch.nn import functional as F

import secateurs as sct
from secateurs.errors import InputError, PlanError, ProofError
from secateurs.network import Network
from secateurs.running.compare import relative_error

BOTH = pytest.mark.parametrize("kind", [Tied, Coupled], ids=lambda kind: kind.__name__)


def outputs(model, training=False):
    with torch.no_grad():
        return copy.deepcopy(model).train(training)(images(3).double())


@BOTH
@settings(max_examples=12)
@given(data=st.data())
def test_growth_changes_no_output(kind, data):
    """Whatever is copied, however often, in several groups at once: float64 outputs stay (1e-9), in both modes."""
    model = made(kind).double()
    graph = sct.trace(model, images().double())
    wanted = {
        g.name: data.draw(st.lists(st.integers(0, g.units - 1), min_size=1, max_size=4), label=g.name)
        for g in graph.groups
        if data.draw(st.booleans(), label=f"grow {g.name}")
    }
    before = outputs(model), outputs(model, training=True)
    grown = sct.grow(graph, model, units=wanted)
    again = sct.trace(grown, images().double())

    assert grown is model
    assert relative_error(outputs(grown), before[0]) < 1e-9
    assert relative_error(outputs(grown, training=True), before[1]) < 1e-9
    assert [g.units + len(wanted.get(g.name, ())) for g in graph.groups] == [g.units for g in again.groups]


@BOTH
def test_objects_stay_and_attributes_follow(kind):
    """Parameters keep their identity, ties and memory order; depthwise and grouped convolutions count anew."""
    model = made(kind).double().to(memory_format=torch.channels_last)
    graph = sct.trace(model, images().double())
    before = {name: id(t) for name, t in Network.of(model).named.items()}
    sct.grow(graph, model, units={g.name: 2 for g in graph.groups})

    assert before == {name: id(t) for name, t in Network.of(model).named.items()}
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.shape[:2] == (module.out_channels, module.in_channels // module.groups)
            assert module.weight.is_contiguous(memory_format=torch.channels_last)
    if kind is Coupled:
        assert (model.depth.groups, model.head.in_features) == (14, 4 * 8)


def test_shares_of_a_copy():
    """A reader's weight w becomes 0.4 w for the unit and 0.6 w for its copy, which stands right after it."""
    model = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1)).double()
    graph = sct.trace(model, torch.ones(1, 1, dtype=torch.float64))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3.0], [5.0]]))
        model[2].weight.copy_(torch.tensor([[10.0, 100.0]]))
    sct.grow(graph, model, units={"0": [0]})

    assert model[0].weight.flatten().tolist() == [3, 3, 5]
    assert model[2].weight.flatten().tolist() == [4, 6, 100]


@pytest.mark.parametrize("copied", [True, False])
def test_the_optimizer_grows_too(copied):
    """Moments of a copy are its parent's, or zero; training goes on."""
    model = made(Tied).double()
    graph = sct.trace(model, images().double())
    optimizer = torch.optim.Adam(model.parameters())
    model(images().double()).square().sum().backward()
    optimizer.step()
    dense = optimizer.state[model.stem.weight]["exp_avg"].clone()
    sct.grow(graph, model, units={"stem": [2, 2]}, optimizer=optimizer, copy_moments=copied)
    moment = optimizer.state[model.stem.weight]["exp_avg"]

    assert torch.equal(dense, moment[[0, 1, 2, 5, 6, 7]])
    assert torch.equal(moment[3:5], dense[[2, 2]] if copied else torch.zeros_like(dense[:2]))
    model(images().double()).square().sum().backward()
    optimizer.step()


def test_copies_part_in_training():
    """Unequal shares get unequal gradients: after a step the copy is another filter than its parent."""
    model = made(Tied).double()
    sct.grow(sct.trace(model, images().double()), model, units={"stem": [0]})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(images().double()).square().sum().backward()
    optimizer.step()

    assert not torch.allclose(model.stem.weight[0], model.stem.weight[1])


class Product(nn.Module):
    """Two linear maps contracted with one another: no weight reads the units there."""

    def __init__(self):
        super().__init__()
        self.query, self.key = nn.Linear(4, 6), nn.Linear(4, 6)
        self.read = nn.Linear(6, 2)

    def forward(self, x):
        q, k = self.query(x), self.key(x)
        return F.relu(q @ k.transpose(-1, -2)).sum(-1), self.read(q)


def test_a_product_of_activations_is_refused():
    """A copy would count twice where activations meet activations: found on a trial, and nothing is changed."""
    torch.manual_seed(0)
    model = Product()
    graph = sct.trace(model, torch.randn(2, 3, 4))
    before = {name: t.clone() for name, t in Network.of(model).named.items()}
    with pytest.raises(ProofError, match=f"growing {graph.groups[0].name} would move the outputs"):
        sct.grow(graph, model, units={graph.groups[0].name: 2})

    assert all(torch.equal(t, before[name]) for name, t in Network.of(model).named.items())


def test_what_cannot_grow_says_why():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    graph = sct.trace(model, torch.randn(3, 4))
    with pytest.raises(InputError, match="group '0' cannot grow: it is inexact"):
        sct.grow(graph, model, units={"0": 1})
    for bad in (0, -1, [], [6], [-1]):
        with pytest.raises(InputError, match="says not what to add to group '2'"):
            sct.grow(graph, model, units={"2": bad})
    with pytest.raises(InputError, match=r"No group is named '2.weight'"):
        sct.grow(graph, model, units={"2.weight": 1})
    with pytest.raises(PlanError, match="made for another network"):
        sct.grow(graph, nn.Sequential(nn.Linear(4, 8)), units={"2": 1})
    sct.grow(graph, model, units={"2": 1})

    assert model[2].out_features == model[4].in_features == 7
