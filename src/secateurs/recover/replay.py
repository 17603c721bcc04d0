"""Replay a recorded forward operator by operator, so that it can be stopped and continued at any operator.

A recording is the list of ATen operators of one forward, with their arguments written as numbers of values. Replaying
it on a batch of the same shapes runs no Python of the model; the values that later operators need can be stored between
two operators, so that the network is advanced from layer to layer instead of being rerun for each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from secateurs.errors import InputError
from secateurs.running.batches import Batch
from secateurs.running.nested import find_tensors
from secateurs.running.untouched import untouched

aten = torch.ops.aten
_READS_NUMBERS = {aten._local_scalar_dense.default, aten.nonzero.default, aten.is_nonzero.default}  # noqa: SLF001


class Ref(NamedTuple):
    """Reference to a value in a recording, by its number."""

    value: int


@dataclass(frozen=True, eq=False)
class Step:
    """One operator: its arguments flattened, tensors among them as `Ref`, and the numbers of its results."""

    func: Any
    leaves: tuple[Any, ...]
    spec: pytree.TreeSpec
    outs: tuple[int, ...]
    writes: bool

    @property
    def reads(self) -> tuple[int, ...]:
        """The values that it reads."""
        return tuple(leaf.value for leaf in self.leaves if isinstance(leaf, Ref))

    @property
    def args(self) -> tuple[Any, ...]:
        """Its positional arguments, with `Ref` for tensors."""
        return pytree.tree_unflatten(list(self.leaves), self.spec)[0]

    @property
    def kwargs(self) -> dict[str, Any]:
        """Its keyword arguments."""
        return pytree.tree_unflatten(list(self.leaves), self.spec)[1]

    def run(self, values: Mapping[int, Tensor]) -> list[Tensor]:
        """Run it on values."""
        filled = [values[leaf.value] if isinstance(leaf, Ref) else leaf for leaf in self.leaves]
        args, kwargs = pytree.tree_unflatten(filled, self.spec)
        return _tensors(self.func(*args, **kwargs))


@dataclass(eq=False)
class Recording:
    """One forward: its operators, the values that came from outside, those of the inputs, and of the outputs.

    A value that an operator changes in place has a new number from there on, and the same memory.
    """

    steps: list[Step] = field(default_factory=list[Step])
    outside: dict[int, Tensor] = field(default_factory=dict[int, Tensor])
    inputs: list[int] = field(default_factory=list[int])
    outputs: list[int] = field(default_factory=list[int])
    last_use: dict[int, int] = field(default_factory=dict[int, int])
    made_by: dict[int, int] = field(default_factory=dict[int, int])
    used_by: dict[int, list[int]] = field(default_factory=dict[int, list[int]])
    memory_of: dict[int, int] = field(default_factory=dict[int, int])
    shapes: dict[int, tuple[int, ...]] = field(default_factory=dict[int, "tuple[int, ...]"])

    @property
    def funcs(self) -> list[Any]:
        """The operators in order, to be compared with another recording's."""
        return [step.func for step in self.steps]

    def index(self) -> None:
        """Index the steps that make and that use each value."""
        for at, step in enumerate(self.steps):
            for value in step.reads:
                self.used_by.setdefault(value, []).append(at)
                self.last_use[value] = at
            for value in step.outs:
                self.made_by[value] = at
        for value in self.outputs:
            self.last_use[value] = len(self.steps)

    def divides(self, at: int) -> bool:
        """True if a replay may stop before step `at`: no later step writes to memory that two live values share."""
        live = [v for v, made in self.made_by.items() if made < at <= self.last_use.get(v, -1)]
        live += [v for v in self.inputs if self.last_use.get(v, -1) >= at]
        owners: dict[int, int] = {}
        for value in live:
            owners[self.memory_of[value]] = owners.get(self.memory_of[value], 0) + 1
        shared = {memory for memory, count in owners.items() if count > 1}
        written = {self.memory_of[s.reads[0]] for s in self.steps[at:] if s.writes and s.reads}
        return not shared & written


