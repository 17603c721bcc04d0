"""Removal: exactly what the mask silences, nothing else touched, all of it or nothing."""

import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.laws.networks import Coupled, Tied, images, made
from torch import nn

import secateurs as sct
from secateurs.errors import InputError, ModelError, PlanError, ProofError, TraceError
from secateurs.network import Network
from secateurs.surgery.tensors import physical_order
from secateurs.surgery.transaction import Transaction

BOTH = pytest.mark.parametrize("kind", [Tied, Coupled], ids=lambda kind: kind.__name__)


def traced(kind):
    return sct.trace(made(kind), images())


def every_other(graph, first=1):
    return sct.Plan.from_keep(graph, {g.name: range(first % g.units, g.units, 2) for g in graph.groups})


def state(model):
    """Everything that surgery could touch: object, memory, contents, gradient and plain attributes."""
    tensors = {
        name: (id(t), t.data_ptr(), t.stride(), t.requires_grad, t.detach().clone(), t.grad)
        for name, t in Network.of(model).named.items()
    }
    plain = {
        path: {k: v for k, v in vars(module).items() if isinstance(v, bool | int | float | tuple | str)}
        for path, module in model.named_modules()
    }
    return tensors, plain


def same(before, after):
    (tensors, plain), (tensors_after, plain_after) = before, after
    assert plain == plain_after
    assert tensors.keys() == tensors_after.keys()
    for name, (*facts, contents, grad) in tensors.items():
        *facts_after, contents_after, grad_after = tensors_after[name]
        assert facts == facts_after, name
        assert torch.equal(contents, contents_after), name
        assert grad is grad_after, name


@BOTH
def test_keep_all_changes_no_bit(kind):
    """The identity plan leaves every object, address, stride and bit."""
    model = made(kind)
    before = state(model)
    plan = sct.Plan.identity(traced(kind))

    assert not plan.tensors
    assert sct.apply(plan, model) is model
    same(before, state(model))


@BOTH
@settings(max_examples=12)
@given(data=st.data())
def test_removal_equals_silence(kind, data):
    """Whatever is kept, the pruned network computes what the masked copy computes (float64, 1e-9)."""
    graph = traced(kind)
    keep = {g.name: data.draw(st.sets(st.integers(0, g.units - 1), min_size=1), label=g.name) for g in graph.groups}
    model = made(kind)
    checked = sct.verify(sct.Plan.from_keep(graph, keep), model, images(3))

    assert checked.passed, str(checked)
    assert {g.name for g in graph.groups if len(keep[g.name]) < g.units} == {g.name for g in checked.groups}


def test_the_mask_is_silent_and_the_model_untouched():
    """Every removed slice of the copy is zero, statistics included; all else is the model's, bit for bit."""
    model, graph = made(Coupled), traced(Coupled)
    before = state(model)
    plan = every_other(graph)
    masked = sct.mask(plan, model)

    same(before, state(model))
    for name, tensor in Network.of(masked).named.items():
        expected = Network.of(model).named[name].detach().clone()
        for dim, kept in plan.dims(name).items():
            gone = [i for i in range(expected.shape[dim]) if i not in kept]
            assert not tensor.index_select(dim, torch.tensor(gone)).any(), name
            expected.index_fill_(dim, torch.tensor(gone), 0)
        assert torch.equal(tensor, expected), name
    assert not masked.norm.running_var[[0, 2, 4, 6]].any()


@BOTH
def test_every_object_stays(kind):
    """Parameters, their flags, gradients' places, hooks and modes survive; attributes and shapes follow."""
    model, plan = made(kind).train(), every_other(traced(kind))
    model.norm.eval()
    model.head.weight.requires_grad_(False)
    calls = []
    model.stem.register_forward_hook(lambda *_: calls.append("hook"))
    before = {name: (id(t), t.requires_grad) for name, t in Network.of(model).named.items()}
    sct.apply(plan, model)
    calls.clear()  # the proof runs the forward, hooks and all
    model(images())

    assert before == {name: (id(t), t.requires_grad) for name, t in Network.of(model).named.items()}
    assert plan.signature_after() == {name: tuple(t.shape) for name, t in Network.of(model).named.items()}
    assert calls == ["hook"]
    assert model.training
    assert not model.norm.training
    assert (model.stem.out_channels, model.norm.num_features) == (len(model.stem.weight), len(model.stem.weight))
    assert model.head.in_features == model.head.weight.shape[1]


