"""The one door: a model is read and checked once; what cannot be pruned is refused with what to do instead."""

import sys

import pytest
import torch
from torch import nn

import secateurs as sct
from secateurs.errors import ModelError, ProofError
from secateurs.network import Network


class Counted(dict):
    """A module's own tensors, and how often somebody went over them."""

    walks = 0

    def items(self):
        self.walks += 1
        return super().items()

    def values(self):
        self.walks += 1
        return super().values()

    def __iter__(self):
        self.walks += 1
        return super().__iter__()

    def __reduce__(self):
        self.walks += 1
        return dict, (dict(super().items()),)


def test_prune_walks_a_models_tensors_at_most_twice_before_it_cuts(monkeypatch):
    """Once to read and check the model, and once to copy it."""
    torchvision = pytest.importorskip("torchvision")
    model = torchvision.models.resnet18(weights=None)
    tensors = {}
    for name, module in model.named_modules():
        module.__dict__["_parameters"] = tensors[name] = Counted(module.__dict__["_parameters"])
    seen = []
    verb = sys.modules[sct.prune.__module__]
    whole = verb.apply
    monkeypatch.setattr(verb, "apply", lambda *a: seen.append({n: t.walks for n, t in tensors.items()}) or whole(*a))

    sct.prune(model, torch.zeros(1, 3, 64, 64), method="magnitude", budget=sct.Budget(macs=0.5))

    assert len(seen) == 1
    assert set(seen[0].values()) == {2}


def test_a_network_is_its_own_network():
    """What was read once is not read again."""
    network = Network.of(nn.DataParallel(nn.Linear(2, 2)))

    assert Network.of(network) is network
    assert list(network.named) == ["weight", "bias"]


def test_names_are_those_of_torch():
    """Every name that `named_parameters` and `named_buffers` give, in their order; ties go to the first name."""
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3), nn.BatchNorm1d(3))
    model[2].weight = model[0].weight
    model.again = model[1]
    network = Network.of(model)

    assert list(network.parameters) == [name for name, _ in model.named_parameters(remove_duplicate=False)]
    assert list(network.buffers) == [name for name, _ in model.named_buffers(remove_duplicate=False)]
    assert network.aliases["2.weight"] == "0.weight"
    assert network.aliases["again.running_mean"] == "1.running_mean"
    assert list(network.modules) == [name for name, _ in model.named_modules()]


@pytest.mark.parametrize("verb", ["trace", "mask", "apply", "verify", "prune", "observe"])
def test_every_verb_refuses_at_the_door(verb):
    """A tensor that autograd made is refused by all verbs in the same words, whatever they would do with it."""
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    x = torch.zeros(1, 4)
    graph = sct.trace(model, x)
    plan = sct.Plan.from_keep(graph, {"0": [0, 2]})
    model.register_buffer("scale", model[0].weight.sum())
    run = {
        "trace": lambda: sct.trace(model, x),
        "mask": lambda: sct.mask(plan, model),
        "apply": lambda: sct.apply(plan, model),
        "verify": lambda: sct.verify(plan, model),
        "prune": lambda: sct.prune(model, x, method="magnitude", budget=sct.Budget(macs=0.5)),
        "observe": lambda: sct.plan(graph, model, criterion=sct.criteria.Magnitude(), budget=sct.Budget(macs=0.5)),
    }[verb]

    with pytest.raises(ModelError, match="scale is the result of a differentiable operation"):
        run()


def test_a_plan_from_a_file_is_proved_when_its_graph_is_given():
    """The proof that a plan carries along in memory can be handed to one that was read."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    graph = sct.trace(model, torch.zeros(1, 4))
    read = sct.Plan.from_json(sct.Plan.from_keep(graph, {"0": [0, 2]}).to_json())
    other = nn.Sequential(nn.Linear(4, 3), nn.Softmax(-1), nn.Linear(3, 2))

    assert [g.name for g in sct.verify(read, model, graph=graph).groups] == ["0"]
    with pytest.raises(ProofError):
        sct.apply(read, other, graph=graph)
    sct.apply(read, model, graph=graph)
    assert model[0].out_features == 2