class _Recorder(TorchDispatchMode):
    """Records every operator."""

    def __init__(self, recording: Recording) -> None:
        super().__init__()
        self.recording = recording
        self.numbers: Any = WeakTensorKeyDictionary()
        self.memories: dict[int, int] = {}
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator and record it."""
        leaves, spec = pytree.tree_flatten((args, kwargs or {}))
        numbered = tuple(Ref(self.number(leaf)) if isinstance(leaf, Tensor) else leaf for leaf in leaves)
        out = func(*args, **(kwargs or {}))
        outs = tuple(self.number(t, new=True) for t in _tensors(out))
        self.recording.steps.append(Step(func, numbered, spec, outs, func._schema.is_mutable))  # noqa: SLF001
        return out

    def number(self, tensor: Tensor, *, new: bool = False) -> int:
        """Return the number of a tensor; an unknown one is a parameter, buffer or input."""
        known = self.numbers.get(tensor)
        if known is not None and not new:
            return known
        self.numbers[tensor] = self.count
        self.recording.shapes[self.count] = tuple(tensor.shape)
        self.recording.memory_of[self.count] = tensor.untyped_storage().data_ptr()
        if known is None and not new:
            self.recording.outside[self.count] = tensor
        self.count += 1
        return self.count - 1


def _tensors(out: Any) -> list[Tensor]:
    if isinstance(out, Tensor):
        return [out]
    return [t for t in pytree.tree_leaves(out) if isinstance(t, Tensor)]


def call_tensors(batch: Batch) -> list[Tensor]:
    """The tensors that a model is called with, in order."""
    return [t for t in pytree.tree_leaves((batch.args, dict(batch.kwargs))) if isinstance(t, Tensor)]


def record(model: nn.Module, batch: Batch) -> Recording:
    """Record one forward in eval mode, without gradients; the model is not changed.

    Raises InputError for a forward whose operators depend on computed values.
    """
    recording = Recording()
    recorder = _Recorder(recording)
    with untouched(model), torch.no_grad():
        recording.inputs = [recorder.number(t, new=True) for t in call_tensors(batch)]
        with recorder:
            output = model(*batch.args, **batch.kwargs)
        recording.outputs = [recorder.number(t) for t in find_tensors(output)]
    if bad := next((step.func for step in recording.steps if step.func in _READS_NUMBERS), None):
        message = (
            f"the forward of {type(model).__name__} reads numbers that it computed ({bad}), so that it may run "
            "differently on other images. Layers are recovered along one course of operators. "
            "Use sct.Recalibrate(), which runs the model as it is."
        )
        raise InputError(message)
    recording.index()
    return recording


@dataclass(eq=False)
class Replay:
    """A network run on several batches up to step `at`; `live` holds the values that later steps need."""

    recordings: Sequence[Recording]
    live: list[dict[int, Tensor]]
    at: int = 0

    @staticmethod
    def start(model: nn.Module, batches: Sequence[Batch]) -> Replay:
        """Record the model once for each shape of batch, and start before the first step."""
        known: dict[Any, Recording] = {}
        recordings: list[Recording] = []
        for batch in batches:
            shapes = tuple((tuple(t.shape), t.dtype) for t in call_tensors(batch))
            if shapes not in known:
                known[shapes] = record(model, batch)
            recordings.append(known[shapes])
        inputs = [dict(zip(r.inputs, call_tensors(b), strict=True)) for r, b in zip(recordings, batches, strict=True)]
        return Replay(recordings, inputs)

    @property
    def nbytes(self) -> int:
        """Bytes of the stored values."""
        return sum(t.nbytes for live in self.live for t in live.values())

    def read(self, number: int, to: int, wanted: Iterable[int]) -> dict[int, Tensor]:
        """Run batch `number` up to (not including) step `to`, and return the wanted values."""
        recording = self.recordings[number]
        values = dict(self.live[number])
        if any(step.writes for step in recording.steps[self.at : to]):
            values = {key: value.clone() for key, value in values.items()}
        return _run(recording, values, self.at, to, frozenset(wanted))[0]

    def advance(self, number: int, to: int, wanted: Iterable[int] = ()) -> dict[int, Tensor]:
        """Run batch `number` up to step `to` and store the live values; call `arrive` after all batches."""
        found, values = _run(self.recordings[number], self.live[number], self.at, to, frozenset(wanted))
        self.live[number] = values
        return found

    def arrive(self, to: int) -> None:
        """Set the position to step `to`, after all batches were advanced."""
        self.at = to


def _run(
    recording: Recording, values: dict[int, Tensor], start: int, stop: int, wanted: frozenset[int]
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Run steps start to stop - 1; return the wanted values, as they were when computed, and those still needed."""
    outside, found = recording.outside, {}
    values = {**outside, **values}
    clones = any(step.writes for step in recording.steps[start:stop])
    for value in wanted & values.keys():
        found[value] = values[value].clone() if clones else values[value]
    with torch.no_grad():
        for at in range(start, stop):
            step = recording.steps[at]
            for value, tensor in zip(step.outs, step.run(values), strict=True):
                values[value] = tensor
                if value in wanted:
                    found[value] = tensor.clone() if clones else tensor
            for value in step.reads:
                if recording.last_use[value] == at and value not in outside:
                    values.pop(value, None)
    alive = {v: t for v, t in values.items() if v not in outside and recording.last_use.get(v, -1) >= stop}
    return found, alive