def test_groups_follow():
    """Depthwise and grouped convolutions count their groups anew."""
    model = sct.apply(every_other(traced(Coupled)), made(Coupled))

    assert (model.depth.groups, model.depth.in_channels, model.depth.out_channels) == (6, 6, 6)
    assert model.grouped.in_channels == model.mix.out_channels == model.grouped.weight.shape[1] * model.grouped.groups


def test_ties_stay_ties():
    """A tied tensor is cut once and stays one object."""
    model = sct.apply(every_other(traced(Tied)), made(Tied))

    assert model.left.weight is model.right.weight
    assert model.left.weight.shape == (3, 3, 3, 3)


def test_memory_format_stays():
    """A network in channels_last is in channels_last afterwards, whichever dimension was cut."""
    model = made(Coupled).to(memory_format=torch.channels_last)
    orders = {name: physical_order(t) for name, t in Network.of(model).named.items()}
    sct.apply(every_other(traced(Coupled)), model)

    assert orders == {name: physical_order(t) for name, t in Network.of(model).named.items()}
    assert model.merge.weight.is_contiguous(memory_format=torch.channels_last)


def test_training_goes_on_beside_an_old_loss():
    """A loss of the dense network may stay alive: gradients are cut with the weights, and the next backward runs."""
    model = made(Coupled)
    loss = model(images())["logits"].square().sum()
    loss.backward()
    plan = every_other(traced(Coupled))
    dense = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    expected = plan.slice(dense)
    sct.apply(plan, model)
    for name, grad in expected.items():
        assert torch.equal(grad, model.get_parameter(name).grad), name
    model.zero_grad()
    model(images())["logits"].square().sum().backward()

    assert loss.grad_fn is not None
    assert model.stem.weight.grad.shape == model.stem.weight.shape


@pytest.mark.parametrize("step", [0, 1, 7, "last", "attribute"])
def test_a_failure_while_writing_undoes_all(step, monkeypatch):
    """Memory runs out or the user interrupts between two writes: the model and its optimizer are as before."""
    model, plan = made(Coupled), every_other(traced(Coupled))
    optimizer = torch.optim.Adam(model.parameters())
    model(images())["logits"].sum().backward()
    optimizer.step()
    before, moments = state(model), copy.deepcopy(optimizer.state_dict())
    count, method = itertools.count(), "assign" if step == "attribute" else "put" if step == "last" else "swap"
    original = getattr(Transaction, method)

    def fail(self, *args):
        original(self, *args)
        if not isinstance(step, int) or next(count) == step:
            raise KeyboardInterrupt

    monkeypatch.setattr(Transaction, method, fail)
    with pytest.raises(KeyboardInterrupt):
        sct.apply(plan, model, optimizer)
    monkeypatch.undo()

    same(before, state(model))
    for now, then in zip(optimizer.state_dict()["state"].values(), moments["state"].values(), strict=True):
        assert all(torch.equal(now[key], then[key]) for key in then)
    sct.apply(plan, model, optimizer)


class Flipped(Tied):
    """The tensors of `Tied`, used in another order."""

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x))).flip(1)
        return self.head((torch.relu(self.left(x)) + self.right(x)).flatten(1))


def test_a_plan_that_cannot_be_proved_harms_nothing():
    """Names and shapes fit, but this forward reads the channels backwards: refused before the first write."""
    model, plan = made(Flipped), sct.Plan.from_keep(traced(Tied), {"stem": [0, 1, 2]})
    before = state(model)
    with pytest.raises(ProofError, match="nothing was changed"):
        sct.apply(plan, model)

    same(before, state(model))
    assert not sct.verify(plan, model, images()).passed


