"""The optimizer goes on as if the removed units had been silent all along."""

import copy

import pytest
import torch
from tests.laws.networks import Coupled, Tied, images, made
from torch import nn

import secateurs as sct
from secateurs.errors import InputError, PlanError
from secateurs.network import Network

STEPS = 4


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.01)


OPTIMIZERS = {
    "plain": sgd,
    "momentum": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, weight_decay=1e-3),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-3),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3, amsgrad=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-3),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-3, momentum=0.5, centered=True),
    "nadam": lambda p: torch.optim.NAdam(p, lr=1e-3),
    "adadelta": lambda p: torch.optim.Adadelta(p, lr=1e-2),
    "asgd": lambda p: torch.optim.ASGD(p, lr=1e-3),
    "adamax": lambda p: torch.optim.Adamax(p, lr=1e-3),
}


def loss_of(model, seed):
    """A loss that reaches every output, on a batch of its own seed."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(6, 3, 4, 4, generator=generator, dtype=torch.float64)
    output = model(x)
    logits, side = (output["logits"], output["more"][0]) if isinstance(output, dict) else (output, output[:, :0])
    return nn.functional.cross_entropy(logits, torch.arange(6) % 5) + side.square().sum()


def train(model, optimizer, seeds):
    for seed in seeds:
        optimizer.zero_grad()
        loss_of(model, seed).backward()
        optimizer.step()


def removed(plan, name, tensor):
    """Zero the entries of a tensor that a plan removes."""
    for dim, kept in plan.dims(name).items():
        gone = [i for i in range(tensor.shape[dim]) if i not in kept]
        tensor.index_fill_(dim, torch.tensor(gone), 0)


@pytest.mark.parametrize("kind", [Tied, Coupled], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_pruning_follows_the_masked_trajectory(kind, make):
    """k steps, prune weights and moments, k steps: at every step the masked dense run without its silent units."""
    graph = sct.trace(made(kind).double(), images().double())
    plan = sct.Plan.from_keep(graph, {g.name: range(1, g.units, 2) for g in graph.groups})
    dense = made(kind).double().train()
    if kind is Tied:  # a bias before a norm has rounding for a gradient, which some optimizers scale up to a step
        dense.stem.bias.requires_grad_(False)
    optimizer = make(dense.parameters())
    train(dense, optimizer, range(STEPS))
    pruned, again = copy.deepcopy((dense, optimizer))
    with torch.no_grad():
        for name, tensor in Network.of(dense).named.items():
            removed(plan, name, tensor)
        for name, parameter in dense.named_parameters():
            for moment in optimizer.state[parameter].values():
                if isinstance(moment, torch.Tensor) and moment.shape == parameter.shape:
                    removed(plan, name, moment)
    sct.apply(plan, pruned, again)

    assert pruned.stem.weight in again.state or not again.state
    for step in range(STEPS, 2 * STEPS):
        train(dense, optimizer, [step])
        train(pruned, again, [step])
        masked = plan.slice(dict(dense.named_parameters()))
        for name, parameter in pruned.named_parameters():
            torch.testing.assert_close(parameter, masked[name], rtol=1e-9, atol=1e-12, msg=f"{name} at step {step}")


def test_moments_are_cut_in_place_of_the_old():
    """State stays under the same Parameter objects, every moment in its parameter's new shape, counts as they were."""
    graph = sct.trace(made(Tied).double(), images().double())
    plan = sct.Plan.from_keep(graph, {g.name: range(1, g.units, 2) for g in graph.groups})
    model = made(Tied).double()
    optimizer = torch.optim.Adam(model.parameters())
    train(model, optimizer, range(2))
    members = [id(p) for p in optimizer.param_groups[0]["params"]]
    before = {name: copy.deepcopy(optimizer.state[p]) for name, p in model.named_parameters()}
    sct.apply(plan, model, optimizer)

    assert members == [id(p) for p in optimizer.param_groups[0]["params"]]
    for name, p in model.named_parameters():
        state = optimizer.state[p]
        assert torch.equal(state["exp_avg"], plan.slice({name: before[name]["exp_avg"]})[name])
        assert state["step"] == before[name]["step"] == 2


