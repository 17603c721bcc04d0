"""Checks for criteria, methods and rules of plug-ins, to be called in their own tests.

    from secateurs.testing import check_criterion, check_method

    def test_it_is_a_criterion():
        check_criterion(NuclearNorm())

They check only properties that the library relies on. Each raises AssertionError with the failed property, or the
library's own error. They run on small networks on the CPU, in a few seconds.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateurs.allocate import Budget
from secateurs.criteria import Criterion, score
from secateurs.evidence import observe
from secateurs.graph import Graph, trace
from secateurs.graph.rules import Composition, Rule
from secateurs.methods.one_shot import Method
from secateurs.prune import prune
from secateurs.registry import kind_of
from secateurs.session import Session, TrainingMethod
from secateurs.surgery import Plan, verify

__all__ = ["check_criterion", "check_method", "check_rule"]

PART = 0.6
BUDGET = Budget(macs=PART)
STEPS, EPOCHS = 8, 20


def _require(holds: bool, message: str) -> None:  # noqa: FBT001 (the condition reads first, as in an assert)
    """Raise AssertionError unless a condition holds; `assert` is removed by `python -O`."""
    if not holds:
        raise AssertionError(message)


class _Network(nn.Module):
    """A residual stream, a depthwise convolution and a flattened map: one writer and several, one entry and several."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.branch = nn.Sequential(nn.Conv2d(8, 10, 3, padding=1, bias=False), nn.BatchNorm2d(10), nn.ReLU())
        self.back = nn.Sequential(nn.Conv2d(10, 8, 1, bias=False), nn.BatchNorm2d(8))
        self.wide = nn.Sequential(nn.Conv2d(8, 9, 1, bias=False), nn.BatchNorm2d(9), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(9, 9, 3, groups=9, bias=False), nn.BatchNorm2d(9), nn.ReLU())
        self.head = nn.Linear(9 * 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = (x + self.back(self.branch(x))).relu()
        return self.head(self.deep(self.wide(x)).flatten(1))


def check_criterion(criterion: Criterion) -> None:
    """Check that a criterion scores units as the library expects.

    It needs evidence that can be gathered, gives one finite float64 a unit, the same every time and whatever the other
    groups are, follows its units when they change places, changes nothing, and prunes a network to a budget. One whose
    `needs` are empty cannot see the units, and need not follow them.

    >>> from secateurs.criteria import Magnitude
    >>> check_criterion(Magnitude())
    """
    _require(kind_of(criterion) == "criterion", f"{criterion!r} has no needs, or is not called with (group, evidence)")
    model, graph, data = _example(torch.float64)
    with _unchanged(model, criterion):
        evidence = observe(graph, model, criterion, data=data)
        found = score(criterion, graph.groups, evidence)  # refuses other shapes and types
        again = score(criterion, graph.groups[::-1], observe(graph, model, criterion, data=data))
    for name, values in found.items():
        _require(bool(values.isfinite().all()), f"{criterion!r} gives group {name!r} scores that are not finite")
        _require(
            torch.equal(values, again[name]),
            f"{criterion!r} scores group {name!r} differently the second time, or beside other groups. The same seed "
            "has to give the same plan.",
        )
    if criterion.needs:
        order = {g.name: torch.randperm(g.units, generator=torch.Generator().manual_seed(1)) for g in graph.groups}
        other = _relabelled(model, graph, order)
        moved = score(criterion, graph.groups, observe(graph, other, criterion, data=data))
        for name, values in found.items():
            torch.testing.assert_close(
                moved[name], values[order[name]], rtol=1e-6, atol=1e-9, msg=lambda m: f"{criterion!r}: {m}"
            )
    result = prune(model, data[0][0], method=criterion, budget=BUDGET, data=data)
    _require(result.cost_after.macs <= PART * result.cost_before.macs, f"{criterion!r} does not meet a budget")


def check_method(method: Method | TrainingMethod) -> None:
    """Check that a method chooses units, or prunes while a network trains, as the library expects.

    A one-shot method returns units that exist, ascending, the same every time, meets a budget, and changes nothing. A
    training method brings the network to its budget in a session, which fits its schedule to the run, and a session
    that is saved and restored half way ends with the same weights.

    >>> from secateurs.methods import EPruner
    >>> check_method(EPruner())
    """
    kind = kind_of(method)
    _require(kind in ("one-shot", "training"), f"{method!r} has neither select(...) nor start(run)")
    if kind == "training":
        _check_training(method)
    else:
        _check_one_shot(method)


def check_rule(operator: Any, rule: Rule | Composition, args: tuple[Any, ...], *, dim: int = 1) -> None:
    """Check a rule for an operator by comparing removed with zeroed units on a small network around it.

    args: example arguments of the operator. Each `torch.nn.Parameter` becomes a parameter of the network; every other
    tensor is computed by a layer whose channels are dimension `dim` (1, or the last one), and a layer of the same kind
    reads the result. Raises AssertionError if no unit that passes through the operator can be removed, or if removing
    a unit differs from zeroing it by more than 1e-9.

    >>> from secateurs.graph.rules.pointwise import pointwise
    >>> check_rule(torch.ops.aten.relu.default, pointwise, (torch.randn(2, 6, 5, 5),))
    """
    for squared in (False, True):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = _Carrier(operator, args, dim, squared=squared).double().eval()
            inputs = tuple(torch.randn(shape, dtype=torch.float64) for shape in model.inputs)
        graph = trace(model, inputs, rules={operator: rule})
        why = "; ".join(map(str, graph.protected[:3]))
        _require(bool(graph.groups), f"no unit can be removed through {operator}: {why}")
        for seed in range(3):
            draw = np.random.default_rng(seed)
            keep = {g.name: np.sort(draw.permutation(g.units)[: max(1, g.units // 2)]) for g in graph.groups}
            found = verify(Plan.from_keep(graph, keep), model, inputs)
            _require(found.passed, f"the rule for {operator} is wrong: {found}")


def _check_one_shot(method: Any) -> None:
    model, graph, data = _example(torch.float64)
    with _unchanged(model, method):
        found, again = (method.select(graph, model, BUDGET, data=data, loss=None, seed=0) for _ in range(2))
    for name, units in found.items():
        kept = np.asarray(units).tolist()
        _require(kept == sorted(set(kept)), f"{method!r} keeps units of {name!r} that are not ascending: {kept}")
        _require(bool(kept), f"{method!r} keeps no unit of {name!r}")
        same = kept == np.asarray(again[name]).tolist()
        _require(same, f"{method!r} chooses other units of {name!r} the second time")
    cost = graph.cost(Plan.from_keep(graph, found))  # refuses groups and units that there are not
    _require(cost.macs <= PART * graph.cost().macs, f"{method!r} leaves {cost.macs} MACs, over its budget")
    prune(model, data[0][0], method=method, budget=BUDGET, data=data)


def _check_training(method: Any) -> None:
    whole, after = _trained(method)
    halves, _ = _trained(method, stop=STEPS * EPOCHS // 2)
    dense = _example(torch.float32)[1].cost()
    _require(after.macs <= PART * dense.macs, f"{method!r} leaves {after.macs} of {dense.macs} MACs, over its budget")
    other = [name for name, tensor in whole.items() if not torch.equal(tensor, halves[name])]
    _require(
        not other,
        f"{method!r} ends with other weights ({', '.join(other[:3])}) where the run was saved and restored half way. "
        "A driver's state() has to hold everything that the coming steps depend on.",
    )


def _trained(method: Any, stop: int | None = None) -> tuple[Mapping[str, Tensor], Any]:
    """Train in a session, saved and begun anew at step `stop`; give the weights and the cost of the pruned network."""
    model, _, data = _example(torch.float32)
    session, optimizer = _session(method, model, data)
    for step in range(STEPS * EPOCHS):
        if step == stop:
            saved = copy.deepcopy((session.state_dict(), model.state_dict(), optimizer.state_dict()))
            model, _, data = _example(torch.float32)
            session, optimizer = _session(method, model, data)
            session.load_state_dict(saved[0])
            model.load_state_dict(saved[1])
            optimizer.load_state_dict(saved[2])
        x, y = data[step % len(data)]
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    small = session.finish()
    cost = trace(small, data[0][0][:1]).cost()
    return small.state_dict(), cost


def _session(method: Any, model: nn.Module, data: Any) -> tuple[Session, torch.optim.Optimizer]:
    session = Session(
        model, data[0][0][:1], method=method, budget=BUDGET, steps_per_epoch=STEPS, epochs=EPOCHS, data=data
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    session.attach(optimizer)
    return session, optimizer


def _example(dtype: torch.dtype) -> tuple[nn.Module, Graph, list[tuple[Tensor, Tensor]]]:
    """The same network, its graph and two batches every time; the random state of the caller is not spent."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = _Network().to(dtype)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 2)
                nn.init.normal_(module.bias)
        data = [(torch.randn(n, 3, 4, 4, dtype=dtype), torch.randint(4, (n,))) for n in (9, 6)]
    return model, trace(model, data[0][0][:1]), data


@contextmanager
def _unchanged(model: nn.Module, what: object) -> Generator[None]:
    """Weights, buffers, modes, gradients and the random state are afterwards as they were."""
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    generator = torch.get_rng_state()
    yield
    changed = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])]
    changed += [name for name, p in model.named_parameters() if p.grad is not None or not p.requires_grad]
    changed += [f"the mode of {name!r}" for name, module in model.named_modules() if not module.training]
    _require(not changed, f"{what!r} changed the model: {', '.join(changed[:3])}")
    _require(torch.equal(generator, torch.get_rng_state()), f"{what!r} drew from the global random generator")


def _relabelled(model: nn.Module, graph: Graph, order: Mapping[str, Tensor]) -> nn.Module:
    """The same function with other labels: unit u of the copy is unit order[group][u] of the model."""
    twin = copy.deepcopy(model)
    tensors = twin.state_dict()
    for group in graph.groups:
        for s in group.slices:
            tensor, index = tensors[s.tensor], torch.as_tensor(s.index)
            moved = tensor.index_select(s.dim, index[order[group.name]].flatten())
            tensor.index_copy_(s.dim, index.flatten(), moved)
    return twin


class _Carrier(nn.Module):
    """A network around one operator: a layer makes each of its tensors, and one reads its result.

    squared: products of the result with itself are an output too, where entries of zeroed units count unless 0.
    """

    def __init__(self, operator: Any, args: tuple[Any, ...], dim: int, *, squared: bool) -> None:
        super().__init__()
        self.dim, self.squared = dim, squared
        # A function, since operators cannot be copied and the model around them is.
        self.call: Callable[..., Any] = lambda *given: operator(*given)  # noqa: PLW0108
        self.args, self.inputs = [_double(value) for value in args], list[tuple[int, ...]]()
        makers: list[nn.Module] = []
        for place, value in enumerate(args):
            if isinstance(value, nn.Parameter):
                self.register_parameter(f"arg{place}", nn.Parameter(_double(value)))
            elif isinstance(value, Tensor) and value.dim() > 1:
                makers.append(_layer(3, value.shape[dim], value.dim(), dim))
                shape = list(value.shape)
                shape[dim] = 3
                self.inputs.append(tuple(shape))
        self.makers = nn.ModuleList(makers)
        out = self.call(*self.args)
        out = out if isinstance(out, Tensor) else out[0]
        self.reader = _layer(out.shape[dim], 2, out.dim(), dim)

    def forward(self, *inputs: Tensor) -> Any:
        made = iter([maker(x) for maker, x in zip(self.makers, inputs, strict=True)])
        filled: list[Any] = []
        for place, value in enumerate(self.args):
            own = getattr(self, f"arg{place}", None)
            activation = own is None and isinstance(value, Tensor) and value.dim() > 1
            filled.append(next(made) if activation else own if own is not None else value)
        out = self.call(*filled)
        out = out if isinstance(out, Tensor) else out[0]
        if not self.squared:
            return self.reader(out)
        flat = out.movedim(self.dim, -1).flatten(0, -2)
        return self.reader(out), flat @ flat.T


def _double(value: Any) -> Any:
    return value.detach().double() if isinstance(value, Tensor) and value.is_floating_point() else value


def _layer(before: int, after: int, rank: int, dim: int) -> nn.Module:
    """A layer from `before` to `after` channels along a dimension of a tensor of this rank."""
    if dim % rank == rank - 1:
        return nn.Linear(before, after)
    kinds: dict[int, Any] = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
    return kinds[rank](before, after, 1)
