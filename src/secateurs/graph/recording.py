"""The first run of a trace, on meta or real tensors; refuses models whose call shows nothing of their parameters."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import nn

from secateurs.errors import InputError, TraceError
from secateurs.graph.propagate import tensors
from secateurs.graph.source import Source, differs_in_training
from secateurs.network import client_hint
from secateurs.running.caches import stored_tensors
from secateurs.running.nested import as_call, find_tensors

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from secateurs.graph.recorder import Tape
    from secateurs.graph.rules import Table
    from secateurs.network import Network


def record(
    network: Network, example_inputs: Any, rules: Table, *, real: bool = False
) -> tuple[Source, list[Tape], list[str]]:
    """Run a network on its example, on meta if possible, and its training forward too where that may differ.

    Operators that need values run on made-up ones, unless parameters then go unused: values may decide about a branch.
    `real`: run on real tensors in any case.

    Returns where further recordings come from, the recordings, and notes. TraceError if the network does not run, if
    its output holds no tensor, or if its call does not touch its parameters.
    """
    args, kwargs = as_call(example_inputs)
    if not find_tensors((args, kwargs)):
        raise InputError(
            "The example inputs hold no tensor: give a tensor, a tuple of arguments or a dict of keyword arguments."
        )
    notes: list[str] = []
    source, tape, why_real = _first_run(network, (args, kwargs), rules, always_real=real)
    if source.real:
        notes.append(f"traced on real tensors, because the forward needs values ({why_real})")
    elif tape.made_up.count:
        read = ", ".join(sorted(map(str, tape.made_up.operators)))
        notes.append(f"traced on made-up values where the forward reads some ({read})")
    _check(network, tape)
    tapes = [tape]
    if differs_in_training(network):
        trained = source.tape(network, training=True)
        if trained.error is None:
            source = replace(source, passes=(False, True))
            tapes.append(trained)
        else:
            notes.append(f"the training forward was not recorded: {type(trained.error).__name__}: {trained.error}")
    return source, tapes, notes


def _first_run(
    network: Network, example: tuple[tuple[Any, ...], dict[str, Any]], rules: Table, *, always_real: bool
) -> tuple[Source, Tape, str]:
    """The first attempt that runs, and why those on meta did not."""
    dtypes = {name: tensor.dtype for name, tensor in network.tensors.items()}
    (args, kwargs), on_meta = example, "the forward branches on them" if always_real else ""
    error: Exception | None = None
    for real, cold in _attempts(network, on_meta=not always_real):
        source = Source(args, kwargs, real=real, passes=(False,), dtypes=dtypes, rules=rules, cold=cold)
        tape = source.tape(network)
        if tape.error is None and (tape.refilled or not cold):
            unused = _unused(network, tape) if tape.made_up.count else ""
            if not unused:
                return source, tape, on_meta
            on_meta = f"on made-up values, {unused} is not used"
            continue
        error = tape.error or error
        on_meta = on_meta if real else type(error).__name__
    shapes = ", ".join(str(tuple(t.shape)) for t in find_tensors((args, kwargs)))
    raise TraceError(
        f"The model does not run on the example inputs (shapes {shapes}): "
        f"{type(error).__name__}: {error}{_inner(network, error)}{_deeper(error)}"
    ) from error


def _unused(network: Network, tape: Tape) -> str:
    """Name a parameter that a recording does not read, if there is one."""
    read = {tape.origins.get(id(t)) for op in tape.ops for t in tensors((op.args, tuple(op.kwargs.values())))}
    return next((name for name, t in network.tensors.items() if isinstance(t, nn.Parameter) and name not in read), "")


def _deeper(error: Exception | None) -> str:
    """The remedy for modules that are nested deeper than Python's stack allows."""
    limit = sys.getrecursionlimit()
    if not isinstance(error, RecursionError):
        return ""
    return f". Its modules are nested deeper than Python's limit allows; raise it: sys.setrecursionlimit({10 * limit})."


def _attempts(network: Network, *, on_meta: bool) -> Iterator[tuple[bool, bool]]:
    """Yield the ways to run, in order: (on real tensors, without tensors that earlier forwards stored).

    A stored tensor may have been computed from weights, which a trace could not see; it is left out if the forward
    then stores another. On meta, reading a value is an error, and real tensors are used.
    """
    stored = bool(stored_tensors(network))
    for real in (False, True) if on_meta else (True,):
        if stored:
            yield real, True
        yield real, False


def failed_rules(tapes: Iterable[Tape]) -> list[str]:
    """A note for every operator whose rule failed, once a source line."""
    found = {tape.ops[index].where: why for tape in tapes for index, why in tape.broken.items()}
    return [f"the units at {where} are protected, because {why}" for where, why in found.items()]


def same_path(tapes: Iterable[Tape], others: Iterable[Tape]) -> bool:
    """True if recordings ran the same operators in the same order."""
    return all([op.func for op in a.ops] == [op.func for op in b.ops] for a, b in zip(tapes, others, strict=True))


def _check(network: Network, tape: Tape) -> None:
    """Refuse a call that touches no parameter or returns no tensor."""
    computing = (op for op in tape.ops if not _reads_shape(op.func.overloadpacket.__name__))
    used = (id(t) in tape.origins for op in computing for t in tensors((op.args, tuple(op.kwargs.values()))))
    if network.parameters and not any(used):
        raise TraceError(
            f"Calling {type(network.model).__name__} runs no operator on any of its {len(network.parameters)} "
            f"parameters, so that nothing in it could be pruned.{_inner(network) or ' Pass the network that computes.'}"
        )
    if not tape.outputs:
        raise TraceError(
            f"The model returns a {tape.returned} that holds no tensor, so that what it computes cannot be followed to "
            "its end, and channels of its result could be removed. Let forward return tensors (nested as you like); "
            "convert them (.numpy(), .tolist()) outside of it."
        )


def _reads_shape(name: str) -> bool:
    """True for operators that make a tensor as large as another one, as a copy of a whole module does."""
    return name.startswith("new_") or name.endswith("_like")


def _inner(network: Network, error: Exception | None = None) -> str:
    """Name the only child that holds all parameters, which may be the module that the user meant."""
    model = network.model
    called = type(model).__call__ is nn.Module.__call__
    if error is not None and called and not isinstance(error, NotImplementedError):
        return ""
    children = [(name, child) for name, child in model.named_children() if any(True for _ in child.parameters())]
    if len(children) != 1 or any("." not in name for name in network.parameters):
        return ""
    name, child = children[0]
    inside = f"its attribute {name!r} (a {type(child).__name__})"
    return f" It looks like a wrapper: pass the network inside it, {inside}.{client_hint(model)}"
