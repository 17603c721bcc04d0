"""What goes wrong at one operator costs its own units; what nothing can be learnt from is refused, with the remedy."""

import numpy as np
import pytest
import torch
from tests.zoo.laws import random_keep
from tests.zoo.micro import MICRO
from torch import nn

import secateurs as sct
from secateurs.errors import BudgetError, ModelError, TraceError
from secateurs.network import Network

X = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
FEW = {
    "batch_norm",
    "channel_shuffle",
    "concat_of_three",
    "conv_depthwise",
    "flatten_linear",
    "self_attention",
    "squeeze_excite",
}
assert {m.name for m in MICRO} >= FEW


def fails(labels, operator):
    """A rule with a defect."""
    raise ZeroDivisionError("integer division or modulo by zero")


def operators(subject):
    """Every operator that a network runs."""
    source = subject.graph._source
    return sorted({op.func for op in source.tape(Network.of(subject.build())).ops}, key=str)


@pytest.mark.parametrize(
    "micro",
    [m if m.name in FEW else pytest.param(m, marks=pytest.mark.slow) for m in MICRO],
    ids=lambda micro: micro.name,
)
def test_a_rule_that_fails_costs_the_units_at_its_operator(micro):
    """Whichever rule raises: no error comes out of the trace, a note says so, and what is still found is right."""
    subject = micro.subject()
    for operator in operators(subject):
        graph = sct.trace(subject.build(), subject.inputs, rules={operator: fails})
        assert any(str(operator) in note and "ZeroDivisionError" in note for note in graph.notes), operator
        if graph.groups:
            keep = random_keep(graph, np.random.default_rng(0), exact=True)
            check = sct.verify(sct.Plan.from_keep(graph, keep), subject.build(), per_group=False)
            assert check.passed, (operator, str(check))


def test_the_others_are_still_pruned():
    """Only the units that pass the operator are protected, and the reason names its module."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sigmoid(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3))
    graph = sct.trace(model, X, rules={torch.ops.aten.sigmoid.default: fails})

    assert [g.name for g in graph.groups] == ["2"]
    assert any("its rule fails (ZeroDivisionError" in p.reason and p.tensor == "0.weight" for p in graph.protected)


class Around(nn.Module):
    """Holds a network, and does not run it."""

    def __init__(self, model):
        super().__init__()
        self.model = model


class Predictor(Around):
    """Calls something else, such as a copy that it made for inference."""

    def __call__(self, x):
        return torch.zeros(1)


class Unfit(Predictor):
    """Calls something that does not take tensors."""

    def __call__(self, x):
        raise TypeError("a path or an image is wanted")


class Pipeline:
    """No module, and holds one."""

    def __init__(self, model):
        self.model = model


@pytest.mark.parametrize("wrapper", [Around, Predictor, Unfit, Pipeline])
@pytest.mark.parametrize("verb", ["trace", "prune"])
def test_a_wrapper_is_refused_with_the_way_to_its_network(wrapper, verb):
    """The sentence names the attribute to pass instead."""
    wrapped = wrapper(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)))
    run = {
        "trace": lambda: sct.trace(wrapped, X),
        "prune": lambda: sct.prune(wrapped, X, method="magnitude", budget=sct.Budget(macs=0.5)),
    }[verb]

    with pytest.raises((ModelError, TraceError), match=r"ass the network inside it.*'model' \(a Sequential\)"):
        run()


def test_a_class_in_place_of_a_model_is_told_so():
    """Forgotten brackets."""
    with pytest.raises(ModelError, match="not the class Linear"):
        sct.trace(nn.Linear, X)


class Outside(nn.Module):
    """Hands its result out in a way that nothing can be followed through."""

    def __init__(self, convert):
        super().__init__()
        self.conv, self.out, self.convert = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3), convert

    def forward(self, x):
        return self.convert(self.out(self.conv(x)))


class Slotted:
    """No dictionary."""

    __slots__ = ("maps",)

    def __init__(self, maps):
        self.maps = maps


@pytest.mark.parametrize(
    "convert",
    [lambda y: y.detach().numpy(), lambda y: y.sum().item(), lambda y: None, Slotted],
    ids=["numpy", "item", "nothing", "slots"],
)
def test_an_output_without_a_tensor_is_refused(convert):
    """Else its channels would be pruned away silently."""
    with pytest.raises(TraceError, match="holds no tensor"):
        sct.trace(Outside(convert), X)


def test_inference_mode_hides_nothing():
    """A trace, and a model made, under inference mode finds what it finds without."""
    torch.manual_seed(0)
    plain = sct.trace(Outside(lambda y: y), X)
    with torch.inference_mode():
        found = sct.trace(Outside(lambda y: y), X.clone())

    assert repr(found.groups) == repr(plain.groups) != "()"
    assert found.cost() == plain.cost()


def test_a_part_of_nothing_is_no_budget():
    """A network that costs no MACs meets any budget of them by accident."""
    with pytest.raises(BudgetError, match=r"asks for a part of nothing.*costs 0 MACs"):
        sct.prune(nn.Sequential(nn.PReLU(4)), torch.ones(1, 4), method="magnitude", budget=sct.Budget(macs=0.5))


class Spectrum(nn.Module):
    """An operator without a rule protects what goes in, and three channels go out."""

    def __init__(self):
        super().__init__()
        self.wide, self.narrow, self.out = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 8, 1), nn.Conv2d(8, 3, 1)

    def forward(self, x):
        return self.out(self.narrow(torch.fft.fft(self.wide(x), dim=1).real))


def test_a_budget_out_of_reach_names_the_largest_reason():
    """How many channels it protects, the operator, its module and the source line."""
    with pytest.raises(
        BudgetError, match=r"32 channels \(wide\.weight\) are never removed: .*_fft_r2c.*test_blame\.py:\d+"
    ):
        sct.prune(Spectrum(), X, method="magnitude", budget=sct.Budget(macs=0.05))


class Writes(nn.Module):
    """Writes into what it is given."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)

    def forward(self, maps):
        x = maps.pop()
        y = self.b(self.a(x))
        x.zero_()
        return y


def test_verify_gives_every_run_inputs_of_its_own():
    """A model that empties its list of inputs, and zeroes them, is not taken for a wrong plan."""
    model, maps = Writes().eval(), [X.clone()]
    graph = sct.trace(model, (maps,))
    plan = sct.Plan.from_keep(graph, {"a": [0, 2, 5]})

    assert sct.verify(plan, model, (maps,)).passed
    assert len(maps) == 1
    assert torch.equal(maps[0], X)
