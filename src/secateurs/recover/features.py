"""Compare the features of two networks of different widths by their spatial attention maps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from secateurs.errors import EvidenceError, InputError, near


def attention(x: Tensor) -> Tensor:
    """Return the mean square over channels at every position, normalised to length 1 per image: [images, positions].

        Q = Σ_c x_c² / ‖Σ_c x_c²‖

    x: [images, channels, height, width] (or more dimensions), or [images, tokens, channels].

    >>> x = torch.tensor([[[[3.0, 0.0]], [[0.0, 2.0]]]]).sqrt()  # two channels, two positions: sums of squares 3 and 2
    >>> attention(x * torch.tensor([1.0, 2.0])).double().round(decimals=4).tolist()  # 3 and 8 over √73
    [[0.3511, 0.9363]]
    """
    energy = x.float().square().sum(1 if x.dim() > 3 else -1).flatten(1)
    return torch.nn.functional.normalize(energy, dim=1)


class Watch:
    """Hooks that store the last output of some modules, until `close`."""

    def __init__(self, model: nn.Module, names: Iterable[str]) -> None:
        """Hook the modules; InputError for a name that the model lacks."""
        self.last: dict[str, Tensor] = {}
        known = dict(model.named_modules())
        for name in names:
            if name not in known:
                message = f"features names {name!r}, and {type(model).__name__} has no such module: {near(name, known)}"
                raise InputError(message)
        self._handles = [known[name].register_forward_hook(self._noted(name)) for name in names]

    def _noted(self, name: str) -> Any:
        def note(_: nn.Module, __: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple | list) and output else output
            if isinstance(first, Tensor) and first.dim() > 2:
                self.last[name] = first

        return note

    def taken(self, names: Iterable[str]) -> list[Tensor]:
        """Return the stored outputs, in order; EvidenceError if a module did not run or its output has no positions."""
        found, self.last = self.last, {}
        for name in names:
            if name not in found:
                message = (
                    f"{name!r} gave no output of three dimensions or more in this step. Features are compared by where "
                    "they are large. Name modules that run in every forward and put out maps or tokens."
                )
                raise EvidenceError(message)
        return [found[name] for name in names]

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()


def features_apart(students: Iterable[Tensor], teachers: Iterable[Tensor]) -> Tensor:
    """Squared distance of the attention maps, averaged over images and added over modules.

    Zagoruyko and Komodakis 2017 (arXiv:1612.03928, eq. 2, squares in place of lengths). The numbers of channels may
    differ, so that pruned layers can be compared; the numbers of positions must agree.
    """
    total: list[Tensor] = []
    for s, t in zip(students, teachers, strict=True):
        a, b = attention(s), attention(t.detach())
        if a.shape != b.shape:
            message = (
                f"the student's features have {a.shape[1]} positions and the teacher's {b.shape[1]}. They are compared "
                "position by position. Use the dense network that the student was cut from."
            )
            raise EvidenceError(message)
        total.append((a - b).square().sum(1).mean())
    return torch.stack(total).sum()
