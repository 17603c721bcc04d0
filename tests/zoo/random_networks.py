"""Random networks as printable programs: one generator for seeds (ten thousand at a time) and for hypothesis.

A `Program` is a list of steps; step i computes value i + 1 from earlier values, value 0 is the image. Every size is a
power of two, so that a network without a flatten runs on images of twice the side.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from tests.zoo.laws import Subject, shake
from torch import Tensor, nn

SIDE = 8
WIDTHS = (4, 6, 8, 12)


@dataclass(frozen=True)
class Shape:
    """Channels and side of a square map."""

    channels: int
    side: int


# ---- steps ----


@dataclass(frozen=True)
class Step(ABC):
    """One operation on earlier values; `x` is the index of its (first) argument."""

    x: int

    @abstractmethod
    def shape(self, known: Sequence[Shape]) -> Shape:
        """The shape of the result."""

    def module(self, known: Sequence[Shape]) -> nn.Module:
        """The parameters of the step."""
        return nn.Identity()

    def run(self, module: nn.Module, values: Sequence[Tensor]) -> Tensor:
        """The result."""
        return module(values[self.x])


@dataclass(frozen=True)
class Conv(Step):
    out: int
    kernel: int = 3
    stride: int = 1
    groups: int = 1
    bias: bool = True

    def shape(self, known):
        return Shape(self.out, known[self.x].side // self.stride)

    def module(self, known):
        padding = self.kernel // 2
        return nn.Conv2d(
            known[self.x].channels, self.out, self.kernel, self.stride, padding, groups=self.groups, bias=self.bias
        )


@dataclass(frozen=True)
class Depthwise(Step):
    multiplier: int = 1

    def shape(self, known):
        return Shape(known[self.x].channels * self.multiplier, known[self.x].side)

    def module(self, known):
        width = known[self.x].channels
        return nn.Conv2d(width, width * self.multiplier, 3, padding=1, groups=width)


@dataclass(frozen=True)
class Transposed(Step):
    out: int
    groups: int = 1

    def shape(self, known):
        return Shape(self.out, known[self.x].side * 2)

    def module(self, known):
        return nn.ConvTranspose2d(known[self.x].channels, self.out, 2, stride=2, groups=self.groups)


class LayerNorm2d(nn.LayerNorm):
    """A layer norm over the channels of a map."""

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "batch without affine": lambda width: nn.BatchNorm2d(width, affine=False),
    "instance": lambda width: nn.InstanceNorm2d(width, affine=True, track_running_stats=True),
    "group": lambda width: nn.GroupNorm(2, width),
    "layer": LayerNorm2d,
}
ACTIVATIONS: dict[str, Callable[[int], nn.Module]] = {
    "relu": lambda _: nn.ReLU(),
    "silu": lambda _: nn.SiLU(),
    "sigmoid": lambda _: nn.Sigmoid(),
    "hardtanh": lambda _: nn.Hardtanh(0.1, 2),
    "prelu": nn.PReLU,
    "dropout": lambda _: nn.Dropout2d(0.2),
}


@dataclass(frozen=True)
class Norm(Step):
    kind: str

    def shape(self, known):
        return known[self.x]

    def module(self, known):
        return NORMS[self.kind](known[self.x].channels)


@dataclass(frozen=True)
class Activation(Step):
    kind: str

    def shape(self, known):
        return known[self.x]

    def module(self, known):
        return ACTIVATIONS[self.kind](known[self.x].channels)


@dataclass(frozen=True)
class InPlace(Step):
    """Works on a copy, in place, and writes its upper half of channels again."""

    def shape(self, known):
        return known[self.x]

    def run(self, module, values):
        out = values[self.x].clone().mul_(0.5)
        half = out.shape[1] // 2
        out[:, half:] += 1
        return F.relu_(out)


@dataclass(frozen=True)
class Add(Step):
    y: int

    def shape(self, known):
        return known[self.x]

    def run(self, module, values):
        return values[self.x] + values[self.y]


@dataclass(frozen=True)
class Multiply(Step):
    y: int

    def shape(self, known):
        return known[self.x]

    def run(self, module, values):
        return values[self.x] * values[self.y].tanh()


@dataclass(frozen=True)
class Concat(Step):
    others: tuple[int, ...]

    def shape(self, known):
        return Shape(sum(known[i].channels for i in (self.x, *self.others)), known[self.x].side)

    def run(self, module, values):
        return torch.cat([values[i] for i in (self.x, *self.others)], 1)


@dataclass(frozen=True)
class Chunk(Step):
    """One part of several equal ones; the other parts may be used by another step, or by none."""

    parts: int
    pick: int

    def shape(self, known):
        return Shape(known[self.x].channels // self.parts, known[self.x].side)

    def run(self, module, values):
        return values[self.x].chunk(self.parts, 1)[self.pick]


@dataclass(frozen=True)
class Halves(Step):
    """Both halves, used differently."""

    def shape(self, known):
        return Shape(known[self.x].channels // 2, known[self.x].side)

    def run(self, module, values):
        left, right = values[self.x].chunk(2, 1)
        return left * right.sigmoid()


@dataclass(frozen=True)
class Cut(Step):
    """Channels from a literal number on, or up to one."""

    at: int
    upper: bool

    def shape(self, known):
        width = known[self.x].channels
        return Shape(width - self.at if self.upper else self.at, known[self.x].side)

    def run(self, module, values):
        return values[self.x][:, self.at :] if self.upper else values[self.x][:, : self.at]


@dataclass(frozen=True)
class Shuffle(Step):
    groups: int

    def shape(self, known):
        return known[self.x]

    def run(self, module, values):
        b, c, h, w = values[self.x].shape
        return values[self.x].view(b, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(b, c, h, w)


@dataclass(frozen=True)
class Flip(Step):
    def shape(self, known):
        return known[self.x]

    def run(self, module, values):
        return values[self.x].flip(1)


@dataclass(frozen=True)
class PadChannels(Step):
    before: int
    after: int

    def shape(self, known):
        return Shape(known[self.x].channels + self.before + self.after, known[self.x].side)

    def run(self, module, values):
        return F.pad(values[self.x], (0, 0, 0, 0, self.before, self.after))


@dataclass(frozen=True)
class PadPixels(Step):
    """Padded, then averaged back to the same size."""

    mode: str

    def shape(self, known):
        return known[self.x]

    def run(self, module, values):
        return F.avg_pool2d(F.pad(values[self.x], (1, 1, 1, 1), self.mode), 3, 1)


@dataclass(frozen=True)
class Repeat(Step):
    interleaved: bool

    def shape(self, known):
        return Shape(known[self.x].channels * 2, known[self.x].side)

    def run(self, module, values):
        x = values[self.x]
        return x.repeat_interleave(2, 1) if self.interleaved else x.repeat(1, 2, 1, 1)


@dataclass(frozen=True)
class PixelShuffle(Step):
    def shape(self, known):
        return Shape(known[self.x].channels // 4, known[self.x].side * 2)

    def run(self, module, values):
        return F.pixel_shuffle(values[self.x], 2)


@dataclass(frozen=True)
class PixelUnshuffle(Step):
    def shape(self, known):
        return Shape(known[self.x].channels * 4, known[self.x].side // 2)

    def run(self, module, values):
        return F.pixel_unshuffle(values[self.x], 2)


@dataclass(frozen=True)
class Pool(Step):
    average: bool

    def shape(self, known):
        return Shape(known[self.x].channels, known[self.x].side // 2)

    def run(self, module, values):
        return F.avg_pool2d(values[self.x], 2) if self.average else F.max_pool2d(values[self.x], 2)


@dataclass(frozen=True)
class Upsample(Step):
    def shape(self, known):
        return Shape(known[self.x].channels, known[self.x].side * 2)

    def run(self, module, values):
        return F.interpolate(values[self.x], scale_factor=2, mode="nearest")


@dataclass(frozen=True)
class SqueezeExcite(Step):
    hidden: int

    def shape(self, known):
        return known[self.x]

    def module(self, known):
        width = known[self.x].channels
        return nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(width, self.hidden, 1),
            nn.ReLU(),
            nn.Conv2d(self.hidden, width, 1),
            nn.Sigmoid(),
        )

    def run(self, module, values):
        return values[self.x] * module(values[self.x])


@dataclass(frozen=True)
class SpatialGate(Step):
    """A map of one channel gates all of them."""

    def shape(self, known):
        return known[self.x]

    def module(self, known):
        return nn.Conv2d(known[self.x].channels, 1, 1)

    def run(self, module, values):
        return values[self.x] * module(values[self.x]).sigmoid()


@dataclass(frozen=True)
class Context(Step):
    """One pixel of context is added to all."""

    def shape(self, known):
        return known[self.x]

    def module(self, known):
        width = known[self.x].channels
        return nn.Conv2d(width, width, 1)

    def run(self, module, values):
        return values[self.x] + module(values[self.x].mean((2, 3), keepdim=True))


@dataclass(frozen=True)
class NonLocal(Step):
    """Attention between pixels, without a scale."""

    hidden: int

    def shape(self, known):
        return known[self.x]

    def module(self, known):
        width = known[self.x].channels
        parts = [nn.Conv2d(width, self.hidden, 1) for _ in range(3)]
        return nn.ModuleList([*parts, nn.Conv2d(self.hidden, width, 1)])

    def run(self, module, values):
        x = values[self.x]
        q, k, v = (module[i](x).flatten(2) for i in range(3))
        attention = (q.transpose(1, 2) @ k).softmax(-1)
        return x + module[3]((v @ attention.transpose(1, 2)).view(len(x), -1, *x.shape[2:]))


@dataclass(frozen=True)
class Again(Step):
    """The module of an earlier convolution or norm, called once more."""

    step: int
    out: int

    def shape(self, known):
        return Shape(self.out, known[self.x].side)


# ---- heads ----


@dataclass(frozen=True)
class Map(Step):
    """A dense prediction."""

    def shape(self, known):
        return Shape(2, known[self.x].side)

    def module(self, known):
        return nn.Conv2d(known[self.x].channels, 2, 1)


@dataclass(frozen=True)
class Classify(Step):
    """Average over pixels, then a linear layer."""

    def shape(self, known):
        return Shape(3, 1)

    def module(self, known):
        return nn.Linear(known[self.x].channels, 3)

    def run(self, module, values):
        return module(values[self.x].mean((2, 3)))


@dataclass(frozen=True)
class Flatten(Step):
    """A linear layer on all channels and pixels: the network then knows one size only."""

    def shape(self, known):
        return Shape(3, 1)

    def module(self, known):
        return nn.Linear(known[self.x].channels * known[self.x].side ** 2, 3)

    def run(self, module, values):
        return module(values[self.x].flatten(1))


@dataclass(frozen=True)
class Raw(Step):
    """The features themselves are an output."""

    def shape(self, known):
        return known[self.x]


# ---- programs ----


@dataclass(frozen=True)
class Program:
    """A network as a value."""

    steps: tuple[Step, ...]
    heads: tuple[Step, ...]

    def shapes(self) -> list[Shape]:
        """The shape of every value."""
        known = [Shape(3, SIDE)]
        for step in self.steps:
            known.append(step.shape(known))
        return known


class Network(nn.Module):
    """Interprets a program."""

    def __init__(self, program: Program):
        super().__init__()
        known = program.shapes()
        self.program = program
        self.steps = nn.ModuleList(step.module(known) for step in program.steps)
        self.heads = nn.ModuleList(head.module(known) for head in program.heads)

    def forward(self, x):
        values = [x]
        for step, module in zip(self.program.steps, self.steps, strict=True):
            chosen = self.steps[step.step] if isinstance(step, Again) else module
            values.append(step.run(chosen, values))
        found = [head.run(module, values) for head, module in zip(self.program.heads, self.heads, strict=True)]
        return found[0] if len(found) == 1 else tuple(found)


def subject(program: Program, seed: int = 0) -> Subject:
    """A program as the laws see it: float64, eval, the same weights for the same seed."""

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = shake(Network(program).double(), seed).eval()
    generator = torch.Generator().manual_seed(seed)
    small, large = (torch.randn(2, 3, side, side, generator=generator).double() for side in (SIDE, 2 * SIDE))
    fixed = any(isinstance(head, Flatten) for head in program.heads)
    return Subject(repr(program), lambda: copy.deepcopy(model), small, None if fixed else large)


# ---- choosing ----


class Choices(Protocol):
    """Where decisions come from: a random generator, or hypothesis."""

    def integer(self, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        ...


@dataclass(frozen=True, eq=False)
class Dice:
    """Decisions from a seed."""

    rng: np.random.Generator

    def integer(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))


@dataclass(frozen=True, eq=False)
class Drawn:
    """Decisions that hypothesis can shrink."""

    draw: Callable

    def integer(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))


def pick(choices: Choices, options: Sequence):
    """One of the options; the first is the simplest."""
    return options[choices.integer(0, len(options) - 1)]


def _divisors(*numbers: int) -> list[int]:
    return [d for d in (1, 2, 3, 4) if all(n % d == 0 for n in numbers)]


@dataclass(frozen=True, eq=False)
class Draft:
    """A program half written: what a proposal may look at."""

    steps: list[Step]
    known: list[Shape]
    choices: Choices

    def conv(self, x: int) -> Step:
        out = pick(self.choices, WIDTHS)
        stride = pick(self.choices, (1, 1, 2)) if self.known[x].side >= 4 else 1
        groups = pick(self.choices, (1, 1, pick(self.choices, _divisors(self.known[x].channels, out))))
        return Conv(x, out, pick(self.choices, (1, 3)), stride, groups, bool(self.choices.integer(0, 1)))

    def transposed(self, x: int) -> Step | None:
        out = pick(self.choices, WIDTHS)
        groups = pick(self.choices, _divisors(self.known[x].channels, out))
        return Transposed(x, out, groups) if self.known[x].side <= 8 else None

    def norm(self, x: int) -> Step:
        kind = pick(self.choices, ("batch", "batch", "batch", *NORMS))
        return Norm(x, "batch" if kind == "group" and self.known[x].channels % 2 else kind)

    def activation(self, x: int) -> Step:
        return Activation(x, pick(self.choices, tuple(ACTIVATIONS)))

    def meet(self, x: int) -> Step | None:
        partners = [i for i, shape in enumerate(self.known) if i and shape == self.known[x] and i != x]
        return pick(self.choices, (Add, Multiply))(x, pick(self.choices, partners)) if partners else None

    def concat(self, x: int) -> Step | None:
        partners = [i for i, shape in enumerate(self.known) if shape.side == self.known[x].side]
        others = tuple(pick(self.choices, partners) for _ in range(self.choices.integer(1, 2)))
        return Concat(x, others) if sum(self.known[i].channels for i in (x, *others)) <= 24 else None

    def chunk(self, x: int) -> Step | None:
        parts = [d for d in _divisors(self.known[x].channels) if d > 1]
        if not parts:
            return None
        count = pick(self.choices, parts)
        return Chunk(x, count, self.choices.integer(0, count - 1))

    def again(self, x: int) -> Step | None:
        width = self.known[x].channels
        fitting = [
            (i, self.known[i + 1].channels)
            for i, step in enumerate(self.steps)
            if self.known[step.x].channels == width
            and (isinstance(step, Norm) or (isinstance(step, Conv) and step.stride == 1))
        ]
        return Again(x, *pick(self.choices, fitting)) if fitting else None

    def layout(self, x: int) -> Step | None:
        """An operator that moves channels or pixels."""
        shape, choose = self.known[x], self.choices.integer
        half, quarter = shape.channels % 2 == 0, shape.channels % 4 == 0
        options: list[Callable[[], Step]] = [
            lambda: Flip(x),
            lambda: InPlace(x),
            lambda: PadPixels(x, pick(self.choices, ("constant", "reflect", "replicate", "circular"))),
        ]
        options += [lambda: Halves(x), lambda: Shuffle(x, 2)] * half
        options += [lambda: PixelShuffle(x)] * (quarter and shape.side <= 8)
        options += [lambda: PixelUnshuffle(x)] * (shape.channels <= 6 and shape.side >= 4)
        options += [lambda: Pool(x, bool(choose(0, 1)))] * (shape.side >= 4)
        options += [lambda: Upsample(x)] * (shape.side <= 8)
        options += [lambda: Cut(x, choose(1, 2), bool(choose(0, 1)))] * (shape.channels > 2)
        options += [lambda: PadChannels(x, choose(0, 2), choose(1, 2))] * (shape.channels <= 16)
        options += [lambda: Repeat(x, bool(choose(0, 1)))] * (shape.channels <= 12)
        return pick(self.choices, options)()

    def block(self, x: int) -> Step | None:
        """A small block with parameters of its own."""
        shape, choose = self.known[x], self.choices.integer
        options: list[Callable[[], Step]] = [lambda: SqueezeExcite(x, choose(2, 4)), lambda: SpatialGate(x)]
        options += [lambda: Context(x)]
        options += [lambda: Depthwise(x, choose(1, 2))] * (shape.channels <= 12)
        options += [lambda: NonLocal(x, choose(2, 4))] * (shape.side <= 8)
        return pick(self.choices, options)()

    def head(self, x: int) -> Step:
        shape = self.known[x]
        options = [Map, Classify, Map, Classify, Raw] + [Flatten] * (shape.channels * shape.side**2 <= 512)
        return pick(self.choices, options)(x)


PROPOSALS = (
    *[Draft.conv] * 5,
    *[Draft.norm] * 2,
    *[Draft.meet] * 3,
    *[Draft.layout] * 4,
    *[Draft.block] * 2,
    Draft.activation,
    Draft.concat,
    Draft.chunk,
    Draft.transposed,
    Draft.again,
)


def generate(choices: Choices) -> Program:
    """A program of three to twelve steps and one to three heads; arguments are mostly recent values."""
    draft = Draft([Conv(0, pick(choices, WIDTHS))], [Shape(3, SIDE)], choices)
    draft.known.append(draft.steps[0].shape(draft.known))
    for _ in range(choices.integer(2, 11)):
        x = max(1, len(draft.known) - 1 - pick(choices, (0, 0, 0, 1, 2, 4)))
        step = pick(choices, PROPOSALS)(draft, x) or draft.conv(x)
        draft.known.append(step.shape(draft.known))
        draft.steps.append(step)
    last = len(draft.steps)
    heads = [draft.head(max(1, last - back)) for back in range(pick(choices, (1, 1, 1, 2, 3)))]
    return Program(tuple(draft.steps), tuple(heads))


def from_seed(seed: int) -> Program:
    """The program of a seed."""
    return generate(Dice(np.random.default_rng(seed)))


@st.composite
def programs(draw) -> Program:
    """Programs that hypothesis can shrink."""
    return generate(Drawn(draw))