class Factored(torch.optim.Optimizer):
    """Keeps means over columns and over rows, without the averaged dimension."""

    def __init__(self, params):
        super().__init__(params, {})

    def step(self, closure=None):
        for p in self.param_groups[0]["params"]:
            if p.grad is not None and p.dim() > 1:
                self.state[p] = {"row": p.grad.square().mean(-1), "col": p.grad.square().mean(-2)}


def pruned_with(make, model, example, keep):
    plan = sct.Plan.from_keep(sct.trace(model, example), keep)
    optimizer = make(model.parameters())
    model(example).sum().backward()
    optimizer.step()
    return sct.apply(plan, model, optimizer), optimizer


def test_factored_moments_are_cut_where_their_shape_tells_how():
    """Rows and columns of different lengths can be told apart; torch's Adafactor keeps the averaged dimension."""
    for make in (Factored, torch.optim.Adafactor):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
        small, optimizer = pruned_with(make, model, torch.randn(5, 3), {"0": [1, 4, 5]})
        shapes = {tuple(v.shape) for v in optimizer.state[small[0].weight].values() if v.numel() > 1}

        assert shapes <= {(3,), (3, 1), (1, 3)}
        small(torch.randn(5, 3)).sum().backward()
        optimizer.step()


def test_factored_moments_of_a_square_are_refused():
    """A mean over rows looks like a mean over columns: the parameter, the entry and the remedy are named."""
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))
    weight = model[0].weight.detach().clone()
    with pytest.raises(PlanError, match=r"Factored keeps 'row' of shape 6 for 0.weight \(6×6\).*Drop it before"):
        pruned_with(Factored, model, torch.randn(5, 6), {"0": [1, 4, 5]})

    assert torch.equal(weight, model[0].weight)


def test_a_flat_history_is_refused():
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    plan = sct.Plan.from_keep(sct.trace(model, torch.randn(5, 3)), {"0": [1]})
    optimizer = torch.optim.LBFGS(model.parameters())
    optimizer.step(lambda: model(torch.ones(5, 3)).square().sum())
    with pytest.raises(PlanError, match="one flat vector"):
        sct.apply(plan, model, optimizer)
    sct.apply(plan, model, torch.optim.LBFGS(model.parameters()))


def test_an_optimizer_of_another_model_is_refused():
    """The classic mistake: pruning a copy, and stepping the original."""
    model = made(Tied).double()
    plan = sct.Plan.from_keep(sct.trace(model, images().double()), {"stem": [0, 1]})
    with pytest.raises(PlanError, match="holds none of the parameters that the plan cuts"):
        sct.apply(plan, model, sgd(copy.deepcopy(model).parameters()))

    assert len(model.stem.weight) == 6


def test_several_and_wrapped_optimizers():
    """Pass all optimizers of a model in a list; a framework's wrapper is looked through; anything else is refused."""

    class Wrapper:
        def __init__(self, optimizer):
            self.optimizer = optimizer

    model = made(Tied).double()
    plan = sct.Plan.from_keep(sct.trace(made(Tied).double(), images().double()), {"stem": [0, 1]})
    first = torch.optim.Adam([*model.stem.parameters(), *model.norm.parameters()])
    second = torch.optim.SGD([*model.left.parameters(), *model.head.parameters()], lr=0.1, momentum=0.9)
    train(model, first, range(1))
    train(model, second, range(1))
    sct.apply(plan, model, [Wrapper(first), second])

    assert first.state[model.stem.weight]["exp_avg"].shape == (2, 3, 3, 3)
    assert second.state[model.left.weight]["momentum_buffer"].shape == (6, 2, 3, 3)
    with pytest.raises(InputError, match="str is not a torch optimizer"):
        sct.apply(sct.Plan.identity(sct.trace(made(Tied).double(), images().double())), made(Tied).double(), ["adam"])
