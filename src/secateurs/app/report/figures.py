"""The figures of a run, before and after, and how they are written to JSON and read back (docs/report.md)."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self, final

from torch import nn

from secateurs.app.report.typed import typed
from secateurs.deploy import LayerTime, Measurement
from secateurs.errors import InputError

FORMAT = 2
"""Version of report.json."""


@final
@dataclass(frozen=True)
class Figures:
    """Accuracy and costs of one network."""

    accuracy: float | None
    """On the test split, a fraction, of the metric `Report.metric`; None without labels."""
    macs: int
    params: int
    memory: int
    """Bytes of activations written in one forward pass on one input."""
    peak_memory: int
    """Largest number of activation bytes alive at once."""
    file_bytes: int
    latency: float
    """Median seconds of one forward pass on one input, on the first of the report's devices."""
    top5: float | None = None
    """Share of the test split whose class is among the five that the network ranks first."""


@final
@dataclass(frozen=True)
class LayerWidth:
    """Output channels (or features) of a layer, before and after."""

    name: str
    before: int
    after: int


@final
@dataclass(frozen=True)
class Stage:
    """One finished stage of a run: its description and the validation accuracy after it.

    history: of each epoch that led there, its number, both losses and the accuracy (see `Epoch`).
    """

    name: str
    accuracy: float | None
    seconds: float = 0.0
    history: tuple[Mapping[str, float | None], ...] = ()


@final
@dataclass(frozen=True)
class Spread:
    """A time on a device: median and quartiles in seconds, over `runs` forward passes (see `Measurement`)."""

    median: float
    low: float
    high: float
    runs: int
    clock: str
    disturbed: float

    @classmethod
    def of(cls, found: Measurement) -> Self:
        """Return the reported part of a measurement."""
        return cls(found.median, found.low, found.high, found.runs, found.clock, found.disturbed)


@final
@dataclass(frozen=True)
class Timed:
    """Both networks measured alternately on one device; ratio: after over before, with its standard error."""

    device: str
    runtime: str
    threads: int
    before: Spread
    after: Spread
    ratio: float
    ratio_error: float


@final
@dataclass(frozen=True)
class LayerTimes:
    """Time of every layer or node of both networks, slowest first."""

    device: str
    before: tuple[LayerTime, ...]
    after: tuple[LayerTime, ...]


@final
@dataclass(frozen=True)
class Kept:
    """A reason for protection, and the tensors with protected channels."""

    reason: str
    tensors: tuple[str, ...]


@final
@dataclass(frozen=True)
class Settings:
    """The request and the environment of a run: method, budget, data, seed, versions, machine.

    method: its name and those options that differ from its defaults. budget: what remains, in the recipe's words;
    widths: how they are rounded. epochs: of training, pruning and fine-tuning. threads: of the training.
    """

    method: Mapping[str, Any]
    budget: Mapping[str, Any]
    widths: str
    epochs: Mapping[str, int]
    device: str
    threads: int
    data: Mapping[str, Any]
    recipe: Mapping[str, Any]
    versions: Mapping[str, str]


@final
@dataclass(frozen=True)
class Proof:
    """Verification of removal: relative error, its tolerance, and the number of single weights masked to zero."""

    error: float
    tolerance: float
    zeros: int = 0


@final
@dataclass(frozen=True)
class Report:
    """The complete report of a run; `conditions`: sentences about how it was measured."""

    title: str
    before: Figures
    after: Figures
    widths: tuple[LayerWidth, ...]
    stages: tuple[Stage, ...]
    settings: Settings
    proof: Proof
    latency: tuple[Timed, ...] = ()
    layers: LayerTimes | None = None
    protected: tuple[Kept, ...] = ()
    conditions: dict[str, str] = field(default_factory=dict)
    last: float | None = None
    """Test accuracy after the last epoch; `after` has the epoch that validated best. None: not recorded."""
    metric: str = "accuracy"
    """Name of the metric in the fields called accuracy: "accuracy", "mIoU" or "mAP"; empty if nothing was measured."""

    def to_json(self) -> str:
        """Write the report as JSON, with its format version."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a report from JSON; TypeError, KeyError or ValueError if it is not one."""
        found: dict[str, Any] = json.loads(text)
        if (version := found.pop("format", None)) != FORMAT:
            raise InputError(f"this report has format {version}, and this version reads {FORMAT}; make the report anew")
        return typed(cls, found)


def layer_widths(before: nn.Module, after: nn.Module) -> tuple[LayerWidth, ...]:
    """Return the output widths of all convolutions and linear layers, in order of registration.

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