def test_another_network_is_refused_by_name():
    """The first tensors that differ are named, and a plan is not applied twice."""
    plan = every_other(traced(Tied))
    with pytest.raises(PlanError, match=r"missing: stem.bias, left.weight"):
        sct.apply(plan, made(Coupled))
    wider = made(Tied)
    wider.stem = nn.Conv2d(4, 6, 3)
    with pytest.raises(PlanError, match=r"stem.weight is 6×4×3×3, not 6×3×3×3"):
        sct.apply(plan, wider)
    with pytest.raises(PlanError, match=r"inside a wrapper: pass model.module"):
        sct.apply(plan, torch.optim.swa_utils.AveragedModel(made(Tied)))
    with pytest.raises(PlanError, match="already has the shapes"):
        sct.apply(plan, sct.apply(plan, made(Tied)))


def test_a_new_tie_is_refused():
    """Two tensors of the plan that are one in the model would be cut twice."""
    model, graph = made(Tied), traced(Tied)
    model.stem.bias = model.norm.bias
    with pytest.raises(PlanError, match=r"stem.bias and norm.bias are one tensor") as caught:
        sct.apply(sct.Plan.from_json(half(every_other(graph)).to_json()), model)

    assert isinstance(caught.value, PlanError)


def half(plan):
    """A plan that cuts one of two like tensors only."""
    return sct.Plan(plan.keep, plan.units, {"stem.bias": plan.tensors["stem.bias"]}, plan.aliases, {}, plan.signature)


def test_shared_memory_is_refused_naming_both():
    model, plan = made(Tied), every_other(traced(Tied))
    model.norm.bias.data = model.stem.bias.data
    with pytest.raises(ModelError, match=r"stem.bias and norm.bias are two tensors in one piece of memory"):
        sct.apply(plan, model)


def test_a_tensor_with_a_history_is_refused():
    """A model in the middle of autograd is not cut."""
    model, plan = made(Tied), every_other(traced(Tied))
    model.norm.running_mean = model.norm.running_mean + model.norm.bias
    with pytest.raises(ModelError, match=r"norm.running_mean is the result of a differentiable operation"):
        sct.apply(plan, model)


def test_a_shard_is_refused():
    """A tensor that is not plain memory cannot be cut by index."""

    class Shard(torch.Tensor):
        pass

    model, plan = made(Tied), every_other(traced(Tied))
    model.stem.weight = nn.Parameter(model.stem.weight.detach().as_subclass(Shard))
    with pytest.raises(ModelError, match=r"stem.weight is a Shard, not a plain tensor"):
        sct.apply(plan, model)


def test_a_vanished_attribute_is_refused():
    """A plan that sets an attribute which the class no longer has is not half applied."""
    plan = every_other(traced(Tied))
    plan = sct.Plan(plan.keep, plan.units, plan.tensors, plan.aliases, {"stem:heads": 3}, plan.signature)
    model = made(Tied)
    before = state(model)
    with pytest.raises(PlanError, match="sets heads of module 'stem' to 3"):
        sct.apply(plan, model)
    same(before, state(model))


def test_a_wrapper_is_taken_off():
    """The model inside is cut and returned."""
    model = made(Tied)

    assert sct.apply(every_other(traced(Tied)), nn.DataParallel(model)) is model
    assert model.stem.out_channels == 3


def test_surgery_under_inference_mode_leaves_a_trainable_model():
    """Weights, gradients and moments that are cut there can be written outside."""
    model, plan = made(Tied), every_other(traced(Tied))
    optimizer = torch.optim.Adam(model.parameters())
    model(images()).sum().backward()
    optimizer.step()
    with torch.inference_mode():
        sct.apply(plan, model, optimizer)
    model(images()).sum().backward()
    optimizer.step()

    assert not any(p.is_inference() for p in model.parameters())


