"""Bad input is refused before any work, in words that say what is wrong and what to do; or it is quietly unwrapped."""

import copy
import warnings
from typing import ClassVar

import pytest
import torch
import torch.distributed as dist
from tests.laws.networks import Tied, images, made
from torch import nn

import secateurs as sct
from secateurs.errors import BudgetError, EvidenceError, InputError, ModelError, PlanError, RecipeError, TraceError

HALF = sct.Budget(macs=0.5)
FIRST = "stem"


def poisoned(name, value):
    model = made(Tied)
    with torch.no_grad():
        model.state_dict()[name].view(-1)[2] = value
    return model


def quietly(make):
    """Both go through interfaces of PyTorch that say they are on their way out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()


def quantised():
    return quietly(lambda: torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(4, 4)), {nn.Linear}))


def scripted():
    return quietly(lambda: torch.jit.script(nn.Sequential(nn.Linear(4, 4))))


MODELS = {
    "a function": (lambda: torch.relu, "torch.nn.Module"),
    "a class": (lambda: Tied, "torch.nn.Module"),
    "a state dict": (lambda: made(Tied).state_dict(), "torch.nn.Module"),
    "nothing": (lambda: None, "torch.nn.Module"),
    "scripted": (scripted, "TorchScript"),
    "quantised": (quantised, "quantised"),
    "lazy": (lambda: nn.Sequential(nn.LazyConv2d(4, 3), nn.Conv2d(4, 4, 3)), "lazy"),
    "on meta": (lambda: made(Tied).to("meta"), "no values"),
    "NaN weight": (lambda: poisoned("left.weight", float("nan")), r"left.weight holds 1 values that are NaN"),
    "infinite bias": (lambda: poisoned("head.bias", float("inf")), "head.bias holds 1 values"),
    "NaN statistic": (lambda: poisoned("norm.running_var", float("nan")), "norm.running_var holds 1 values"),
}


@pytest.mark.parametrize(("make", "match"), MODELS.values(), ids=MODELS)
def test_a_model_that_cannot_be_pruned_is_refused(make, match):
    """Before the trace, before the data is touched."""

    def data():
        raise AssertionError("the data was read")
        yield

    with pytest.raises(ModelError, match=match):
        sct.prune(make(), images(), method="taylor", budget=HALF, data=data())


VERBS = {
    "plan": lambda model, plan: sct.plan(plan.graph, model, criterion="l2", budget=HALF),
    "verify": lambda model, plan: sct.verify(plan, model, images()),
    "Session": lambda model, plan: sct.Session(
        model, images(), method="greg1", budget=HALF, steps_per_epoch=9, epochs=4
    ),
    "recover": lambda model, plan: sct.recover(sct.apply(plan, made(Tied)), model, [images()], plan=plan),
    "synthesise": lambda model, plan: sct.synthesise(model, images(), images=2),
}


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_weights_that_are_no_numbers_are_refused_by_every_verb_that_computes(verb):
    """What is computed with them would be no number either, and comparisons of NaN with NaN would pass."""
    plan = sct.prune(made(Tied), images(), method="l2", budget=HALF).plan

    with pytest.raises(ModelError, match=r"left.weight holds 1 values that are NaN"):
        verb(poisoned("left.weight", float("nan")), plan)


def test_masks_of_minus_infinity_are_no_weights():
    """A causal mask among the buffers is as it should be."""
    model = made(Tied)
    model.register_buffer("causal", torch.full((2, 2), -torch.inf))

    assert sct.prune(model, images(), method="l1", budget=HALF).model.causal.isinf().all()


def in_parallel(model):
    return nn.DataParallel(model)


def distributed(model):
    return nn.parallel.DistributedDataParallel(model)


def compiled(model):
    return torch.compile(model, backend="eager")


@pytest.fixture
def process_group(tmp_path):
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("wrap", [in_parallel, distributed, compiled])
def test_a_wrapper_is_taken_off(wrap, process_group):
    """The result is the pruned model itself; the wrapped one is as it was."""
    model = made(Tied)
    before = copy.deepcopy(model.state_dict())
    result = sct.prune(wrap(model), images(), method="l1", budget=HALF)

    assert type(result.model) is Tied
    assert result.model.stem.out_channels < 6
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_the_argument_is_untouched():
    """Weights, mode, gradients and objects of the argument are as before; the result has its mode."""
    model = made(Tied).train()
    model.norm.eval()
    model(images()).sum().backward()
    before = {name: (id(p), p.detach().clone(), p.grad, p.grad.clone()) for name, p in model.named_parameters()}
    result = sct.prune(model, images(), method="magnitude", budget=HALF)

    assert result.cost_after.macs <= result.cost_before.macs // 2
    assert result.cost_before == result.graph.cost()
    assert result.cost_after == result.graph.cost(result.plan)
    assert (result.model.training, result.model.norm.training) == (True, False)
    for name, p in model.named_parameters():
        identity, weight, grad, values = before[name]
        assert id(p) == identity
        assert torch.equal(p, weight)
        assert p.grad is grad
        assert torch.equal(grad, values)


@pytest.mark.parametrize(
    ("inputs", "error"),
    [
        (None, InputError),
        ("image", InputError),
        ((), InputError),
        ({}, InputError),
        ({"wrong": images()}, TraceError),
        ((images(), images()), TraceError),
        (torch.zeros(1, 4, 4, 4), TraceError),
        (torch.zeros(1, 3, 9, 9), TraceError),
    ],
    ids=["none", "text", "no arguments", "no keywords", "a wrong name", "one too many", "channels", "size"],
)
def test_inputs_that_do_not_run_are_refused(inputs, error):
    with pytest.raises(error):
        sct.prune(made(Tied), inputs, method="l1", budget=HALF)


@pytest.mark.parametrize("budget", [0.5, None, "half", {"macs": 0.5}], ids=["number", "none", "text", "dict"])
def test_a_budget_that_is_none_is_refused(budget):
    with pytest.raises(BudgetError, match=r"Budget\(macs=0.5\)"):
        sct.prune(made(Tied), images(), method="l1", budget=budget)
    graph = sct.trace(made(Tied), images())
    with pytest.raises(BudgetError, match=r"Budget\(macs=0.5\)"):
        sct.plan(graph, made(Tied), criterion=sct.criteria.Magnitude(), budget=budget)


def test_an_impossible_budget_is_refused():
    with pytest.raises(BudgetError):
        sct.prune(made(Tied), images(), method="l1", budget=sct.Budget(macs=1e-6))


@pytest.mark.parametrize(
    ("method", "match"),
    [
        ("magnitud", "did you mean 'magnitude'"),
        ("Magnitude", "did you mean 'magnitude'"),
        ("", "Known: "),
        (sct.criteria.Magnitude, r"Write Magnitude\(\)"),
        (None, "is no method"),
        (3, "is no method"),
        (HALF, "is no method"),
        ("greg1", "prunes while the model trains"),
        (sct.methods.SFP(), "prunes while the model trains"),
    ],
    ids=["misspelt", "class name", "empty", "class", "none", "number", "another value", "training", "training value"],
)
def test_an_unknown_method_is_refused(method, match):
    """With the near names, before the trace."""
    with pytest.raises(RecipeError, match=match):
        sct.prune(made(Tied), images(), method=method, budget=HALF)


def test_the_seed_reaches_what_draws_at_random():
    results = [sct.prune(made(Tied), images(), method="random", budget=HALF, seed=s).plan.keep for s in (1, 1, 2, 3)]

    assert results[0] == results[1]
    assert results[0] != results[2] or results[0] != results[3]


def test_a_criterion_without_its_data_is_refused():
    with pytest.raises(EvidenceError, match="data"):
        sct.prune(made(Tied), images(), method="taylor", budget=HALF)


def test_plan_refuses_methods_and_other_models():
    """`plan` takes a criterion, and a graph of this very model."""
    graph = sct.trace(made(Tied), images())
    with pytest.raises(InputError, match=r"is no criterion.*secateurs\.prune"):
        sct.plan(graph, made(Tied), criterion="epruner", budget=HALF)
    with pytest.raises(RecipeError, match="did you mean 'l2' or 'l1'"):
        sct.plan(graph, made(Tied), criterion="l3", budget=HALF)
    with pytest.raises(PlanError, match="made for another network"):
        sct.plan(graph, nn.Sequential(nn.Conv2d(3, 4, 3)), criterion=sct.criteria.Magnitude(), budget=HALF)


def test_protected_modules_stay_whole():
    result = sct.prune(made(Tied), images(), method="l1", budget=sct.Budget(macs=0.9), protect=[FIRST])

    assert result.model.stem.out_channels == 6
    assert result.model.left.out_channels < 6
    with pytest.raises(InputError, match="no module"):
        sct.prune(made(Tied), images(), method="l1", budget=HALF, protect=["stam"])


def test_a_method_chooses_by_itself():
    """A method gets the graph, the model and the budget, and may change where the result starts from."""
    seen = {}

    class First:
        reference = "nobody"
        needs: ClassVar = {}

        def finish(self, pruned, dense, plan, *, seed):
            pruned.head.bias.data.copy_(2 * dense.head.bias.data)

        def select(self, graph, model, budget, *, data, loss, seed):
            seen.update(budget=budget, data=data, loss=loss, seed=seed)
            return {g.name: range(2) for g in graph.groups}

    result = sct.prune(made(Tied), images(), method=First(), budget=HALF, data=[1], seed=7)

    assert seen == {"budget": HALF, "data": [1], "loss": None, "seed": 7}
    assert set(result.plan.keep.values()) == {(0, 1)}
    assert torch.equal(result.model.head.bias, 2 * made(Tied).head.bias)
    assert sct.prune(made(Tied), images(), method=First()).plan == result.plan


def test_the_public_names_are_there():
    """`__all__` is sorted, and every name of it can be had."""
    assert sorted(sct.__all__) == list(sct.__all__)
    for name in sct.__all__:
        assert getattr(sct, name) is not None, name
    assert set(sct.__all__) <= set(dir(sct))
    with pytest.raises(AttributeError, match="no attribute 'pruner'"):
        _ = sct.pruner
