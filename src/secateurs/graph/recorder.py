"""Record one forward pass as a tape of ATen operators, on the meta device or on real tensors."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from secateurs.graph.shapes import FAST
from secateurs.graph.twin import meta_like

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from types import CodeType

_TORCH = str(Path(torch.__file__).parent) + os.sep
_HERE = str(Path(__file__).parent) + os.sep


class Op(NamedTuple):
    """One executed operator: what ran on what, in which module, at which line of the user's code."""

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
        """Operator, module path and source line, for people."""
        at = f" ({Path(self.code.co_filename).name}:{self.line})" if self.code else ""
        return f"{self.func} in {self.module or 'the model'}{at}"


class Call(NamedTuple):
    """One call of a leaf module: its path, first input, output and the range of operators it ran."""

    module: str
    inputs: tuple[Any, ...]
    out: Any
    start: int
    stop: int


@dataclass
class Tape:
    """What a forward pass did. Holds every tensor it names, so that identities stay unique."""

    ops: list[Op] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    origins: dict[int, str] = field(default_factory=dict)
    keep: list[Any] = field(default_factory=list)
    error: Exception | None = None
    real: bool = False


_internal: dict[CodeType, bool] = {}


def _user_frame() -> tuple[CodeType | None, int]:
    """The innermost frame that is neither torch's nor ours."""
    frame = sys._getframe(2)  # noqa: SLF001
    while frame is not None:
        code = frame.f_code
        internal = _internal.get(code)
        if internal is None:
            internal = _internal[code] = code.co_filename.startswith((_TORCH, _HERE))
        if not internal:
            return code, frame.f_lineno
        frame = frame.f_back  # type: ignore[assignment]
    return None, 0


class Recorder(TorchDispatchMode):
    """Appends every ATen operator to a tape; on meta, common operators only have their shapes computed."""

    def __init__(self, tape: Tape, twins: dict[int, Tensor], paths: dict[int, str]) -> None:
        """Record into `tape`; stray originals are replaced by `twins` (id -> twin); `paths`: id of a module -> path."""
        super().__init__()
        self.tape = tape
        self.twins = twins
        self.paths = paths
        self.stack = [""]
        self._metas: dict[int, Tensor] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run, or only shape, the operator, and write it down."""
        kwargs = kwargs or {}
        real = self.tape.real
        if real:
            args = tuple(self._to_twin(a) for a in args)
        else:
            strays, metas = _kinds(args)
            if strays and (metas or any(id(t) in self.twins for t in strays)):
                args = tuple(self._to_meta(a) for a in args)
                kwargs = {k: self._to_meta(v) for k, v in kwargs.items()}
        code, line = _user_frame()
        fast = None if real else FAST.get(func)
        out = NotImplemented if fast is None else fast(args, kwargs)
        if out is NotImplemented:
            try:
                out = func(*args, **kwargs)
            except Exception:
                self.tape.ops.append(Op(func, args, kwargs, None, self.stack[-1], code, line))
                raise
        self.tape.ops.append(Op(func, args, kwargs, out, self.stack[-1], code, line))
        return out

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
            return meta
        if type(value) in (list, tuple):
            return type(value)(self._to_meta(v) for v in value)
        return value


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


@contextmanager
def _module_calls(recorder: Recorder) -> Generator[None]:
    """Keep the recorder's module stack, and note the calls of leaf modules, by wrapping `nn.Module.__call__`."""
    original: Callable[..., Any] = nn.Module.__call__
    thread = threading.get_ident()
    tape, stack, paths = recorder.tape, recorder.stack, recorder.paths

    def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != thread:
            return original(module, *args, **kwargs)
        path = paths.get(id(module), stack[-1])
        stack.append(path)
        start = len(tape.ops)
        out = original(module, *args, **kwargs)
        stack.pop()  # not in a finally: after an error the stack says where it was
        if not module._modules:  # noqa: SLF001
            tape.calls.append(Call(path, args, out, start, len(tape.ops)))
        return out

    nn.Module.__call__ = call  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.__call__ = original  # type: ignore[method-assign]


def record(run: Callable[[], Any], tape: Tape, twins: dict[int, Tensor], paths: dict[int, str]) -> Any:
    """Run `run` under a recorder; what it raises is kept in `tape.error` and raised again."""
    recorder = Recorder(tape, twins, paths)
    try:
        with _module_calls(recorder), recorder:
            return run()
    except Exception as error:
        tape.error = error
        raise