class Noisy(nn.Module):
    """Draws at random in every forward, in eval mode too."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.second(torch.relu(self.first(x))) + torch.randn(len(x), 2, dtype=x.dtype)


def test_verify_draws_the_same_noise_for_both():
    model = Noisy()
    plan = every_other(sct.trace(model, torch.randn(3, 4)))

    assert sct.verify(plan, model).passed


def masked_by_torch(module):
    return nn.utils.prune.random_unstructured(module, "weight", 0.3)


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm`:FutureWarning")
@pytest.mark.parametrize(
    "wrap",
    [
        nn.utils.parametrizations.weight_norm,
        nn.utils.parametrizations.spectral_norm,
        nn.utils.weight_norm,
        nn.utils.spectral_norm,
        masked_by_torch,
    ],
    ids=["weight norm", "spectral norm", "old weight norm", "old spectral norm", "masked"],
)
def test_computed_weights(wrap):
    """Weights that are computed from others are cut where they come from, and the module describes itself truly."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), wrap(nn.Conv2d(4, 6, 1)), nn.ReLU(), nn.Conv2d(6, 2, 1)).eval()
    plan = sct.Plan.from_keep(sct.trace(model, images()), {"2": [1, 4]})
    checked = sct.verify(plan, model, images(3))

    assert checked.passed, str(checked)
    assert sct.mask(plan, model)(images()).isfinite().all()
    sct.apply(plan, model)
    assert (model[2].out_channels, model[2].weight.shape[0]) == (2, 2)
    assert sct.Plan.from_json(plan.to_json()) == plan


def test_verify_touches_nothing_and_needs_no_inputs():
    """Without inputs, those of the trace are used; mode, weights and random state are as before."""
    model, graph = made(Coupled).train(), traced(Coupled)
    before, random = state(model), torch.get_rng_state()
    checked = sct.verify(every_other(graph), model)

    same(before, state(model))
    assert torch.equal(random, torch.get_rng_state())
    assert checked.passed
    assert checked.error < 1e-12
    assert str(checked).startswith("removal equals silence")
    assert sct.verify(every_other(graph), model, dtype=torch.float32, per_group=False).groups == ()


def test_verify_sees_a_wrong_plan():
    """A plan that cuts a reader at other channels than its writer is found out."""
    plan = every_other(traced(Tied))
    other = {name: {0: (0, 2, 4)} for name in plan.tensors if name.startswith("stem.")}
    tensors = {**plan.tensors, **other}
    wrong = sct.Plan(plan.keep, plan.units, tensors, plan.aliases, plan.attributes, plan.signature)
    checked = sct.verify(wrong, made(Tied), images())

    assert checked.error > 1e-3
    assert "is NOT silence" in str(checked)
    with pytest.raises(PlanError, match="the pruned network is not the masked one"):
        checked.raise_if_failed()


def test_verify_lists_what_is_inexact():
    """A norm over the units makes removal another thing than silence: reported with its reason, and no failure."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    graph = sct.trace(model, torch.randn(3, 4))
    checked = sct.verify(every_other(graph), model)
    inexact = [g for g in checked.groups if not g.exact]

    assert [g.name for g in inexact] == ["0"]
    assert inexact[0].because
    assert checked.deviation > 1e-6
    assert checked.error < 1e-12
    assert checked.passed
    assert "inexact: " in str(checked)


def test_verify_says_what_it_lacks():
    plan = sct.Plan.from_json(every_other(traced(Tied)).to_json())
    with pytest.raises(InputError, match="no inputs to verify on"):
        sct.verify(plan, made(Tied))
    with pytest.raises(TraceError, match="did not run"):
        sct.verify(plan, made(Tied), torch.zeros(1, 2, 4, 4))


def test_a_cached_activation_does_not_stop_the_copy():
    """A module that keeps its last feature map, with its history, can be masked and pruned."""
    model, plan = made(Tied), every_other(traced(Tied))
    model.last = model.stem(images())

    assert not sct.mask(plan, model).last.requires_grad
    sct.apply(plan, model)
