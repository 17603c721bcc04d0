"""Structured pruning: remove whole channels from a trained network, and prove that nothing else changed.

A channel is removed from every tensor that contains it: the filter that computes it, its BatchNorm entries, and the
input channels of the layers that read it. `trace` finds these sets in one run of the network without values; a
criterion scores them, a `Budget` says how much remains, and the result is an ordinary, smaller `nn.Module`:

>>> import torch
>>> import secateurs as sct
>>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3))
>>> images = torch.randn(16, 3, 8, 8)
>>> result = sct.prune(net, images[:1], method="l2", budget=sct.Budget(macs=0.5))
>>> result.model[0]
Conv2d(3, 4, kernel_size=(3, 3), stride=(1, 1))
>>> print(sct.verify(result.plan, net, images).error < 1e-9)  # removing a channel = setting it to zero
True
>>> small = sct.recover(result.model, net, [images], plan=result.plan)  # least squares, no labels, no training
>>> small(images).shape
torch.Size([16, 4, 4, 4])

Where to go from here:

- `prune`: one call, from a trained network to a smaller one; `sct.names()` lists the methods and criteria.
- `trace`, `plan`, `apply`, `verify`, `mask`: the same in single steps.
- `Session`: methods that prune while the network trains, in your own loop.
- `recover`: accuracy without labels; `save` and `load`: files without pickle; `Device` and `export`: latency, ONNX.
- `help(secateurs.prune)` and so on explain one name; `secateurs --help` is the command line.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from secateurs.version import library_version

if TYPE_CHECKING:
    from secateurs import allocate, criteria, deploy, errors, evidence, methods
    from secateurs.allocate import Alignment, Budget
    from secateurs.deploy import Device, export
    from secateurs.graph import Cost, Graph, Group, trace
    from secateurs.prune import Result, plan, prune
    from secateurs.recover import (
        Distil,
        FoldMeans,
        Recalibrate,
        Reconstruct,
        RepairVariance,
        recalibrate,
        recover,
        synthesise,
    )
    from secateurs.registry import names, register
    from secateurs.session import Session
    from secateurs.store import load, load_plan, save
    from secateurs.store.hub import pull, push
    from secateurs.surgery import Plan, Verification, apply, grow, mask, verify

__all__ = [
    "Alignment",
    "Budget",
    "Cost",
    "Device",
    "Distil",
    "FoldMeans",
    "Graph",
    "Group",
    "Plan",
    "Recalibrate",
    "Reconstruct",
    "RepairVariance",
    "Result",
    "Session",
    "Verification",
    "allocate",
    "apply",
    "criteria",
    "deploy",
    "errors",
    "evidence",
    "export",
    "grow",
    "load",
    "load_plan",
    "mask",
    "methods",
    "names",
    "plan",
    "prune",
    "pull",
    "push",
    "recalibrate",
    "recover",
    "register",
    "save",
    "synthesise",
    "trace",
    "verify",
]

__version__ = library_version()

_HOMES = {
    "allocate": ("Alignment", "Budget"),
    "deploy": ("Device", "export"),
    "graph": ("Cost", "Graph", "Group", "trace"),
    "prune": ("Result", "plan", "prune"),
    "recover": (
        "Distil",
        "FoldMeans",
        "Recalibrate",
        "Reconstruct",
        "RepairVariance",
        "recalibrate",
        "recover",
        "synthesise",
    ),
    "registry": ("names", "register"),
    "session": ("Session",),
    "store": ("load", "load_plan", "save"),
    "store.hub": ("pull", "push"),
    "surgery": ("Plan", "Verification", "apply", "grow", "mask", "verify"),
}
"""Module -> the names that are imported from it when they are first asked for: PyTorch takes seconds to import."""
_HOME = {name: module for module, public in _HOMES.items() for name in public}


def __getattr__(name: str) -> Any:
    """Import a public name on first access."""
    if name in _HOME:
        value = getattr(import_module(f"secateurs.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    if name in __all__:
        return import_module(f"secateurs.{name}")
    message = f"module 'secateurs' has no attribute {name!r}"
    raise AttributeError(message)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


class _Face(ModuleType):
    """The package itself, in which `prune` and `recover` stay the functions when the modules are imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        """Take a module's function of the same name, where that is public."""
        named_alike = isinstance(value, ModuleType) and _HOME.get(name) == name
        super().__setattr__(name, getattr(value, name) if named_alike else value)


sys.modules[__name__].__class__ = _Face
