"""Evidence is what it says, costs no more than one pass over the data, and leaves the model exactly as it was."""

import copy
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from secateurs.errors import EvidenceError, InputError, ModelError
from secateurs.evidence import Activations, GateGradients, Gradients, Reads, Weights, Writes, observe
from secateurs.graph import trace
from secateurs.graph.groups import Site


class Collect:
    """An accumulator that remembers everything, which no real one may."""

    def __init__(self, group, sites):
        self.group, self.sites, self.seen = group, sites, []

    def update(self, values):
        self.seen.append(values.clone())

    def result(self):
        return torch.cat(self.seen)


class Shapes(Collect):
    """An accumulator of shapes."""

    def update(self, values):
        self.seen.append(tuple(values.shape))

    def result(self):
        return self.seen


class Stream(nn.Module):
    """A residual stream with two writers and two readers, ReLU in place, a norm, a flattened map."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(2, 4, 3, padding=1)
        self.b = nn.Conv2d(4, 3, 1)
        self.c = nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(4 * 9, 5)

    def forward(self, x):
        x = self.relu(self.a(x))
        x = self.norm(x + self.c(self.relu(self.b(x))))
        return self.fc(self.drop(x).flatten(1))


def make(kind=Stream, shape=(2, 3, 3), classes=5, seed=0):
    """A float64 network in train mode, its graph, and two batches of unequal size."""
    torch.manual_seed(seed)
    model = kind().double().train()
    graph = trace(model, torch.zeros(2, *shape, dtype=torch.float64))
    x, y = torch.randn(7, *shape, dtype=torch.float64), torch.randint(classes, (7,))
    return model, graph, [(x[:4], y[:4]), (x[4:], y[4:])]


def joined(data):
    return torch.cat([x for x, _ in data]), torch.cat([y for _, y in data])


def evaluated(model):
    return copy.deepcopy(model).eval()


ALL = (Weights, Gradients, Activations(Collect), GateGradients(Collect), GateGradients(Collect, at=Reads()))


# ---- purity ----


def snapshot(model):
    """Everything about a model that must not change."""
    return (
        {name: tensor.clone() for name, tensor in model.state_dict(keep_vars=False).items()},
        {
            name: (id(p), p.requires_grad, None if p.grad is None else p.grad.clone())
            for name, p in model.named_parameters()
        },
        {name: id(b) for name, b in model.named_buffers()},
        [
            (m.training, len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
            for m in model.modules()
        ],
        (torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()),  # noqa: NPY002
        (torch.is_grad_enabled(), torch.backends.mha.get_fastpath_enabled()),
    )


def same(a, b):
    return all(
        torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y for x, y in zip(leaves(a), leaves(b), strict=True)
    )


def leaves(tree):
    if isinstance(tree, dict):
        tree = list(tree.items())
    if isinstance(tree, list | tuple):
        return [leaf for part in tree for leaf in leaves(part)]
    return [tree]


class Rude(Stream):
    """Writes to a buffer in forward, in eval mode too; has hooks, a frozen weight, a gradient, mixed modes."""

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(1))
        self.a.register_forward_hook(lambda module, args, output: None)
        self.b.weight.requires_grad_(False)
        self.norm.eval()

    def forward(self, x):
        self.count += 1
        self.count = self.count + 1
        return super().forward(x) + 0 * torch.rand(1, dtype=x.dtype) * self.count.to(x)


def noisy(data):
    """A loader that uses every global generator."""
    for x, y in data:
        torch.rand(1), np.random.rand(), random.random()  # noqa: NPY002
        yield x, y


@pytest.mark.parametrize("broken", [False, True])
def test_the_model_is_left_exactly_as_it_was(broken):
    """Values, identities, gradients, modes, hooks, buffers, generators: after success, and after failure."""
    model, graph, data = make(Rude)
    model.norm.eval()
    model.a.weight.grad = torch.ones_like(model.a.weight)
    before = snapshot(model)

    if broken:
        with pytest.raises(EvidenceError, match="did not run on batch 1"):
            observe(graph, model, ALL, data=noisy([data[0], (data[1][0][:, :1], data[1][1])]))
    else:
        observe(graph, model, ALL, data=noisy(data))

    assert same(snapshot(model), before)


def test_frozen_models_are_measured_like_any_other():
    """Evidence does not depend on `requires_grad`, nor on an ambient no_grad."""
    model, graph, data = make()
    free = observe(graph, model, ALL, data=data)
    model.requires_grad_(False)
    with torch.no_grad():
        frozen = observe(graph, model, ALL, data=data)

    for name, grad in free[Gradients].tensors.items():
        torch.testing.assert_close(frozen[Gradients].tensors[name], grad)
    for need in ALL[2:]:
        assert all(torch.equal(free[need][name], frozen[need][name]) for name in free[need])


def test_gates_alone_take_no_weight_gradients():
    """Asking for less computes less, and gives the same."""
    model, graph, data = make()
    together = observe(graph, model, ALL, data=data)
    alone = observe(graph, model, [ALL[3]], data=data)

    for name, z in alone[ALL[3]].items():
        torch.testing.assert_close(z, together[ALL[3]][name])


def test_only_what_is_needed_is_computed():
    """Weights read no data; activations take no gradient, so targets may be missing."""
    model, graph, data = make()

    def refuse():
        yield pytest.fail("weights need no data")

    assert set(observe(graph, model, [Weights], data=refuse()).found) == {Weights}
    found = observe(graph, model, [Activations(Shapes)], data=[x for x, _ in data])
    assert found[Activations(Shapes)]["b"] == [(4, 3, 9), (3, 3, 9)]


# ---- what it says ----


def test_weights_are_views_by_canonical_name():
    """No copies; one name for tied tensors; buffers told apart."""

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
            self.second.weight = self.first.weight
            self.norm = nn.BatchNorm1d(4)

        def forward(self, x):
            return self.norm(self.second(self.first(x)))

    model, graph, _ = make(Tied, shape=(4,), classes=4)
    weights = observe(graph, model, [Weights])[Weights]

    assert "second.weight" not in weights.tensors
    assert weights.tensors["first.weight"].data_ptr() == model.first.weight.data_ptr()
    assert weights.buffers == {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}
    assert weights.parameters == {"first.weight", "first.bias", "second.bias", "norm.weight", "norm.bias"}


def test_gradients_are_those_of_the_mean_loss_over_all_samples():
    """However the data is cut into batches."""
    model, graph, data = make()
    twin = evaluated(model)
    x, y = joined(data)
    F.cross_entropy(twin(x), y).backward()

    for batches in (data, [(x, y)], [(x[i : i + 1], y[i : i + 1]) for i in range(7)]):
        found = observe(graph, model, [Gradients], data=batches)[Gradients]

        assert found.samples == 7
        for name, parameter in twin.named_parameters():
            torch.testing.assert_close(found.tensors[name], parameter.grad)


def gate_reference(model, graph, data, policy):
    """Per-sample gate gradients by one leaf gate a unit, multiplied in at every chosen site, one sample at a time."""
    found = {}
    x, y = joined(data)
    for group in graph.groups:
        rows = []
        for n in range(len(x)):
            gate = torch.ones(group.units, dtype=x.dtype, requires_grad=True)
            twin = evaluated(model)
            for site in policy(graph.sites(group.name)):
                hook(twin.get_submodule(site.module), site, gate)
            loss = F.cross_entropy(twin(x[n : n + 1]), y[n : n + 1])
            rows.append(torch.autograd.grad(loss, gate)[0])
        found[group.name] = torch.stack(rows)
    return found


def hook(module, site, gate):
    def gated(x):
        full = torch.ones(x.shape[site.dim], dtype=x.dtype)
        full = full.index_put((torch.tensor(site.index),), gate[:, None].expand(site.index.shape))
        shape = [-1 if d == site.dim % x.dim() else 1 for d in range(x.dim())]
        return x * full.reshape(shape)

    if site.port == "input":
        module.register_forward_pre_hook(lambda module, args: (gated(args[0]), *args[1:]))
    else:
        module.register_forward_hook(lambda module, args, output: gated(output))


class Shared(nn.Module):
    """A head that reads and writes at two scales, so that its modules run twice."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.head = nn.Sequential(nn.Conv2d(4, 6, 1), nn.ReLU())
        self.out = nn.Conv2d(6, 5, 1)

    def forward(self, x):
        x = self.stem(x).relu()
        return sum(self.out(self.head(v)).mean((2, 3)) for v in (x, F.max_pool2d(x, 2)))


