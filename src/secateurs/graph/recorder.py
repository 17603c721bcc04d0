"""Record one forward pass as a tape of ATen operators, on the meta device or on real tensors."""

from __future__ import annotations

import os
import sys
import threading
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from secateurs.graph.made_up import MadeUp, needs_values, tensors
from secateurs.graph.meta_kernels import FAST
from secateurs.graph.twin import meta_like

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType

    from secateurs.graph.rules import Table

_DETACH = torch.ops.aten.detach.default
_TORCH = str(Path(torch.__file__).parent) + os.sep
_OURS = (str(Path(__file__).parent) + os.sep, str(Path(__file__).parents[1] / "running") + os.sep, threading.__file__)


class Op(NamedTuple):
    """One executed operator: function, arguments and results, its module, and the line of the user's code."""

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any
    module: str
    code: CodeType | None
    line: int

    @property
    def key(self) -> tuple[Any, ...]:
        """The place in the source: equal for the same line run by forty equal blocks."""
        return (self.func, self.code, self.line)

    @property
    def where(self) -> str:
        """Operator, module path and source line, for messages."""
        at = f" ({Path(self.code.co_filename).name}:{self.line})" if self.code else ""
        return f"{self.func} in {self.module or 'the model'}{at}"


class Call(NamedTuple):
    """One call of a module that computes itself: its path, inputs, output and the range of operators that it ran.

    `leaf`: whether it has no modules inside; others are noted where they have parameters of their own.
    """

    module: str
    inputs: tuple[Any, ...]
    out: Any
    start: int
    stop: int
    leaf: bool = True


@dataclass
class Tape:
    """One recorded forward pass: its operators in order, and the table of rules for them.

    It references every tensor that occurs in it, so that no `id` is used twice.
    """

    rules: Table
    ops: list[Op] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    origins: dict[int, str] = field(default_factory=dict)
    keep: list[Any] = field(default_factory=list)
    error: Exception | None = None
    returned: str = ""
    refilled: bool = True
    real: bool = False
    made_up: MadeUp = field(default_factory=MadeUp)
    broken: dict[int, str] = field(default_factory=dict)
    """Operators whose rule failed, by number, and how."""

    @cached_property
    def reads(self) -> list[tuple[Tensor, ...]]:
        """The tensors among every operator's arguments, of a recording that is complete."""
        return [tuple(tensors(op.args)) for op in self.ops]

    @cached_property
    def constant(self) -> frozenset[int]:
        """Numbers of the operators that read no input, nor anything that comes from one."""
        known = set(self.origins)
        found: list[int] = []
        for index, op in enumerate(self.ops):
            if all(id(t) in known for t in (*self.reads[index], *tensors(tuple(op.kwargs.values())))):
                known.update(id(t) for t in tensors(op.out))
                found.append(index)
        return frozenset(found)


_internal: dict[CodeType, bool] = {}
_transparent: dict[type[nn.Module], bool] = {}
_PLAIN = frozenset({int, float, bool, type(None), torch.dtype, torch.device, str})

Place = tuple["CodeType | None", int]


def _user_frame(depth: int) -> Place:
    """The innermost frame that is neither torch's nor ours, `depth` callers up or further."""
    frame = sys._getframe(depth)  # noqa: SLF001
    while frame is not None:
        code = frame.f_code
        internal = _internal.get(code)
        if internal is None:
            internal = _internal[code] = code.co_filename.startswith((_TORCH, *_OURS))
        if not internal:
            return code, frame.f_lineno
        frame = frame.f_back  # type: ignore[assignment]
    return None, 0


def _is_transparent(kind: type[nn.Module]) -> bool:
    """True if a module class runs torch's own forward: the user's line is then the one that called the module."""
    known = _transparent.get(kind)
    if known is None:
        code = getattr(kind.forward, "__code__", None)
        known = _transparent[kind] = code is not None and code.co_filename.startswith(_TORCH)
    return known


