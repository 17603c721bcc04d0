"""Lower a network to an ExecuTorch program for XNNPACK, with an error that names an operator without a kernel."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any, final

import torch
from torch import nn

from secateurs.deploy.torch_form import captured
from secateurs.errors import DeviceError
from secateurs.running.compare import Call

LARGEST_BATCH = 64
"""Largest batch size of a program with a free batch, unless another is given: ExecuTorch plans memory for it."""


@final
@dataclass(frozen=True)
class Lowered:
    """Bytes of a .pte file, and the operators in it that XNNPACK does not run and ExecuTorch's own kernels do."""

    content: bytes
    outside: tuple[str, ...]


def to_executorch(model: nn.Module, call: Call, *, most: int | None = None) -> Lowered:
    """Lower a float32 model in eval mode: torch.export, the operators of XNNPACK delegated to it.

    most: the batch size is free up to it; None: fixed. Inputs and outputs are no part of the planned memory. Raises
    DeviceError if the model cannot be captured or an operator has no kernel, with its name.
    """
    # traced with the largest batch: torch's choice of a convolution kernel depends on the batch and would limit it
    program = captured(model, call, dynamic_batch=most is not None, most=most)
    with quiet():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import (  # pyright: ignore[reportMissingImports]
            XnnpackPartitioner,
        )
        from executorch.exir import (  # pyright: ignore[reportMissingImports]
            ExecutorchBackendConfig,
            to_edge_transform_and_lower,
        )
        from executorch.exir.passes import MemoryPlanningPass  # pyright: ignore[reportMissingImports]

        planned = MemoryPlanningPass(alloc_graph_input=False, alloc_graph_output=False)
        try:
            edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
            done = edge.to_executorch(ExecutorchBackendConfig(memory_planning_pass=planned))
        except Exception as cause:
            raise DeviceError(_told(cause)) from cause
    own = _own_kernels(done.exported_program().graph)
    missing = sorted(own - set(library()._get_operator_names()))  # noqa: SLF001 (the only list of the kernels there is)
    if missing:
        raise DeviceError(_without_kernel(", ".join(map(_short, missing))))
    return Lowered(bytes(done.buffer), tuple(sorted({_short(name) for name in own})))


@cache
def library() -> Any:
    """Import ExecuTorch's runtime. Raises DeviceError if it does not load beside this PyTorch."""
    try:
        with quiet():
            from executorch.extension.pybindings import portable_lib  # pyright: ignore[reportMissingImports]
    except ImportError as cause:
        raise DeviceError(
            f"executorch {version('executorch')} does not load beside torch {torch.__version__}: {cause}. "
            "Each release of executorch is built for one of torch; install those two."
        ) from cause
    return portable_lib


@contextmanager
def quiet() -> Generator[None]:
    """Silence warnings and logging, and remove the handlers that ExecuTorch adds to the root logger when imported."""
    root, disabled = logging.getLogger(), logging.root.manager.disable
    handlers, level = [*root.handlers], root.level
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        root.handlers[:] = handlers
        root.setLevel(level)


def _own_kernels(graph: torch.fx.Graph) -> set[str]:
    """Names of the operators on tensors that no delegate runs, as ExecuTorch registers them."""
    overloads = {node.target for node in graph.nodes if isinstance(node.target, torch._ops.OpOverload)}  # noqa: SLF001
    return {o.name() for o in overloads if any("Tensor" in str(r.type) for r in o._schema.returns)}  # noqa: SLF001


def _short(name: str) -> str:
    """Name of an operator without its overload.

    >>> _short("aten::cumsum.out")
    'aten.cumsum'
    """
    return name.partition(".")[0].replace("::", ".")


def _told(cause: BaseException) -> str:
    """Return the name of the operator that ExecuTorch refuses, or else the first line of the error."""
    # "Operator torch._ops.aten.special_i1.default is not in Core ATen opset"
    operator = re.search(r"Operator torch\._ops\.(\w+\.\w+)\S* is not in Core ATen", str(cause))
    if operator:
        return _without_kernel(operator[1])
    reason = " ".join(str(cause).split())[:300]
    return (
        f"the model cannot be lowered to ExecuTorch ({type(cause).__name__}): {reason} "
        "Use the runtime 'eager', 'compile' or 'onnxruntime'."
    )


def _without_kernel(operators: str) -> str:
    return (
        f"ExecuTorch has no kernel for {operators}, so it cannot run the model. Write it with other operators, or use "
        "the runtime 'eager' or 'compile'."
    )
