"""The figures of a run, before and after, and how they are written to JSON and read back."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Self, final

from torch import nn

from secateurs.errors import InputError

FORMAT = 1
"""Version of report.json."""


@final
@dataclass(frozen=True)
class Figures:
    """What one network is worth and what it costs."""

    accuracy: float | None
    """On the test split, a fraction, or what `Report.metric` names instead; None where there were no labels."""
    macs: int
    params: int
    memory: int
    """Bytes of activations in one forward pass on one input."""
    file_bytes: int
    latency: float
    """Median seconds of one forward pass on one input."""
    top5: float | None = None
    """Share of the test split whose class is among the five that the network ranks first."""


@final
@dataclass(frozen=True)
class LayerWidth:
    """Channels (or features) that a layer puts out, before and after."""

    name: str
    before: int
    after: int


@final
@dataclass(frozen=True)
class Stage:
    """Where the run stood: what had just been done, and the validation accuracy then."""

    name: str
    accuracy: float | None
    seconds: float = 0.0


@final
@dataclass(frozen=True)
class Report:
    """Everything that is told about a run; `conditions` says how it was measured, in the order to be read."""

    title: str
    before: Figures
    after: Figures
    widths: tuple[LayerWidth, ...]
    stages: tuple[Stage, ...]
    conditions: dict[str, str] = field(default_factory=dict)
    metric: str = "accuracy"
    """What stands in the fields called accuracy: it, or mIoU; empty where nothing was measured."""

    def to_json(self) -> str:
        """Write the report as JSON, with its format version."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read back what `to_json` wrote."""
        found: dict[str, Any] = json.loads(text)
        if (version := found.pop("format", None)) != FORMAT:
            raise InputError(f"this report has format {version}, and this version reads {FORMAT}; make the report anew")
        return cls(
            title=found["title"],
            before=Figures(**found["before"]),
            after=Figures(**found["after"]),
            widths=tuple(LayerWidth(**width) for width in found["widths"]),
            stages=tuple(Stage(**stage) for stage in found["stages"]),
            conditions=found["conditions"],
            metric=found.get("metric", "accuracy"),
        )


def layer_widths(before: nn.Module, after: nn.Module) -> tuple[LayerWidth, ...]:
    """The output widths of all convolutions and linear layers, in the order they are registered.

    >>> layer_widths(nn.Sequential(nn.Linear(3, 8)), nn.Sequential(nn.Linear(3, 5)))
    (LayerWidth(name='0', before=8, after=5),)
    """
    narrow = dict(after.named_modules())
    return tuple(
        LayerWidth(name, width, _width(narrow[name]) or 0)
        for name, module in before.named_modules()
        if (width := _width(module)) is not None and name in narrow
    )


def _width(module: nn.Module) -> int | None:
    for attribute in ("out_channels", "out_features"):
        width = getattr(module, attribute, None)
        if isinstance(width, int):
            return width
    return None