class Recorder(TorchDispatchMode):
    """Appends every ATen operator to a tape; on meta, common operators only have their shapes computed."""

    def __init__(
        self, tape: Tape, twins: dict[int, Tensor], paths: dict[int, str], check: Callable[[], None] = lambda: None
    ) -> None:
        """Record into `tape`; stray originals are replaced by `twins` (id -> twin); `paths`: id of a module -> path.

        `check` is called at every operator; it raises to abort a recording that is no longer needed.
        """
        super().__init__()
        self.tape = tape
        self.twins = twins
        self.paths = paths
        self.check = check
        self.stack = [""]
        self.places: list[Place | None] = [None]
        self._metas: dict[int, Tensor] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator, or only compute its output shape, and record it."""
        self.check()
        kwargs = given_by_name = kwargs or {}
        given = args
        if self.tape.rules.compositions:
            composed = self._composed(func, args, kwargs)
            if composed is not NotImplemented:
                return composed
        fast = None
        if self.tape.real:
            args = tuple(self._to_twin(a) for a in args)
        else:
            if not _all_meta(args):
                strays, metas = _kinds(args)
                if strays and (metas or any(id(t) in self.twins for t in strays)):
                    args = tuple(self._to_meta(a) for a in args)
                    kwargs = {k: self._to_meta(v) for k, v in kwargs.items()}
            fast = FAST.get(func)
        code, line = self.places[-1] or _user_frame(2)
        out = NotImplemented if fast is None else fast(args, kwargs)
        if out is NotImplemented:
            try:
                out = func(*args, **kwargs)
            except Exception as error:
                if self.tape.real or not needs_values(func, error):
                    self.tape.ops.append(Op(func, args, kwargs, None, self.stack[-1], code, line))
                    raise
                args, kwargs = given, given_by_name
                out = self.tape.made_up.run(func, args, kwargs, self.tape.ops)
        self.tape.ops.append(Op(func, args, kwargs, out, self.stack[-1], code, line))
        return out

    def _composed(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run the composition of a fused operator, so that its parts are recorded instead of it."""
        own: Callable[..., Any] = self.tape.rules.compositions.get(func) or func.decompose
        with self:
            return own(*args, **kwargs)

    def _to_twin(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self.twins.get(id(value), value)
        if isinstance(value, (list, tuple)):
            return type(value)(self._to_twin(v) for v in value) if type(value) in (list, tuple) else value
        return value

    def _to_meta(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            if value.is_meta:
                return value
            value = self.twins.get(id(value), value)
            if value.is_meta:
                return value
            meta = self._metas.get(id(value))
            if meta is None:
                meta = self._metas[id(value)] = meta_like(value)
                self.tape.keep.append(value)
                if id(value) in self.tape.origins:
                    self.tape.origins[id(meta)] = self.tape.origins[id(value)]
                elif self.tape.made_up.count:  # the result of an operator that ran on made-up values has labels
                    self.tape.ops.append(Op(_DETACH, (value,), {}, meta, self.stack[-1], *_user_frame(3)))
            return meta
        if type(value) in (list, tuple):
            return type(value)(self._to_meta(v) for v in value)
        return value


def _all_meta(args: Any) -> bool:
    """True if every argument is a plain tensor without storage, or no tensor at all."""
    for a in args:
        kind = type(a)
        if kind is Tensor or kind is nn.Parameter:
            if not a.is_meta:
                return False
        elif kind is list:
            if a and type(a[0]) not in _PLAIN and not _all_meta(a):
                return False
        elif kind not in _PLAIN:
            return False
    return True


def _kinds(args: Any) -> tuple[list[Tensor], bool]:
    """Tensors with storage among the arguments, and whether there is one without."""
    strays: list[Tensor] = []
    metas = False
    for a in args:
        if isinstance(a, Tensor):
            if a.is_meta:
                metas = True
            else:
                strays.append(a)
        elif isinstance(a, (list, tuple)) and a and isinstance(a[0], Tensor):
            for t in a:
                if isinstance(t, Tensor) and not t.is_meta:
                    strays.append(t)
                else:
                    metas = True
    return strays, metas


def caller(recorder: Recorder) -> Callable[..., Any]:
    """Return the stand-in for modules' `__call__` while recording: it tracks nesting and records calls that compute."""
    thread = threading.get_ident()
    tape, stack, paths, places = recorder.tape, recorder.stack, recorder.paths, recorder.places
    ops, calls = tape.ops, tape.calls

    def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != thread:
            return module._call_impl(*args, **kwargs)  # noqa: SLF001
        stack.append(paths.get(id(module), stack[-1]))
        places.append((places[-1] or _user_frame(1)) if _is_transparent(type(module)) else None)
        start = len(ops)
        out = module._call_impl(*args, **kwargs)  # noqa: SLF001
        places.pop()
        path = stack.pop()  # not in a finally: after an error the stack tells where it occurred
        leaf = not module._modules  # noqa: SLF001
        if leaf or module._parameters:  # noqa: SLF001
            calls.append(Call(path, args, out, start, len(ops), leaf))
        return out

    return call
