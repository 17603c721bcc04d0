"""Explanations: the channels that are removed together, step by step, and the reasons for protected ones."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from secateurs.notebook import html_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def runs(index: tuple[int, ...]) -> str:
    """Indices in words, with runs joined.

    >>> runs((0, 1, 2, 3, 7, 9, 10))
    '0-3, 7, 9, 10'
    """
    found: list[list[int]] = []
    for i in index:
        if found and i == found[-1][-1] + 1:
            found[-1].append(i)
        else:
            found.append([i])
    pieces = (f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in found)
    return ", ".join(pieces)


@dataclass(frozen=True)
class Place:
    """An operator of the recorded forward: its name, the module that ran it, and the line of the user's code.

    >>> str(Place("aten.add.Tensor", "layer1.0", "resnet.py:103"))
    'aten.add.Tensor in layer1.0 (resnet.py:103)'
    """

    operator: str
    module: str
    source: str

    def __str__(self) -> str:
        """Operator, module and line."""
        return f"{self.operator} in {self.module or 'the model'}{f' ({self.source})' if self.source else ''}"


@dataclass(frozen=True)
class Piece:
    """Entries `index` along `dim` of a parameter or buffer.

    >>> str(Piece("conv1.weight", 0, (3, 4, 5)))
    'conv1.weight dim 0: 3-5'
    """

    tensor: str
    dim: int
    index: tuple[int, ...]

    def __str__(self) -> str:
        """Tensor, dimension and indices."""
        return f"{self.tensor} dim {self.dim}: {runs(self.index)}"


def brief(pieces: Iterable[Piece]) -> str:
    """Pieces in words: tensors of one module that lose the same entries are named together.

    >>> brief([Piece("bn1.weight", 0, (3, 5)), Piece("bn1.bias", 0, (3, 5)), Piece("conv2.weight", 1, (3, 5))])
    'bn1.weight, .bias dim 0: 3, 5; conv2.weight dim 1: 3, 5'
    """
    found: dict[tuple[str, int, tuple[int, ...]], list[str]] = {}
    for p in pieces:
        module, dot, leaf = p.tensor.rpartition(".")
        found.setdefault((module, p.dim, p.index), []).append(dot + leaf)
    named = (f"{module}{', '.join(leaves)} dim {dim}: {runs(index)}" for (module, dim, index), leaves in found.items())
    return "; ".join(named)


@dataclass(frozen=True)
class Step:
    """Entries removed at one operator: `meets` if they are added to, or otherwise combined with, removed ones."""

    place: Place
    pieces: tuple[Piece, ...]
    meets: bool = False

    def __str__(self) -> str:
        """The operator and the entries."""
        met = ", where they meet" if self.meets else ":"
        return f"{self.place}{met} {brief(self.pieces)}"


@dataclass(frozen=True)
class InStep:
    """Groups that lose units as well, whichever these are, because a width of theirs is taken for another.

    >>> print(InStep({"q": 4, "k": 4, "v": 4}, "aten.view.default in attention"))
    4 units each of 'q', 'k', 'v', whichever they are: a width is taken for another at aten.view.default in attention
    """

    units: Mapping[str, int]
    because: str

    def __str__(self) -> str:
        """Counts of units by group, and the reason."""
        by_count: dict[int, list[str]] = {}
        for name, count in self.units.items():
            by_count.setdefault(count, []).append(repr(name))
        counts = (
            f"{n} unit{'s' * (n > 1)}{' each' * (len(names) > 1)} of {', '.join(names)}"
            for n, names in by_count.items()
        )
        return f"{'; '.join(counts)}, whichever they are: a width is taken for another at {self.because}"


@dataclass(frozen=True)
class Kept:
    """Entries that are never removed, why, and how the first of them is bound to the operator that keeps it."""

    piece: Piece
    reason: str
    path: tuple[Step, ...] = ()

    def __str__(self) -> str:
        """The entries, each operator on the way, and the reason."""
        way = "".join(f"\n     entry {self.piece.index[0]} at {step}" for step in self.path)
        return f"{self.piece}{way}\n     because {self.reason}"


@dataclass(frozen=True)
class Explanation:
    """The entries that are removed together with some channels, step by step, and those that are protected.

    `asked`: the channels in question; `steps`: what is removed with them, from operator to operator; `units`: of each
    group that loses units, which; `numbers`: attributes of modules that count them and change; `tied`: groups that
    lose units in step; `kept`: what of the question is protected.
    """

    asked: tuple[Piece, ...]
    steps: tuple[Step, ...] = ()
    units: Mapping[str, tuple[int, ...]] | None = None
    numbers: tuple[str, ...] = ()
    tied: tuple[InStep, ...] = ()
    kept: tuple[Kept, ...] = ()

    def __repr__(self) -> str:
        """One line: how much goes, how much stays."""
        units = sum(map(len, (self.units or {}).values()))
        return f"Explanation({units} units go in {len(self.steps)} steps; {len(self.kept)} protections)"

    def __str__(self) -> str:
        """One line an operator."""
        lines: list[str] = []
        if self.units:
            lines.append(f"Removing {brief(self._going)} removes, step by step:")
            lines += [f"  {number}. {step}" for number, step in enumerate(self.steps, 1)]
            lines += [f"group {name!r} loses its units {runs(of)}" for name, of in self.units.items()]
        lines += [f"{number} changes with them" for number in self.numbers]
        lines += [f"in step go {tied}" for tied in self.tied]
        lines += [f"Never removed: {kept}" for kept in self.kept]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """The steps as a table, for notebooks."""
        rows = [(str(s.place), "meets" if s.meets else "", "; ".join(map(str, s.pieces))) for s in self.steps]
        rows += [(kept.reason, "keeps", str(kept.piece)) for kept in self.kept]
        return html_table(repr(self), ("operator or reason", "", "entries"), rows)

    @property
    def _going(self) -> list[Piece]:
        """Pieces of the question that can be removed."""
        stays: dict[tuple[str, int], set[int]] = {}
        for kept in self.kept:
            stays.setdefault((kept.piece.tensor, kept.piece.dim), set()).update(kept.piece.index)
        found = [
            Piece(p.tensor, p.dim, tuple(i for i in p.index if i not in stays.get((p.tensor, p.dim), ())))
            for p in self.asked
        ]
        return [piece for piece in found if piece.index]

    def to_json(self) -> str:
        """The same as JSON: operators as operator, module and source, entries as tensor, dim and index."""
        return json.dumps(self.as_dict())

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values."""
        return {
            "asked": [vars(piece) for piece in self.asked],
            "steps": [_plain(step) for step in self.steps],
            "units": dict(self.units or {}),
            "numbers": list(self.numbers),
            "tied": [{"units": dict(tied.units), "because": tied.because} for tied in self.tied],
            "kept": [
                {**vars(kept.piece), "reason": kept.reason, "path": [_plain(step) for step in kept.path]}
                for kept in self.kept
            ],
        }


def _plain(step: Step) -> dict[str, Any]:
    return {**vars(step.place), "meets": step.meets, "pieces": [vars(piece) for piece in step.pieces]}