class TimeFirst(nn.Module):
    """Sequence first: the samples are dimension 1 inside."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 5)

    def forward(self, x):
        return self.down(self.up(x.transpose(0, 1)).relu()).mean(0)


class Windows(nn.Module):
    """Windows folded into the batch, window-major: dimension 0 is no batch dimension, though a multiple of it."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 5)

    def forward(self, x):
        n, t, c = x.shape
        windows = x.reshape(n, 2, t // 2, c).transpose(0, 1).reshape(2 * n, t // 2, c)
        return self.down(self.up(windows).relu()).reshape(2, n, t // 2, 5).mean((0, 2))


@pytest.mark.parametrize("policy", [Writes(), Reads()], ids=repr)
@pytest.mark.parametrize(
    ("kind", "shape"), [(Stream, (2, 3, 3)), (Shared, (2, 4, 4)), (TimeFirst, (6, 4)), (Windows, (6, 4))]
)
def test_gate_gradients_are_those_of_a_shared_gate(kind, shape, policy):
    """Coupled sites, modules that run twice, units with several entries, ReLU in place, samples in any dimension."""
    model, graph, data = make(kind, shape)
    expected = gate_reference(model, graph, data, policy)
    found = observe(graph, model, [GateGradients(Collect, at=policy)], data=data)[GateGradients(Collect, at=policy)]

    assert set(found) == {group.name for group in graph.groups}
    for name, z in expected.items():
        assert z.abs().max() > 0
        torch.testing.assert_close(found[name], z)


def test_gate_gradients_add_up_to_weight_times_gradient():
    """Over all samples, the gate of a consumer's input is its weight times the weight's gradient, unit by unit."""
    model, graph, data = make()
    need = GateGradients(Collect, at=Reads())
    found = observe(graph, model, [Gradients, need], data=data)
    for group in graph.groups:
        sites = [s for s in group.slices if s.role == "in"]
        expected = torch.zeros(group.units, dtype=torch.float64)
        for s in sites:
            product = model.get_parameter(s.tensor) * found[Gradients].tensors[s.tensor]
            per_entry = product.movedim(s.dim, 0).flatten(1).sum(1)
            expected += per_entry[torch.tensor(s.index)].sum(1).detach()

        torch.testing.assert_close(found[need][group.name].mean(0), expected)


def test_activations_are_read_unit_by_unit():
    """[samples, units, positions], at the inputs of the readers by default."""
    model, graph, data = make()
    found = observe(graph, model, [Activations(Collect)], data=data)[Activations(Collect)]
    twin, x = evaluated(model), joined(data)[0]

    torch.testing.assert_close(found["b"], twin.b(twin.a(x).relu()).relu().flatten(2))
    assert found["a"].shape == (14, 4, 9)  # two readers: `b` and, flattened, `fc`


def test_a_unit_with_several_entries_is_one_row():
    """Behind a flatten, the nine entries of a channel are its positions, in order."""
    model, graph, data = make()

    @dataclass(frozen=True)
    class Last:
        def __call__(self, sites):
            return tuple(site for site in sites if site.module == "fc")

    need = Activations(Collect, at=Last())
    found = observe(graph, model, [need], data=data, groups=["a"])[need]
    twin, x = evaluated(model), joined(data)[0]
    h = twin.a(x).relu()

    assert set(found) == {"a"}
    torch.testing.assert_close(found["a"], twin.norm(h + twin.c(twin.b(h).relu())).flatten(2))


def test_every_batch_closes_with_one_update():
    """Gate gradients come summed over sites, once a batch; a sample at a time where samples are folded."""
    model, graph, data = make()
    found = observe(graph, model, [GateGradients(Shapes, at=Reads())], data=data)[GateGradients(Shapes, at=Reads())]
    assert found["a"] == [(4, 4), (3, 4)]

    model, graph, data = make(Windows, (6, 4))
    found = observe(graph, model, [GateGradients(Shapes)], data=data)[GateGradients(Shapes)]
    assert found["up"] == [(1, 6)] * 7


# ---- data ----


class ByName(nn.Module):
    """Keyword inputs, and an output with logits."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 5)

    def forward(self, x, scale=None):
        return SimpleNamespace(logits=self.down(self.up(x if scale is None else x * scale).relu()))


def test_batches_come_in_several_forms():
    """Pairs, sequences of arguments, mappings, lists as a loader collates them: one gradient."""
    torch.manual_seed(0)
    model = ByName().double()
    graph = trace(model, torch.zeros(1, 4, dtype=torch.float64))
    x, y, one = torch.randn(3, 4, dtype=torch.float64), torch.tensor([0, 1, 2]), torch.ones(3, 1, dtype=torch.float64)
    found = [
        observe(graph, model, [Gradients], data=[batch])[Gradients].tensors["up.weight"]
        for batch in [
            (x, y),
            [x, y],
            ((x, one), y),
            ([x], y),
            {"x": x, "labels": y},
            {"x": x, "scale": one, "target": y},
        ]
    ]
    found.append(
        observe(graph, model, [Gradients], data=[({"x": x}, y)], loss=lambda out, t: F.cross_entropy(out.logits, t))[
            Gradients
        ].tensors["up.weight"]
    )
    # One loss a sample is summed over samples, like their mean times their number.
    each = observe(
        graph, model, [Gradients], data=[(x, y)], loss=lambda out, t: F.cross_entropy(out.logits, t, reduction="none")
    )
    found.append(each[Gradients].tensors["up.weight"])
    # A mapping without targets goes to the loss whole.
    found.append(
        observe(graph, model, [Gradients], data=[{"x": x}], loss=lambda out, batch: F.cross_entropy(out.logits, y))[
            Gradients
        ].tensors["up.weight"]
    )

    assert found[0].abs().sum() > 0
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])


def test_reads_no_more_batches_than_asked():
    """A limit on batches draws no batch beyond it, and the loader is read once."""
    model, graph, data = make()
    drawn = Counter()

    def loader():
        for batch in data * 5:
            drawn["batches"] += 1
            yield batch

    assert observe(graph, model, [Gradients], data=loader(), batches=3)[Gradients].samples == 11
    assert drawn["batches"] == 3


@dataclass(frozen=True)
class Hungry:
    """Something with needs, as a criterion is."""

    needs: Mapping = field(default_factory=lambda: {"weights": Weights, "slope": Gradients})


def test_missing_data_is_refused_by_name_before_anything_runs():
    """The criterion, what it needs, and the remedy."""
    model, graph, _ = make()
    model.forward = None

    with pytest.raises(
        EvidenceError, match=r"Hungry\(.*\) needs Gradients as 'slope', and no data was given.*Pass data="
    ):
        observe(graph, model, Hungry())


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], "no batch"),
        ([torch.zeros(0, 2, 3, 3)], "batch 0 holds no sample: a tensor of shape"),
        (["words"], "batch 0 is a str"),
        ([(1, 2, 3)], "batch 0 is a tuple of 3"),
        ([{"x": torch.zeros(1, 2, 3, 3), "labels": 1, "target": 1}], "several entries.*labels, target"),
        ([torch.zeros(2, 2, 3, 3, dtype=torch.float64)], "targets are NoneType.*Pass loss="),
        ([torch.zeros(2, 9, 3, 3, dtype=torch.float64)], "did not run on batch 0: RuntimeError.*channels"),
        ([(torch.full((2, 2, 3, 3), torch.nan, dtype=torch.float64), torch.tensor([0, 1]))], "loss of batch 0 is nan"),
    ],
)
def test_unusable_data_is_refused(data, words):
    """What is wrong, with which batch, and what to do."""
    model, graph, _ = make()

    with pytest.raises(EvidenceError, match=words):
        observe(graph, model, [Gradients], data=data)


def test_unusable_losses_are_refused():
    """A loss of another shape, and one without a gradient."""
    model, graph, data = make()

    with pytest.raises(EvidenceError, match=r"loss of batch 0 is a tensor of shape \(4, 5\).*one a sample \(4\)"):
        observe(graph, model, [Gradients], data=data, loss=lambda out, y: out)
    with pytest.raises(EvidenceError, match="does not depend on the model"):
        observe(graph, model, [Gradients], data=data, loss=lambda out, y: out.detach().sum())


def test_unusable_requests_are_refused():
    """An unknown need, no batches, an unknown group, a group without sites, a module that does not run."""
    model, graph, data = make()

    with pytest.raises(EvidenceError, match="needs int, which is no evidence"):
        observe(graph, model, [int], data=data)
    with pytest.raises(InputError, match="batches=0"):
        observe(graph, model, [Gradients], data=data, batches=0)
    with pytest.raises(InputError, match=r"no group 'aa'.*Known: a, b"):
        observe(graph, model, [Activations(Collect)], data=data, groups=["aa"])
    with pytest.raises(EvidenceError, match="finds no site for groups 'a', 'b'"):
        observe(graph, model, [Activations(Collect, at=lambda sites: ())], data=data)
    elsewhere = Site("drop2", "input", 1, np.arange(3)[:, None])
    model.drop2 = nn.Identity()
    with pytest.raises(EvidenceError, match="module 'drop2', which carries group 'a', did not run"):
        observe(graph, model, [Activations(Collect, at=lambda sites: (elsewhere,))], data=data)


def test_another_model_than_the_traced_one_is_refused():
    """By the first tensor that differs."""
    model, graph, _ = make()
    other = copy.deepcopy(model)
    other.b = nn.Conv2d(4, 9, 1)

    with pytest.raises(InputError, match=r"'b.bias' is of shape \(9,\) in the model and of shape \(3,\) in the graph"):
        observe(graph, other, [Weights])
    other.b = nn.Conv2d(4, 3, 1, bias=False)
    with pytest.raises(InputError, match=r"'b.bias' is missing in the model"):
        observe(graph, other, [Weights])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(bad):
    """By tensor and count; they would change the plan in silence."""
    model, graph, _ = make()
    with torch.no_grad():
        model.c.weight[1, :2] = bad

    with pytest.raises(ModelError, match=r"c.weight holds 2 values that are NaN or infinite, of 12"):
        observe(graph, model, [Weights])


def test_finite_weights_whose_sum_overflows_are_fine():
    """Large is not infinite."""
    model, graph, _ = make()
    with torch.no_grad():
        model.c.weight.fill_(1e308)

    assert observe(graph, model, [Weights])[Weights].tensors["c.weight"].max() == 1e308


def test_a_model_without_values_is_refused():
    """On the meta device there is nothing to measure."""
    model, graph, _ = make()

    with pytest.raises(ModelError, match="meta device"):
        observe(graph, model.to("meta"), [Weights])


def test_wrapped_models_are_unwrapped():
    """The weights are those of the module inside."""
    model, graph, data = make()
    wrapped = nn.DataParallel(model)

    plain, found = (observe(graph, m, [Gradients], data=data)[Gradients].tensors for m in (model, wrapped))
    assert all(torch.equal(found[name], plain[name]) for name in plain)


@pytest.mark.gpu
def test_an_accelerator_gives_the_same_evidence():
    """Batches follow the model to its device; its generator is put back too."""
    model, graph, data = make()
    expected = observe(graph, model, ALL, data=data)
    model.cuda()
    before = torch.cuda.get_rng_state()
    found = observe(graph, model, ALL, data=noisy(data))

    assert torch.equal(torch.cuda.get_rng_state(), before)
    for name, grad in expected[Gradients].tensors.items():
        torch.testing.assert_close(found[Gradients].tensors[name].cpu(), grad)
    for need in ALL[2:]:
        for name, values in expected[need].items():
            torch.testing.assert_close(found[need][name].cpu(), values)
