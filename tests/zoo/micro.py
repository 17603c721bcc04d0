"""Micro-networks: one construct each, a few channels, a few pixels.

Most are a `Sandwich`: `conv1`, the construct, `conv2`. What a network expects of the graph is a minimal fact: units
that must be found (`Prunable`), or entries to be left alone for a stated reason (`Protected`). A network without facts
must only be accounted for: each channel of `watch` is in a group or protected with a reason, and every law holds.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from tests.zoo.laws import Subject, cast, shake
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils.checkpoint import checkpoint

# ---- the registry ----


@dataclass(frozen=True)
class Prunable:
    """Some group, exact or not as said (None: either), has this many units or more and holds `tensor` along `dim`."""

    units: int
    tensor: str = "conv1.weight"
    dim: int = 0
    exact: bool | None = True


@dataclass(frozen=True)
class Protected:
    """No entry along `dim` of `tensor` is prunable, and a reason says one of these words."""

    words: str
    tensor: str = "conv1.weight"
    dim: int = 0


Fact = Prunable | Protected
Inputs = Callable[[torch.Generator], Any]


@dataclass(frozen=True)
class Micro:
    """One construct: how to build it, what to feed it, and what must be known about it."""

    name: str
    make: Callable[[], nn.Module]
    inputs: Inputs
    second: Inputs | None
    expect: tuple[Fact, ...]
    watch: str | None
    dtype: torch.dtype

    def build(self, seed: int = 0) -> nn.Module:
        """The network in float64 and eval mode, the same for the same seed, with values that its precision can hold."""
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            torch.manual_seed(seed)
            return shake(self.make().to(self.dtype), seed).to(torch.float64).eval()

    def subject(self) -> Subject:
        """The network as the laws see it."""
        examples = [
            None if make is None else make(torch.Generator().manual_seed(1)) for make in (self.inputs, self.second)
        ]
        inputs, second = (cast(example, torch.float64) for example in examples)
        return Subject(self.name, self.build, inputs, second, self.dtype)


MICRO: list[Micro] = []


def image(size: int, channels: int = 3) -> Inputs:
    """Two square images."""
    return lambda generator: torch.randn(2, channels, size, size, generator=generator)


def rows(*shape: int) -> Inputs:
    """Two samples of any other shape."""
    return lambda generator: torch.randn(2, *shape, generator=generator)


def tokens(length: int, vocabulary: int = 12) -> Inputs:
    """Two sequences of integers."""
    return lambda generator: torch.randint(vocabulary, (2, length), generator=generator)


def micro(
    *expect: Fact,
    inputs: Inputs,
    second: Inputs | None = None,
    watch: str | None = "conv1.weight",
    dtype: torch.dtype = torch.float64,
) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Enter a class of network in the registry under its own name."""

    def register(cls: type[nn.Module]) -> type[nn.Module]:
        name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()
        MICRO.append(Micro(name, cls, inputs, second, expect, watch, dtype))
        return cls

    return register


def anysize(*expect: Fact, **options: Any) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """A network of images that takes any size: the plan must hold at a second one."""
    return micro(*expect, **({"inputs": image(8), "second": image(12)} | options))


class Sandwich(nn.Module):
    """`conv1`, a construct, `conv2`: subclasses give the widths, the parts and what happens in between."""

    width = after = 16

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, self.width, 3, padding=1)
        self.parts()
        self.conv2 = nn.Conv2d(self.after, 4, 3, padding=1)

    def parts(self) -> None:
        """Modules and parameters of the construct."""

    def between(self, x: Tensor) -> Tensor:
        """The construct."""
        return x

    def forward(self, x: Tensor) -> Any:
        return self.conv2(self.between(F.relu(self.conv1(x))))


def between(name: str, construct: Callable[[Tensor], Tensor], *expect: Fact, after: int = 16, **options: Any) -> None:
    """Enter a sandwich around one stateless expression."""
    cls = type(name, (Sandwich,), {"between": staticmethod(construct), "after": after, "__module__": __name__})
    anysize(*expect, **options)(cls)


def layer(name: str, make: Callable[[], nn.Module], *expect: Fact, after: int = 16, **options: Any) -> None:
    """Enter a sandwich around one module called `layer`."""

    def parts(self: Sandwich) -> None:
        self.layer = make()

    def construct(self: Sandwich, x: Tensor) -> Tensor:
        return self.layer(x)

    cls = type(name, (Sandwich,), {"parts": parts, "between": construct, "after": after, "__module__": __name__})
    anysize(*expect, **options)(cls)


ALL = Prunable(16)
HALVES = Prunable(8)

# ---- moving channels ----

between(
    "view_shuffle", lambda x: x.view(2, 4, x.shape[1] // 4, *x.shape[2:]).transpose(1, 2).reshape_as(x), Prunable(4)
)
between("shuffle_flat", lambda x: x.view(2, 2, -1, x.shape[2] * x.shape[3]).transpose(1, 2).reshape_as(x), HALVES)
layer("channel_shuffle", lambda: nn.ChannelShuffle(4), Prunable(4))
between("turned_in_place", lambda x: (torch.relu(x) * 2).transpose_(1, 3).sin().transpose_(1, 3), ALL)
between("flip", lambda x: x.flip(1), ALL)
between("roll", lambda x: x.roll(1, 1))
between("roll_pixels", lambda x: x.roll((1, 1), (2, 3)), ALL)
between("chunk", lambda x: torch.mul(*x.chunk(2, 1)), HALVES, after=8)
between("split_derived", lambda x: torch.mul(*x.split(x.shape[1] // 2, 1)), HALVES, after=8)
between("split_literal", lambda x: torch.mul(*x.split(8, 1)), Protected("split"), after=8)
between("slice_derived", lambda x: x[:, : x.size(1) // 2] * x[:, x.size(1) // 2 :], HALVES, after=8)
between("slice_literal", lambda x: x[:, :8] * x[:, 8:], Protected("slice"), after=8)
between("slice_step", lambda x: x[:, ::2] - x[:, 1::2], HALVES, after=8)
between("narrow_derived", lambda x: x.narrow(1, 0, x.shape[1] // 2), after=8)
between("select_one", lambda x: x[:, 0:1] * x)
between("unbind", lambda x: torch.add(*x.view(2, 2, -1, *x.shape[2:]).unbind(1)), HALVES, after=8)
between("unbind_channels", lambda x: torch.stack(x.unbind(1)[::-1], 1))
between("pixel_shuffle", lambda x: F.pixel_shuffle(x, 2), Prunable(4), after=4)
between("pixel_unshuffle", lambda x: F.pixel_unshuffle(x, 2), ALL, after=64)
between("space_to_depth_by_slices", lambda x: torch.cat([x[..., ::2, ::2], x[..., 1::2, 1::2]], 1), ALL, after=32)
between("repeat", lambda x: x.repeat(1, 2, 1, 1), ALL, after=32)
between("repeat_interleave", lambda x: x.repeat_interleave(2, 1), ALL, after=32)
between("expand", lambda x: x.unsqueeze(1).expand(-1, 2, -1, -1, -1).flatten(1, 2), ALL, after=32)
between("permutation_list", lambda x: x[:, [*range(8, 16), *range(8)]], Protected("index"))
between("view_hard_coded", lambda x: x.view(2, 16, -1).softmax(-1).view_as(x), Protected("view"))
between("view_hard_coded_gate", lambda x: x * x.view(2, 16, -1).amax(-1)[:, :, None, None], Protected("view|mul"))
between("view_derived", lambda x: x.view(2, x.shape[1], -1).softmax(-1).view_as(x), ALL)
between("channels_last_memory", lambda x: x.contiguous(memory_format=torch.channels_last) * 2, ALL)
between("movedim", lambda x: x.movedim(1, -1).tanh().movedim(-1, 1), ALL)
between("einsum_scale", lambda x: torch.einsum("bchw,bc->bchw", x, x.mean((2, 3))), ALL)
between("stack_of_branches", lambda x: torch.stack([x, x.tanh()], 1).sum(1), ALL)
between("zero_pad_channels", lambda x: F.pad(x, (0, 0, 0, 0, 2, 2)), ALL, after=20)
between("concat_zeros", lambda x: torch.cat([x, torch.zeros_like(x[:, :4])], 1), after=20)
between("concat_own_zeros", lambda x: torch.cat([x, x.new_zeros(2, 4, *x.shape[2:])], 1), ALL, after=20)
between("add_literal_zeros", lambda x: x + torch.zeros(1, 16, 1, 1), Protected("add|zeros"))
between("add_arange", lambda x: x + torch.arange(x.shape[1]).view(-1, 1, 1))
between("loop_over_channels", lambda x: torch.stack([x[:, c] * (c + 1) for c in range(x.shape[1])], 1))
between("unfold_fold", lambda x: F.fold(F.unfold(x, 3, padding=1), x.shape[2:], 3, padding=1), ALL)
between("tensor_unfold", lambda x: x.unfold(2, 2, 2).amax(-1), ALL)

# ---- pixels, not channels ----

between("interpolate_bilinear", lambda x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False), ALL)
between("interpolate_nearest", lambda x: F.interpolate(x, size=5), ALL)
between("pool_unpool", lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2))
between("avg_pool", lambda x: F.avg_pool2d(x, 3, 1, 1), ALL)
between("lp_pool", lambda x: F.lp_pool2d(x, 2, 2), ALL)
layer("pad_reflection", lambda: nn.ReflectionPad2d(1), ALL)
layer("pad_replication", lambda: nn.ReplicationPad2d(1), ALL)
layer("pad_circular", lambda: nn.CircularPad2d(1), ALL)
layer("conv_circular", lambda: nn.Conv2d(16, 16, 3, padding=1, padding_mode="circular"), ALL)
layer("conv_dilated_same", lambda: nn.Conv2d(16, 16, 3, padding="same", dilation=2), ALL)
layer("conv_strided", lambda: nn.Conv2d(16, 16, 3, stride=2, bias=False), ALL)
layer("softmax_of_pixels", lambda: nn.Softmax(-1), ALL)
between("fft_filter", lambda x: torch.fft.irfft2(torch.fft.rfft2(x) * 0.5, s=x.shape[-2:]))
between("pixels_as_matrix", lambda x: x @ x.transpose(2, 3), ALL)

# ---- convolutions ----

layer("conv_depthwise", lambda: nn.Conv2d(16, 16, 3, padding=1, groups=16), ALL)
layer("conv_depthwise_multiplier", lambda: nn.Conv2d(16, 32, 3, padding=1, groups=16), ALL, after=32)
layer("conv_grouped", lambda: nn.Conv2d(16, 16, 3, padding=1, groups=4), Prunable(4))
layer("conv_transposed", lambda: nn.ConvTranspose2d(16, 16, 2, stride=2), ALL, Prunable(16, "layer.weight", 1))
layer("conv_transposed_grouped", lambda: nn.ConvTranspose2d(16, 8, 2, stride=2, groups=4), Prunable(4), after=8)
layer("conv_transposed_depthwise", lambda: nn.ConvTranspose2d(16, 16, 2, stride=2, groups=16), ALL)


@anysize(ALL, Prunable(16, "weight"))
class FunctionalConv(Sandwich):
    def parts(self):
        self.weight = nn.Parameter(torch.randn(16, 16, 3, 3))
        self.bias = nn.Parameter(torch.randn(16))

    def between(self, x):
        return F.conv2d(x, self.weight, self.bias, padding=1)


@anysize(ALL)
class FunctionalDepthwiseConv(Sandwich):
    def parts(self):
        self.weight = nn.Parameter(torch.randn(16, 1, 3, 3))

    def between(self, x):
        return F.conv2d(x, self.weight, padding=1, groups=x.shape[1])


@anysize()
class FunctionalGroupedConv(Sandwich):
    def parts(self):
        self.weight = nn.Parameter(torch.randn(16, 4, 3, 3))

    def between(self, x):
        return F.conv2d(x, self.weight, padding=1, groups=4)


@anysize()
class PaddedThenGrouped(Sandwich):
    """Two empty channels complete the blocks of a grouped convolution; at the least, removing nothing works."""

    def parts(self):
        self.conv = nn.Conv2d(18, 16, 1, groups=2)

    def between(self, x):
        return self.conv(F.pad(x, (0, 0, 0, 0, 0, 2)))


@anysize(ALL)
class BlurByBuffer(Sandwich):
    """A fixed filter, the same for every channel: the width is derived."""

    def parts(self):
        self.register_buffer("kernel", torch.ones(1, 1, 3, 3) / 9)

    def between(self, x):
        return F.conv2d(x, self.kernel.expand(x.shape[1], -1, -1, -1), padding=1, groups=x.shape[1])


@anysize(ALL)
class MaskedConv(Sandwich):
    """PixelCNN: the weight is multiplied by a buffer before use."""

    def parts(self):
        self.conv = nn.Conv2d(16, 16, 3, padding=1)
        self.register_buffer("mask", torch.ones(16, 16, 3, 3).tril())

    def between(self, x):
        return F.conv2d(x, self.conv.weight * self.mask, self.conv.bias, padding=1)


@anysize()
class DynamicConv(Sandwich):
    """Conditional convolution: a mixture of expert filters, chosen by the image."""

    def parts(self):
        self.router = nn.Linear(16, 3)
        self.experts = nn.Parameter(torch.randn(3, 16, 16, 1, 1))

    def between(self, x):
        routing = self.router(x.mean((0, 2, 3))).softmax(-1)
        return F.conv2d(x, torch.einsum("k,koihw->oihw", routing, self.experts))


@micro(ALL, inputs=rows(3, 16), second=rows(3, 24))
class Conv1dNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv1d(3, 16, 3)
        self.norm = nn.BatchNorm1d(16)
        self.up = nn.ConvTranspose1d(16, 8, 2, stride=2)
        self.conv2 = nn.Conv1d(8, 4, 3)

    def forward(self, x):
        return self.conv2(self.up(F.relu(self.norm(self.conv1(x)))))


@micro(ALL, inputs=rows(1, 6, 6, 6), second=rows(1, 4, 8, 8))
class Conv3dNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv3d(1, 16, 3, padding=1)
        self.norm = nn.BatchNorm3d(16)
        self.up = nn.ConvTranspose3d(16, 8, 2, stride=2)
        self.conv2 = nn.Conv3d(8, 4, 3)

    def forward(self, x):
        return self.conv2(F.max_pool3d(self.up(F.relu(self.norm(self.conv1(x)))), 2))


# ---- scales, gates and sums of branches ----


@anysize(ALL, Prunable(16, "scale", 1))
class BufferScale(Sandwich):
    def parts(self):
        self.register_buffer("scale", torch.randn(1, 16, 1, 1))

    def between(self, x):
        return x * self.scale


@anysize(ALL, Prunable(16, "gamma"))
class LayerScale(Sandwich):
    def parts(self):
        self.conv = nn.Conv2d(16, 16, 1)
        self.gamma = nn.Parameter(1e-6 * torch.ones(16))

    def between(self, x):
        return x + self.conv(x) * self.gamma[:, None, None]


@anysize()
class IndexSelectBuffer(Sandwich):
    """A permutation kept in a buffer: either its numbers follow the plan or its channels are protected."""

    def parts(self):
        self.register_buffer("order", torch.randperm(16))

    def between(self, x):
        return x.index_select(1, self.order)


@anysize(Protected("16 channels|conv1|forward"))
class WidthCheck(Sandwich):
    """The network itself refuses another width."""

    def between(self, x):
        if x.shape[1] != 16:
            raise ValueError(f"expected 16 channels, got {x.shape[1]}")
        return x


@anysize(ALL, Prunable(4, "squeeze.weight"), Prunable(16, "excite.weight"))
class SqueezeExcite(Sandwich):
    def parts(self):
        self.squeeze = nn.Conv2d(16, 4, 1)
        self.excite = nn.Conv2d(4, 16, 1)

    def between(self, x):
        return x * self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1)))).sigmoid()


@anysize(ALL)
class ResidualOfOnePixel(Sandwich):
    """A (B, C, 1, 1) context is added to a (B, C, H, W) map."""

    def parts(self):
        self.context = nn.Conv2d(16, 16, 1)

    def between(self, x):
        return x + self.context(x.mean((2, 3), keepdim=True))


@anysize(Prunable(16, exact=False), Prunable(4, "mlp.0.weight"))
class ChannelAndSpatialAttention(Sandwich):
    """CBAM: the spatial half averages and compares over channels."""

    def parts(self):
        self.mlp = nn.Sequential(nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, 16))
        self.spatial = nn.Conv2d(2, 1, 3, padding=1)

    def between(self, x):
        x = x * (self.mlp(x.mean((2, 3))) + self.mlp(x.amax((2, 3)))).sigmoid()[:, :, None, None]
        return x * self.spatial(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)).sigmoid()


@anysize(ALL, Prunable(16, "film.weight"))
class Film(Sandwich):
    """A condition scales and shifts each channel; both halves of one linear layer belong to it."""

    def parts(self):
        self.film = nn.Linear(3, 32)

    def between(self, x):
        scale, shift = self.film(torch.ones(2, 3, dtype=x.dtype)).chunk(2, 1)
        return x * scale[:, :, None, None] + shift[:, :, None, None]


@anysize(ALL)
class Gating(Sandwich):
    def parts(self):
        self.value, self.gate = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1)

    def between(self, x):
        return x + self.value(x) * self.gate(x).sigmoid()


@anysize(ALL)
class OneChannelMap(Sandwich):
    """A map of one channel is squeezed, looked at and put back; its single unit can never go."""

    def parts(self):
        self.map = nn.Conv2d(16, 1, 1)

    def between(self, x):
        return x * self.map(x).squeeze(1).sigmoid().unsqueeze(1)


@anysize(ALL)
class SqueezeEverything(nn.Module):
    """`squeeze()` without a dimension: a width of one would change the rank."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        return self.head(F.adaptive_avg_pool2d(self.conv1(x), 1).squeeze())


@anysize(ALL, Prunable(16, "left.weight"), Prunable(16, "right.weight"))
class WhereBetweenBranches(Sandwich):
    def parts(self):
        self.left, self.right = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1)

    def between(self, x):
        left, right = self.left(x), self.right(x)
        return torch.where(left > right, left, right)


@anysize(ALL, Prunable(8, "branches.2.weight"))
class ConcatOfThree(Sandwich):
    def parts(self):
        self.branches = nn.ModuleList(nn.Conv2d(16, out, 1) for out in (4, 4, 8))

    def between(self, x):
        return torch.cat([branch(x) for branch in self.branches], 1)


@anysize(ALL, Prunable(8, "growth.0.weight"), Prunable(8, "growth.1.weight"))
class DenseConnections(Sandwich):
    after = 32

    def parts(self):
        self.norms = nn.ModuleList(nn.BatchNorm2d(16 + 8 * i) for i in range(2))
        self.growth = nn.ModuleList(nn.Conv2d(16 + 8 * i, 8, 3, padding=1) for i in range(2))

    def between(self, x):
        features = [x]
        for norm, conv in zip(self.norms, self.growth, strict=True):
            features.append(conv(F.relu(norm(torch.cat(features, 1)))))
        return torch.cat(features, 1)


@anysize(ALL)
class StochasticDepth(Sandwich):
    """A residual branch that training drops for some images."""

    def parts(self):
        self.conv = nn.Conv2d(16, 16, 3, padding=1)

    def between(self, x):
        branch = self.conv(x)
        if self.training:
            branch = branch * torch.empty(len(x), 1, 1, 1, dtype=x.dtype).bernoulli_(0.5)
        return x + branch


@anysize(ALL)
class InPlace(Sandwich):
    """`+=`, `add_`, `mul_` and an in-place activation module."""

    def parts(self):
        self.conv, self.act = nn.Conv2d(16, 16, 1), nn.ReLU(inplace=True)

    def between(self, x):
        y = self.conv(x)
        y += x
        return self.act(y.mul_(0.5).add_(x))


@anysize(watch="a.weight")
class SliceWrites(nn.Module):
    """Two branches are written into one buffer, at a split point taken from their widths."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.conv2 = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 10, 1), nn.Conv2d(16, 4, 1)

    def forward(self, x):
        a, b = self.a(x).relu(), self.b(x).relu()
        out = x.new_zeros(len(x), a.shape[1] + b.shape[1], *x.shape[2:])
        out[:, : a.shape[1]] = a
        out[:, a.shape[1] :] = b
        return self.conv2(out)


@anysize(watch="a.weight")
class SliceWritesLiteral(nn.Module):
    """The same with literal numbers."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.conv2 = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 10, 1), nn.Conv2d(16, 4, 1)

    def forward(self, x):
        out = torch.zeros(len(x), 16, *x.shape[2:], dtype=x.dtype)
        out[:, :6] = self.a(x)
        out[:, 6:] = self.b(x)
        return self.conv2(out.relu())


@anysize(ALL)
class WeightedFusion(Sandwich):
    """BiFPN: a vector of two weights is indexed by literals; its two entries are not channels."""

    def parts(self):
        self.conv, self.fusion = nn.Conv2d(16, 16, 1), nn.Parameter(torch.ones(2))

    def between(self, x):
        weight = F.relu(self.fusion)
        return (weight[0] * x + weight[1] * self.conv(x)) / (weight.sum() + 0.1)


@anysize(Prunable(8, "conv1.weight"), Prunable(16, "conv2.weight"))
class ShortcutOptionA(nn.Module):
    """The CIFAR ResNet: every second pixel, and zero channels on both sides, by literal numbers."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(16, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.fc = nn.Linear(16, 4)

    def forward(self, x):
        x = F.relu(self.conv1(x))
        shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4), "constant", 0)
        x = F.relu(self.norm(self.conv3(F.relu(self.conv2(x)))) + shortcut)
        return self.fc(x.mean((2, 3)))


# ---- norms, activations and reductions over channels ----

layer("batch_norm", lambda: nn.BatchNorm2d(16), ALL, Prunable(16, "layer.running_var"))
layer("batch_norm_without_affine", lambda: nn.BatchNorm2d(16, affine=False), ALL)
layer("batch_norm_without_statistics", lambda: nn.BatchNorm2d(16, track_running_stats=False), ALL)
layer("sync_batch_norm", lambda: nn.SyncBatchNorm(16), ALL)
layer("instance_norm", lambda: nn.InstanceNorm2d(16), ALL)
layer("instance_norm_affine", lambda: nn.InstanceNorm2d(16, affine=True), ALL, Prunable(16, "layer.weight"))
layer("instance_norm_statistics", lambda: nn.InstanceNorm2d(16, affine=True, track_running_stats=True), ALL)
layer("group_norm", lambda: nn.GroupNorm(4, 16), Prunable(4, exact=None))
layer("group_norm_of_one_group", lambda: nn.GroupNorm(1, 16), Prunable(16, exact=False))
layer("group_norm_of_single_channels", lambda: nn.GroupNorm(16, 16), Prunable(16, exact=None))
layer("local_response_norm", lambda: nn.LocalResponseNorm(3))
layer("prelu_shared", nn.PReLU, ALL)
layer("prelu_per_channel", lambda: nn.PReLU(16), ALL, Prunable(16, "layer.weight"))
layer("dropout", lambda: nn.Dropout(0.5), ALL)
layer("dropout_of_channels", lambda: nn.Dropout2d(0.5), ALL)
layer("glu", lambda: nn.GLU(1), HALVES, after=8)
layer("softmax2d", nn.Softmax2d)
layer("hardswish_in_place", lambda: nn.Sequential(nn.Conv2d(16, 16, 1), nn.Hardswish(inplace=True)), ALL)
between("clamp_above_zero", lambda x: x.clamp(0.1, 1), ALL)
between("where_itself", lambda x: torch.where(x > 0.3, x, -x), ALL)
between("maxout_of_neighbours", lambda x: x.view(2, -1, 2, *x.shape[2:]).amax(2), HALVES, after=8)
between("maxout_of_halves", lambda x: x.view(2, 2, -1, *x.shape[2:]).amax(1), HALVES, after=8)
between("softmax_over_channels", lambda x: x.softmax(1))
between("sort_channels", lambda x: x.sort(1).values)
between("topk_channels", lambda x: x * x.topk(3, 1).values.sum(1, keepdim=True))
between("cumsum_channels", lambda x: x.cumsum(1))
between("argmax_channel", lambda x: x * x.argmax(1, keepdim=True))
between("l2_normalise", lambda x: F.normalize(x, dim=1), Prunable(16, exact=None))
between("divide_by_sum", lambda x: x / (x.sum(1, keepdim=True) + 1), ALL)
between("mean_over_channels", lambda x: x - x.mean(1, keepdim=True), Prunable(16, exact=False))
between("mean_by_hand", lambda x: x - x.sum(1, keepdim=True) / x.shape[1])
between("scale_by_width", lambda x: x * x.shape[1] ** -0.5)
between("sum_of_sigmoids", lambda x: x * x.sigmoid().sum(1, keepdim=True))
between("log_sum_exp", lambda x: x - x.logsumexp(1, keepdim=True))
between("product_over_channels", lambda x: x + (x + 0.5).prod(1, keepdim=True))
between("variance_over_channels", lambda x: x * x.var(1, keepdim=True))
between("offset_contraction", lambda x: x * ((x + 1) * (x + 1)).sum(1, keepdim=True))
between("channel_gram", lambda x: (x.flatten(2) @ x.flatten(2).mT).tanh().matmul(x.flatten(2)).view_as(x), ALL)
between("channel_attention", lambda x: (x.flatten(2) @ x.flatten(2).mT).softmax(-1).matmul(x.flatten(2)).view_as(x))


@anysize(ALL, Prunable(16, "conv0.weight"))
class PreActivation(Sandwich):
    """The norm comes before the convolution, on a residual stream."""

    def parts(self):
        self.norm, self.conv0 = nn.BatchNorm2d(16), nn.Conv2d(16, 16, 3, padding=1)
        self.last = nn.Conv2d(16, 16, 1)

    def between(self, x):
        return x + self.last(F.relu(self.conv0(F.relu(self.norm(x)))))


@anysize(Prunable(16, exact=False))
class LayerNormChannelsLast(Sandwich):
    def parts(self):
        self.norm = nn.LayerNorm(16)

    def between(self, x):
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@anysize(Prunable(16, exact=False))
class LayerNormChannelsFirst(Sandwich):
    """Written out, as ConvNeXt's own code does it."""

    def parts(self):
        self.weight, self.bias = nn.Parameter(torch.ones(16)), nn.Parameter(torch.zeros(16))

    def between(self, x):
        centred = x - x.mean(1, keepdim=True)
        x = centred / (centred.pow(2).mean(1, keepdim=True) + 1e-6).sqrt()
        return self.weight[:, None, None] * x + self.bias[:, None, None]


@anysize(Prunable(16, exact=False))
class RmsNorm(Sandwich):
    def parts(self):
        self.norm = nn.RMSNorm(16)

    def between(self, x):
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@anysize(Prunable(32, "up.weight"), watch="up.weight")
class ConvNextBlock(Sandwich):
    """Channels-last MLP with layer norm and layer scale; its hidden width is exact."""

    def parts(self):
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.norm, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16)
        self.gamma = nn.Parameter(1e-6 * torch.ones(16, 1, 1))

    def between(self, x):
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + self.gamma * self.down(F.gelu(self.up(y))).permute(0, 3, 1, 2)


# ---- weights that are made from other tensors ----


@anysize(Prunable(16, "conv1.weight_v"), Prunable(16, "conv2.weight_v", 1), watch="conv1.weight_v")
class WeightNormOld(Sandwich):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.utils.weight_norm(self.conv1), nn.utils.weight_norm(self.conv2)
        with torch.no_grad():  # the hook keeps its last weight on the module: one without history can be copied
            self(torch.zeros(1, 3, 8, 8))


ORIGINAL = "parametrizations.weight.original"


@anysize(Prunable(16, f"conv1.{ORIGINAL}1"), Prunable(16, f"conv2.{ORIGINAL}1", 1), watch=f"conv1.{ORIGINAL}1")
class WeightNorm(Sandwich):
    def __init__(self):
        super().__init__()
        parametrizations.weight_norm(self.conv1)
        parametrizations.weight_norm(self.conv2)


@anysize(watch="conv1.weight_orig")
class SpectralNormOld(Sandwich):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.utils.spectral_norm(self.conv1), nn.utils.spectral_norm(self.conv2)
        with torch.no_grad():
            self(torch.zeros(1, 3, 8, 8))


@anysize(watch=f"conv1.{ORIGINAL}")
class SpectralNorm(Sandwich):
    def __init__(self):
        super().__init__()
        parametrizations.spectral_norm(self.conv1)
        parametrizations.spectral_norm(self.conv2)


@micro(inputs=rows(6), watch=f"first.{ORIGINAL}")
class Orthogonal(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = parametrizations.orthogonal(nn.Linear(6, 8)), nn.Linear(8, 4)

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


class Scaled(nn.Module):
    """weight = direction × exp(log-length), one length a filter."""

    def __init__(self, filters: int):
        super().__init__()
        self.length = nn.Parameter(torch.zeros(filters))

    def forward(self, weight):
        return weight * self.length.exp()[:, None, None, None]


@anysize(
    Prunable(16, f"conv1.{ORIGINAL}"), Prunable(16, "conv1.parametrizations.weight.0.length"), watch=f"conv1.{ORIGINAL}"
)
class CustomParametrization(Sandwich):
    def __init__(self):
        super().__init__()
        parametrize.register_parametrization(self.conv1, "weight", Scaled(16))


@anysize(Prunable(16, "conv1.weight_orig"), watch="conv1.weight_orig")
class TorchPruneMask(Sandwich):
    """`torch.nn.utils.prune`: weight = original × mask, by a forward pre-hook."""

    def __init__(self):
        super().__init__()
        prune.l1_unstructured(self.conv1, "weight", amount=0.5)
        with torch.no_grad():
            self(torch.zeros(1, 3, 8, 8))


class StandardisedConv(nn.Conv2d):
    """Weight standardisation: each filter has mean 0 and variance 1 over its inputs."""

    def forward(self, x):
        centred = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = centred / (centred.std((1, 2, 3), keepdim=True) + 1e-5)
        return self._conv_forward(x, weight, self.bias)


@anysize(Prunable(16, exact=False))
class WeightStandardisation(Sandwich):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = StandardisedConv(3, 16, 3), StandardisedConv(16, 4, 3)


@micro(Prunable(16, "weight", 0), inputs=rows(6), watch="weight")
class TiedAutoencoder(nn.Module):
    """The decoder is the encoder transposed: the inputs are outputs as well, the code is free."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(16, 6))

    def forward(self, x):
        return F.linear(F.tanh(F.linear(x, self.weight)), self.weight.t())


@micro(
    Prunable(16, "embedding.weight", 1),
    Prunable(32, "hidden.weight"),
    inputs=tokens(5),
    second=tokens(7),
    watch="hidden.weight",
)
class TiedEmbedding(nn.Module):
    """A language model whose output layer is its embedding."""

    def __init__(self):
        super().__init__()
        self.embedding, self.hidden = nn.Embedding(12, 16), nn.Linear(16, 32)
        self.out, self.decoder = nn.Linear(32, 16), nn.Linear(16, 12, bias=False)
        self.decoder.weight = self.embedding.weight

    def forward(self, x):
        x = self.embedding(x)
        return self.decoder(x + self.out(F.gelu(self.hidden(x))))


# ---- transformers, recurrent and linear networks ----


@micro(
    Prunable(16, "embedding.weight", 1),
    Prunable(32, "hidden.weight"),
    inputs=tokens(5),
    second=tokens(7),
    watch="hidden.weight",
)
class EmbeddingLinear(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.hidden, self.out = nn.Embedding(12, 16, padding_idx=0), nn.Linear(16, 32), nn.Linear(32, 4)

    def forward(self, x):
        return self.out(F.relu(self.hidden(self.embedding(x).mean(1))))


@anysize(Prunable(8, "theta.weight"), Prunable(8, "phi.weight"), Prunable(8, "g.weight"), ALL)
class NonLocal(Sandwich):
    """Attention between pixels: softmax over positions, contraction over channels."""

    def parts(self):
        self.theta, self.phi, self.g = (nn.Conv2d(16, 8, 1) for _ in range(3))
        self.out = nn.Conv2d(8, 16, 1)

    def between(self, x):
        theta, phi, g = (f(x).flatten(2) for f in (self.theta, self.phi, self.g))
        attention = (theta.transpose(1, 2) @ phi).softmax(-1)
        return x + self.out((g @ attention.transpose(1, 2)).unflatten(2, x.shape[2:]))


@anysize(Prunable(8, "q.weight"), Prunable(8, "v.weight"), ALL)
class EinsumAttention(Sandwich):
    def parts(self):
        self.q, self.k, self.v = (nn.Conv2d(16, 8, 1) for _ in range(3))
        self.out = nn.Parameter(torch.randn(16, 8))

    def between(self, x):
        attention = torch.einsum("bchw,bcij->bhwij", self.q(x), self.k(x)).flatten(3).softmax(-1)
        mixed = torch.einsum("bhwp,bcp->bchw", attention, self.v(x).flatten(2))
        return x + torch.einsum("bchw,oc->bohw", mixed, self.out)


@anysize()
class LinearAttention(Sandwich):
    """elu + 1 makes silence speak: a silent query and a silent key contract to 1."""

    def parts(self):
        self.q, self.k, self.v = (nn.Conv2d(16, 8, 1) for _ in range(3))
        self.out = nn.Conv2d(8, 16, 1)

    def between(self, x):
        q, k, v = F.elu(self.q(x).flatten(2)) + 1, F.elu(self.k(x).flatten(2)) + 1, self.v(x).flatten(2)
        mixed = torch.einsum("bcd,bcn->bdn", torch.einsum("bcn,bdn->bcd", k, v), q)
        normal = torch.einsum("bcn,bc->bn", q, k.sum(2)).unsqueeze(1)
        return x + self.out((mixed / normal).unflatten(2, x.shape[2:]))


@micro(inputs=rows(5, 6), second=rows(7, 6), watch="stem.weight")
class SelfAttention(nn.Module):
    """`nn.MultiheadAttention`, batch first, on a residual stream."""

    def __init__(self):
        super().__init__()
        self.stem, self.attention = nn.Linear(6, 16), nn.MultiheadAttention(16, 4, batch_first=True)
        self.out = nn.Linear(16, 4)

    def forward(self, x):
        x = self.stem(x)
        return self.out(x + self.attention(x, x, x, need_weights=False)[0])


@micro(inputs=lambda g: (torch.randn(5, 2, 6, generator=g), torch.randn(7, 2, 6, generator=g)), watch="stem.weight")
class CrossAttention(nn.Module):
    """`nn.MultiheadAttention`, sequence first, keys and values from elsewhere, attention weights returned."""

    def __init__(self):
        super().__init__()
        self.stem, self.memory = nn.Linear(6, 16), nn.Linear(6, 8)
        self.attention, self.out = nn.MultiheadAttention(16, 4, kdim=8, vdim=8), nn.Linear(16, 4)

    def forward(self, x, memory):
        memory = self.memory(memory)
        x, weights = self.attention(self.stem(x), memory, memory)
        return self.out(x), weights


@micro(Prunable(32, "mlp.0.weight"), inputs=rows(5, 16), second=rows(7, 16), watch="qkv.weight")
class FusedAttention(nn.Module):
    """One qkv layer, a literal number of heads, the width of a head derived; its scale follows from that width."""

    def __init__(self):
        super().__init__()
        self.heads = 4
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, -1))
        return x + self.mlp(x)


@micro(Prunable(4, "q.weight"), Prunable(4, "v.weight"), inputs=rows(5, 16), second=rows(7, 16), watch="q.weight")
class AttentionWithStoredScale(nn.Module):
    """The scale is a number on the module: channels within a head, or heads, can go exactly."""

    def __init__(self):
        super().__init__()
        self.heads, self.scale = 4, 0.5
        self.q, self.k, self.v, self.out = (nn.Linear(16, 16) for _ in range(4))

    def forward(self, x):
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        attention = (q @ k.mT * self.scale).softmax(-1)
        return self.out((attention @ v).transpose(1, 2).flatten(2))


@micro(inputs=rows(5, 16), second=rows(7, 16), watch="q.weight")
class AttentionWithHeadWidth(nn.Module):
    """The width of a head is literal and the number of heads derived: whole heads can go."""

    def __init__(self):
        super().__init__()
        self.head_dim = 4
        self.q, self.k, self.v, self.out = (nn.Linear(16, 16) for _ in range(4))

    def forward(self, x):
        q, k, v = (f(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for f in (self.q, self.k, self.v))
        return self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


@micro(Prunable(8, "mlp.0.weight"), inputs=image(8), watch="embed.weight")
class VisionTransformer(nn.Module):
    """Patches, class token, position embedding, one block."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 16, 4, stride=4)
        self.token, self.position = nn.Parameter(torch.randn(1, 1, 16)), nn.Parameter(torch.randn(1, 5, 16))
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        x = x + self.mlp(self.norm2(x))
        return self.head(x[:, 0])


@micro(Prunable(32, "layer.linear1.weight"), inputs=rows(5, 16), second=rows(7, 16), watch="layer.linear1.weight")
class TransformerEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, dropout=0.0)

    def forward(self, x):
        return self.layer(x)


@anysize(Prunable(16, "mlp.0.weight"), watch="mlp.0.weight")
class WindowAttention(Sandwich):
    """Swin: windows of 4 × 4 pixels, a table of relative positions, shifted by rolling pixels."""

    def parts(self):
        self.heads, self.window = 2, 4
        self.norm, self.qkv, self.out = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 16)
        self.table = nn.Parameter(torch.randn(7 * 7, 2))
        at = torch.cartesian_prod(torch.arange(4), torch.arange(4))
        gap = at[:, None] - at[None] + 3
        self.register_buffer("relative", gap[..., 0] * 7 + gap[..., 1])
        self.mlp = nn.Sequential(nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 16))

    def between(self, x):
        x = x.permute(0, 2, 3, 1)
        b, h, w, c = x.shape
        s = self.window
        y = self.norm(x).roll((-2, -2), (1, 2)).view(b, h // s, s, w // s, s, c).transpose(2, 3).reshape(-1, s * s, c)
        q, k, v = self.qkv(y).view(-1, s * s, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        bias = self.table[self.relative.view(-1)].view(s * s, s * s, -1).permute(2, 0, 1)
        y = ((q @ k.mT * (c // self.heads) ** -0.5 + bias).softmax(-1) @ v).transpose(1, 2).reshape(-1, s * s, c)
        y = self.out(y).view(b, h // s, w // s, s, s, c).transpose(2, 3).reshape(b, h, w, c).roll((2, 2), (1, 2))
        x = x + y
        return (x + self.mlp(x)).permute(0, 3, 1, 2)


@micro(inputs=rows(3, 12), second=rows(3, 16))
class LstmOnTop(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv1d(3, 16, 3)
        self.lstm, self.out = nn.LSTM(16, 8, num_layers=2, bidirectional=True, batch_first=True), nn.Linear(16, 4)

    def forward(self, x):
        return self.out(self.lstm(F.relu(self.conv1(x)).transpose(1, 2))[0][:, -1])


@micro(inputs=rows(3, 12), second=rows(3, 16))
class GruOnTop(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.gru, self.out = nn.Conv1d(3, 16, 3), nn.GRU(16, 8), nn.Linear(8, 4)

    def forward(self, x):
        features, state = self.gru(F.relu(self.conv1(x)).permute(2, 0, 1))
        return self.out(features), state


@micro(inputs=rows(6), watch="left.weight")
class BilinearLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(6, 8), nn.Linear(6, 8)
        self.both = nn.Bilinear(8, 8, 4)

    def forward(self, x):
        return self.both(self.left(x).relu(), self.right(x).relu())


@micro(inputs=image(8))
class BilinearPooling(nn.Module):
    """The outer product of the features with themselves, flattened: unit u owns a row and a column."""

    def __init__(self):
        super().__init__()
        self.conv1, self.out = nn.Conv2d(3, 8, 3), nn.Linear(64, 4)

    def forward(self, x):
        x = self.conv1(x).flatten(2)
        return self.out((x @ x.mT).flatten(1))


@micro(Prunable(16, exact=None), inputs=image(8))
class CosineHead(nn.Module):
    """Classes are directions: the score is a cosine."""

    def __init__(self):
        super().__init__()
        self.conv1, self.prototypes = nn.Conv2d(3, 16, 3), nn.Parameter(torch.randn(4, 16))

    def forward(self, x):
        x = self.conv1(x).mean((2, 3))
        return F.cosine_similarity(x[:, None], self.prototypes[None], dim=-1)


# ---- whole networks in small ----


@micro(ALL, inputs=image(8), second=image(12))
class PoolFlattenLinear(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.pool, self.fc = nn.Conv2d(3, 16, 3), nn.AdaptiveAvgPool2d(2), nn.Linear(64, 4)

    def forward(self, x):
        return self.fc(torch.flatten(self.pool(F.relu(self.conv1(x))), 1))


@micro(ALL, inputs=image(6))
class FlattenLinear(nn.Module):
    """VGG and LeNet: one channel is many columns of the first linear layer."""

    def __init__(self):
        super().__init__()
        self.conv1, self.fc = nn.Conv2d(3, 16, 3), nn.Linear(16 * 16, 4)

    def forward(self, x):
        x = F.relu(self.conv1(x))
        return self.fc(x.view(x.size(0), -1))


@micro(ALL, Prunable(16, "norm.weight"), inputs=image(4))
class FlattenBatchNorm(nn.Module):
    """A norm of flattened features: its parameters are cut in blocks of pixels."""

    def __init__(self):
        super().__init__()
        self.conv1, self.norm, self.fc = nn.Conv2d(3, 16, 3), nn.BatchNorm1d(64), nn.Linear(64, 4)

    def forward(self, x):
        return self.fc(self.norm(self.conv1(x).flatten(1)))


@micro(Protected("view"), inputs=image(6))
class LiteralFlatten(nn.Module):
    """`view(-1, 16 * 4 * 4)`: shapes only fit again if the batch grew, so the channels must stay."""

    def __init__(self):
        super().__init__()
        self.conv1, self.fc = nn.Conv2d(3, 16, 3), nn.Linear(16 * 16, 4)

    def forward(self, x):
        return self.fc(F.relu(self.conv1(x)).view(-1, 16 * 4 * 4))


@micro(inputs=rows(6), watch="fc.weight")
class Decoder(nn.Module):
    """Linear, unflatten, transposed convolutions: one channel is a block of rows."""

    def __init__(self):
        super().__init__()
        self.fc, self.unflatten = nn.Linear(6, 16 * 4), nn.Unflatten(1, (16, 2, 2))
        self.up, self.out = nn.ConvTranspose2d(16, 8, 2, stride=2), nn.Conv2d(8, 3, 1)

    def forward(self, x):
        return self.out(F.relu(self.up(F.relu(self.unflatten(self.fc(x))))))


@micro(Prunable(16, "fc.weight"), inputs=rows(6), watch="fc.weight")
class DecoderDerived(nn.Module):
    """The same with the number of channels left to the view."""

    def __init__(self):
        super().__init__()
        self.fc, self.up, self.out = nn.Linear(6, 16 * 4), nn.ConvTranspose2d(16, 8, 2, stride=2), nn.Conv2d(8, 3, 1)

    def forward(self, x):
        return self.out(F.relu(self.up(F.relu(self.fc(x).view(len(x), -1, 2, 2)))))


@anysize(Prunable(8, "down.weight"), Prunable(16, "bottom.weight"), watch="down.weight")
class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.bottom = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.up, self.out = nn.Conv2d(24, 8, 3, padding=1), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        skip = F.relu(self.down(x))
        deep = F.interpolate(F.relu(self.bottom(F.max_pool2d(skip, 2))), scale_factor=2, mode="nearest")
        return self.out(F.relu(self.up(torch.cat([skip, deep], 1))))


@anysize(ALL, Prunable(8, "branches.1.weight"), Prunable(8, "image.weight"))
class AtrousPyramid(Sandwich):
    """ASPP: dilated branches, a pooled branch stretched over the image, concatenation."""

    after = 32

    def parts(self):
        self.branches = nn.ModuleList(nn.Conv2d(16, 8, 3, padding=d, dilation=d) for d in (1, 2, 3))
        self.image = nn.Conv2d(16, 8, 1)

    def between(self, x):
        pooled = self.image(F.adaptive_avg_pool2d(x, 1))
        pooled = F.interpolate(pooled, size=x.shape[2:], mode="bilinear", align_corners=False)
        return torch.cat([*(branch(x) for branch in self.branches), pooled], 1)


@anysize(
    Prunable(16, "laterals.0.weight"),
    Prunable(16, "laterals.2.weight"),
    Prunable(8, "head.0.weight"),
    watch="laterals.1.weight",
)
class SharedHead(nn.Module):
    """One head looks at three levels: their widths are tied although they never meet."""

    def __init__(self):
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(3, 16, 1, stride=s) for s in (1, 2, 4))
        self.head = nn.Sequential(nn.Conv2d(16, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 1))

    def forward(self, x):
        return [self.head(lateral(x)) for lateral in self.laterals]


@anysize(Prunable(16, "conv.weight"), Prunable(16, "conv.weight", 1))
class CalledTwice(Sandwich):
    """A module that is called twice has its inputs tied to its outputs."""

    def parts(self):
        self.conv = nn.Conv2d(16, 16, 3, padding=1)

    def between(self, x):
        return self.conv(F.relu(self.conv(x)))


@anysize(ALL)
class SpatialTransformer(Sandwich):
    """A network that predicts where to look, and `grid_sample`."""

    def parts(self):
        self.locate = nn.Linear(16, 6)

    def between(self, x):
        theta = self.locate(x.mean((2, 3))).tanh().view(-1, 2, 3)
        return F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False)


@anysize(ALL, watch="conv1.weight")
class AuxiliaryHead(Sandwich):
    """A second head that exists in train mode only."""

    def parts(self):
        self.auxiliary = nn.Conv2d(16, 5, 1)

    def forward(self, x):
        x = F.relu(self.conv1(x))
        return (self.conv2(x), self.auxiliary(x)) if self.training else self.conv2(x)


# ---- Python around the network ----


@anysize(ALL)
class Checkpointed(Sandwich):
    def parts(self):
        self.conv = nn.Conv2d(16, 16, 3, padding=1)

    def between(self, x):
        return checkpoint(self.conv, x, use_reentrant=False)


@anysize(Prunable(16, exact=None))
class ControlFlow(Sandwich):
    """A branch that depends on values: here on a mean over the channels, which removal changes."""

    def between(self, x):
        return -x if x.mean() > 0 else x


@anysize(ALL)
class ControlFlowWithLayers(Sandwich):
    """A branch that decides which layer runs; the other one is never seen."""

    def parts(self):
        self.often, self.never = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1)

    def between(self, x):
        return self.never(x) if x.sum() < -1 else self.often(x)


class Sample(NamedTuple):
    """A named tuple of inputs."""

    left: Tensor
    right: list[Tensor]


@dataclass
class Batch:
    """A dataclass of inputs and outputs."""

    images: Tensor
    extra: dict[str, Tensor]


def _two(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.randn(2, 3, 8, 8, generator=generator), torch.randn(2, 3, 8, 8, generator=generator)


@micro(ALL, inputs=lambda g: (Batch(_two(g)[0], {"more": _two(g)[1]}),))
class DataclassInputs(Sandwich):
    def forward(self, batch):
        return Batch(super().forward(batch.images), {"more": super().forward(batch.extra["more"])})


@micro(ALL, inputs=lambda g: (Sample(_two(g)[0], [_two(g)[1]]), [{"x": (_two(g)[0],)}]))
class NestedInputs(Sandwich):
    def forward(self, sample, rest):
        parts = sample.left, sample.right[0], rest[0]["x"][0]
        return {"all": [(super(NestedInputs, self).forward(x), None, "a word", 3) for x in parts]}


@micro(ALL, inputs=lambda g: dict(zip(("image", "guide"), _two(g), strict=True)))
class KeywordInputs(Sandwich):
    def forward(self, *, guide, image=None, flag=True):
        return super().forward(image) + (super().forward(guide) if flag else 0)


@anysize(ALL)
class FrozenParameters(Sandwich):
    def __init__(self):
        super().__init__()
        self.requires_grad_(False)


@anysize(ALL, dtype=torch.float16)
class Float16(Sandwich):
    pass


@anysize(ALL, dtype=torch.bfloat16)
class BFloat16(Sandwich):
    pass


@anysize(ALL, dtype=torch.float32)
class Float32(Sandwich):
    pass


@anysize(ALL)
class UnusedModule(Sandwich):
    def parts(self):
        self.unused = nn.Conv2d(16, 16, 1)


@anysize(Protected("input|output"))
class SingleConv(nn.Module):
    """All of its channels are outputs."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3)

    def forward(self, x):
        return self.conv1(x)


@anysize(watch=None)
class NoLayer(nn.Module):
    """Nothing can be pruned, and that is no error."""

    def forward(self, x):
        return F.max_pool2d(x, 2).relu()


@anysize()
class UnregisteredModules(Sandwich):
    """Layers in a Python list: their parameters have no name, so what touches them must stay."""

    def parts(self):
        self.hidden = [nn.Conv2d(16, 16, 1).double().requires_grad_(False)]

    def between(self, x):
        return self.hidden[0](x)


@anysize()
class ForwardIsClosure(Sandwich):
    """`forward` is a lambda over the layers themselves: a copy of the model still runs the original's."""

    def __init__(self):
        super().__init__()
        conv1, conv2 = self.conv1, self.conv2
        self.forward = lambda x: conv2(F.relu(conv1(x)))


@anysize(ALL)
class ForwardIsBoundMethod(Sandwich):
    def __init__(self):
        super().__init__()
        self.forward = self.other

    def other(self, x):
        return self.conv2(F.silu(self.conv1(x)))


@anysize(ALL)
class StateCachedInForward(Sandwich):
    """The last features are kept on the module and used again."""

    def between(self, x):
        self.seen = x
        return self.seen * 2


@anysize(ALL)
class UserHooks(Sandwich):
    """Hooks that change what a layer is given and what it returns."""

    def __init__(self):
        super().__init__()
        self.conv1.register_forward_hook(_double)
        self.conv2.register_forward_pre_hook(_shift)


def _double(module, inputs, output):
    return output * 2


def _shift(module, inputs):
    return (inputs[0] + 0.5,)


class _Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * x.sigmoid() * (1 + x * (1 - x.sigmoid()))


between("custom_autograd_function", _Swish.apply, ALL)


class _Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return torch.from_numpy(x.detach().numpy() * 2)

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 2


between("through_numpy", _Doubled.apply)


# ---- traps: shapes fit, and numbers would be wrong ----

between("divide_by_numel", lambda x: x - x.sum((1, 2, 3), keepdim=True) / x[0].numel())
between("divide_by_width_tensor", lambda x: x - x.sum(1, keepdim=True) / torch.tensor(float(x.shape[1])))
between("divide_by_full", lambda x: x - x.sum(1, keepdim=True) / torch.full((1,), float(x.shape[1])))
between("linspace_over_channels", lambda x: x * torch.linspace(0, 1, x.shape[1])[:, None, None])
between("item_of_mean", lambda x: x * x.mean().item())
between("item_of_sum", lambda x: x * x.sum().item(), ALL)
between("width_decides", lambda x: x * 2 if x.shape[1] > 8 else x)
between("first_channel_written", lambda x: torch.cat([x[:, :1] * 0, x[:, 1:]], 1))
between("one_channel_broadcast", lambda x: x * x.sum(1, keepdim=True), ALL)
between("gather_largest", lambda x: x * x.gather(1, x.argmax(1, keepdim=True)))
between("identity_matrix", lambda x: torch.einsum("cd,bdhw->bchw", torch.eye(x.shape[1], dtype=x.dtype), x))
between("boolean_write", lambda x: x.clone().masked_fill_(x > 0.5, 0.5), ALL)
between("pointwise_of_three", lambda x: torch.lerp(x, x.tanh(), 0.3).addcmul(x, x, value=0.1), ALL)
between("similarity_of_images", lambda x: x * (x.flatten(1) @ x.flatten(1).mT).tanh().sum(), ALL)
between("vmapped", lambda x: x + torch.vmap(lambda image: image * image.sum((1, 2), keepdim=True).tanh())(x), ALL)


@anysize()
class NeighbouringChannels(Sandwich):
    """Efficient channel attention: a 1-d convolution slides over the channels; removal brings others side by side."""

    def parts(self):
        self.slide = nn.Conv1d(1, 1, 3, padding=1)

    def between(self, x):
        return x * self.slide(x.mean((2, 3)).unsqueeze(1)).sigmoid().squeeze(1)[:, :, None, None]


@anysize()
class ChannelEmbedding(Sandwich):
    """A table is looked up by the number of the channel."""

    def parts(self):
        self.table = nn.Embedding(16, 1)

    def between(self, x):
        return x + self.table(torch.arange(x.shape[1]))[:, :, None]


@anysize()
class FirstChannelOverwritten(Sandwich):
    """One channel, named by a literal, is written in place."""

    def between(self, x):
        x = x * 1
        x[:, 0] = 0.5
        return x


@anysize(ALL, Prunable(16, "scale"))
class SlimmableScale(Sandwich):
    """A longer parameter is cut to the width."""

    def parts(self):
        self.scale = nn.Parameter(torch.ones(24))

    def between(self, x):
        return x * self.scale[: x.shape[1], None, None]


@anysize(ALL)
class SlimmableConv(Sandwich):
    """A wider weight is cut to the width of its input."""

    def parts(self):
        self.weight = nn.Parameter(torch.randn(16, 24, 1, 1))

    def between(self, x):
        return F.conv2d(x, self.weight[:, : x.shape[1]])


@anysize(HALVES)
class EverythingIsEight(Sandwich):
    """Batch, width, height and channels have one size, and none may be taken for another."""

    width = after = 8

    def parts(self):
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def between(self, x):
        x = F.interpolate(x, size=8).repeat(4, 1, 1, 1)
        return self.conv(x.permute(2, 1, 0, 3)).permute(2, 1, 0, 3) + x


@micro(ALL, inputs=image(8))
class CountsCalls(Sandwich):
    """A plain attribute and a buffer are updated by each forward, in eval mode too."""

    def parts(self):
        self.calls = 0
        self.register_buffer("average", torch.zeros(16))

    def between(self, x):
        self.calls += 1
        self.average.mul_(0.9).add_(0.1 * x.detach().mean((0, 2, 3)))
        return x - self.average[:, None, None]


# ---- blocks of the literature ----


@anysize(ALL)
class ChannelsAsBatch(Sandwich):
    """Every channel becomes an image of its own, is filtered by one filter, and comes back."""

    def parts(self):
        self.filter = nn.Conv2d(1, 1, 3, padding=1)

    def between(self, x):
        b, c, h, w = x.shape
        return self.filter(x.reshape(b * c, 1, h, w)).view(b, c, h, w)


@anysize(ALL)
class ModulatedConv(Sandwich):
    """StyleGAN 2: one filter bank an image, run as a grouped convolution over the batch."""

    def parts(self):
        self.style, self.weight = nn.Linear(3, 16), nn.Parameter(torch.randn(16, 16, 3, 3))

    def between(self, x):
        b, c, h, w = x.shape
        style = self.style(torch.ones(b, 3, dtype=x.dtype)).view(b, 1, -1, 1, 1)
        weight = self.weight * style
        weight = weight * (weight.pow(2).sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
        out = F.conv2d(x.reshape(1, b * c, h, w), weight.flatten(0, 1), padding=1, groups=b)
        return out.view(b, -1, h, w)


@anysize(ALL)
class InstanceStyle(Sandwich):
    """AdaIN: the statistics of each channel are replaced by those of a style."""

    def parts(self):
        self.style = nn.Linear(3, 32)

    def between(self, x):
        mean, spread = self.style(torch.ones(2, 3, dtype=x.dtype)).view(2, 2, -1, 1, 1).unbind(1)
        return (x - x.mean((2, 3), keepdim=True)) / (x.std((2, 3), keepdim=True) + 0.1) * spread + mean


@anysize(ALL, HALVES, Prunable(8, "primary.weight"))
class GhostModule(Sandwich):
    """Half of the features are cheap copies of the other half; a literal slice keeps as many as there are."""

    def parts(self):
        self.width_out = 16
        self.primary, self.cheap = nn.Conv2d(16, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8)

    def between(self, x):
        x = self.primary(x)
        return torch.cat([x, self.cheap(x)], 1)[:, : self.width_out]


@anysize(Prunable(8, "branches.weight"), Prunable(4, "squeeze.weight"))
class SplitAttention(Sandwich):
    """ResNeSt: two branches from one grouped convolution are weighed against each other, channel by channel."""

    after = 8

    def parts(self):
        self.branches = nn.Conv2d(16, 16, 3, padding=1)
        self.squeeze, self.weigh = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 16, 1)

    def between(self, x):
        b, _, h, w = x.shape
        parts = self.branches(x).view(b, 2, -1, h, w)
        weights = self.weigh(F.relu(self.squeeze(parts.sum(1).mean((2, 3), keepdim=True))))
        return (parts * weights.view(b, 2, -1, 1, 1).softmax(1)).sum(1)


@anysize(ALL, Prunable(16, "large.weight"), Prunable(16, "small.weight"))
class SelectiveKernel(Sandwich):
    """Two branches are mixed by a softmax between them."""

    def parts(self):
        self.large, self.small = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 1)
        self.choose = nn.ModuleList(nn.Linear(16, 16) for _ in range(2))

    def between(self, x):
        branches = torch.stack([self.large(x), self.small(x)], 1)
        pooled = branches.sum(1).mean((2, 3))
        weights = torch.stack([choose(pooled) for choose in self.choose], 1).softmax(1)
        return (branches * weights[..., None, None]).sum(1)


@anysize(ALL, Prunable(4, "squeeze.weight"))
class CoordinateAttention(Sandwich):
    """Rows and columns are pooled, joined along pixels, and split again."""

    def parts(self):
        self.squeeze, self.rows, self.columns = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1), nn.Conv2d(4, 16, 1)

    def between(self, x):
        pooled = torch.cat([x.mean(3, keepdim=True), x.mean(2, keepdim=True).transpose(2, 3)], 2)
        rows, columns = self.squeeze(pooled).relu().split([x.shape[2], x.shape[3]], 2)
        return x * self.rows(rows).sigmoid() * self.columns(columns.transpose(2, 3)).sigmoid()


@anysize(ALL, Prunable(16, "large", 0), Prunable(16, "small", 1))
class ReparametrisedConv(Sandwich):
    """RepVGG: a small and a large kernel are added before use."""

    def parts(self):
        self.large = nn.Parameter(torch.randn(16, 16, 3, 3))
        self.small = nn.Parameter(torch.randn(16, 16, 1, 1))

    def between(self, x):
        return F.conv2d(x, self.large + F.pad(self.small, (1, 1, 1, 1)), padding=1)


@anysize(ALL, Prunable(8, "first"), Prunable(8, "second"))
class ConcatenatedWeights(Sandwich):
    """Two filter banks are joined into one convolution."""

    def parts(self):
        self.first, self.second = (nn.Parameter(torch.randn(8, 16, 1, 1)) for _ in range(2))

    def between(self, x):
        return F.conv2d(x, torch.cat([self.first, self.second]))


@anysize(ALL, Prunable(8, "down.weight"))
class TiedTransposedConv(Sandwich):
    """The decoder uses the encoder's filters."""

    def parts(self):
        self.down = nn.Conv2d(16, 8, 3, padding=1)

    def between(self, x):
        return F.conv_transpose2d(F.relu(self.down(x)), self.down.weight, padding=1)


@micro(Prunable(16, "hidden.weight"), Prunable(4, "a"), inputs=rows(6), watch="hidden.weight")
class LowRankUpdate(nn.Module):
    """LoRA: weight + B A; the rank is a group of its own."""

    def __init__(self):
        super().__init__()
        self.hidden, self.out = nn.Linear(6, 16), nn.Linear(16, 4)
        self.a, self.b = nn.Parameter(torch.randn(4, 6)), nn.Parameter(torch.randn(16, 4))

    def forward(self, x):
        return self.out(F.gelu(F.linear(x, self.hidden.weight + self.b @ self.a, self.hidden.bias)))


@anysize()
class HyperNetwork(Sandwich):
    """The filters are the output of a linear layer, cut by literal numbers."""

    def parts(self):
        self.code, self.expand = nn.Parameter(torch.randn(4)), nn.Linear(4, 16 * 16)

    def between(self, x):
        return F.conv2d(x, self.expand(self.code).view(16, 16, 1, 1))


@anysize(ALL, Prunable(16, "layer.weight"))
class FrozenBatchNorm(Sandwich):
    """A norm whose scale and shift are buffers."""

    def parts(self):
        self.layer = nn.Module()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.layer.register_buffer(name, 0.5 + torch.rand(16))

    def between(self, x):
        mean, spread = self.layer.running_mean, (self.layer.running_var + 1e-5).sqrt()
        scale = self.layer.weight / spread
        return x * scale.view(1, -1, 1, 1) + (self.layer.bias - mean * scale).view(1, -1, 1, 1)


@anysize(ALL)
class FixedProjection(Sandwich):
    """A convolution whose weight is a buffer."""

    def parts(self):
        self.register_buffer("weight", torch.randn(16, 16, 1, 1))

    def between(self, x):
        return F.conv2d(x, self.weight)


@anysize(ALL, Prunable(16, "codes.weight", 1))
class VectorQuantiser(Sandwich):
    """Each pixel becomes its nearest code; the gradient goes straight through."""

    def parts(self):
        self.codes = nn.Embedding(5, 16)

    def between(self, x):
        pixels = x.permute(0, 2, 3, 1)
        gaps = self.codes.weight.pow(2).sum(1) - 2 * pixels @ self.codes.weight.T
        nearest = self.codes(gaps.argmin(-1)).permute(0, 3, 1, 2)
        return nearest * x + (nearest - x).detach()


@micro(Prunable(8, "tokens.0.weight"), Prunable(32, "channels.0.weight"), inputs=rows(6, 16), watch="channels.0.weight")
class MlpMixer(nn.Module):
    """One network over the tokens, one over the channels."""

    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(16) for _ in range(2))
        self.tokens = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 6))
        self.channels = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))

    def forward(self, x):
        x = x + self.tokens(self.norms[0](x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norms[1](x))


@micro(Prunable(16, "gate.weight"), Prunable(16, "up.weight"), inputs=rows(5, 8), second=rows(7, 8), watch="up.weight")
class GatedMlp(nn.Module):
    """SwiGLU: two layers meet in a product."""

    def __init__(self):
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x):
        return self.down(F.silu(self.gate(x)) * self.up(x))


@micro(Prunable(4, "v.weight"), inputs=rows(5, 16), second=rows(7, 16), watch="v.weight")
class GroupedQueryAttention(nn.Module):
    """Rotary positions, four query heads over two heads of keys and values."""

    def __init__(self):
        super().__init__()
        self.heads, self.shared, self.scale = 4, 2, 0.5
        self.q, self.k, self.v = nn.Linear(16, 32), nn.Linear(16, 16), nn.Linear(16, 16)
        self.out = nn.Linear(32, 16)
        angles = torch.arange(8.0)[:, None] * 10.0 ** -torch.arange(4.0)
        self.register_buffer("cosine", angles.repeat(1, 2).cos())
        self.register_buffer("sine", angles.repeat(1, 2).sin())

    def rotate(self, x):
        left, right = x.chunk(2, -1)
        length = x.shape[2]
        return x * self.cosine[:length] + torch.cat([-right, left], -1) * self.sine[:length]

    def forward(self, x):
        b, n, _ = x.shape
        q = self.rotate(self.q(x).view(b, n, self.heads, -1).transpose(1, 2))
        k = self.rotate(self.k(x).view(b, n, self.shared, -1).transpose(1, 2))
        v = self.v(x).view(b, n, self.shared, -1).transpose(1, 2)
        k, v = (t.repeat_interleave(self.heads // self.shared, 1) for t in (k, v))
        attention = (q @ k.mT * self.scale).softmax(-1)
        return self.out((attention @ v).transpose(1, 2).flatten(2))


@micro(Prunable(16, "up.weight"), inputs=rows(5, 8), second=rows(7, 8), watch="up.weight")
class LongPositions(nn.Module):
    """A table of positions longer than the example: what this example does not read, the next one may."""

    def __init__(self):
        super().__init__()
        self.positions = nn.Parameter(torch.randn(1, 9, 8))
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x):
        return self.down(F.gelu(self.up(x + self.positions[:, : x.shape[1]])))


@micro(Prunable(16, exact=False), inputs=image(8), second=image(12))
class PatchMerging(nn.Module):
    """Swin: four neighbouring pixels are joined, normalised and projected."""

    def __init__(self):
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(3, 16, 1), nn.LayerNorm(64)
        self.reduce, self.out = nn.Linear(64, 8, bias=False), nn.Linear(8, 4)

    def forward(self, x):
        x = self.conv1(x).permute(0, 2, 3, 1)
        x = torch.cat([x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], -1)
        return self.out(F.gelu(self.reduce(self.norm(x))))


# ---- operators nobody has a rule for, and more Python ----


@torch.library.custom_op("secateurs_zoo::smooth", mutates_args=())
def smooth(x: Tensor) -> Tensor:
    """An operator of the user: what it does with channels is its secret."""
    return x.flip(1) * 0.5


@smooth.register_fake
def _(x):
    return torch.empty_like(x)


smooth.register_autograd(lambda ctx, gradient: gradient.flip(1) * 0.5)
between("unknown_operator", lambda x: 2 * smooth(x), Protected("smooth"))


@anysize(ALL)
class BackboneWithoutGradient(Sandwich):
    """The backbone runs under `no_grad`: only the head trains, before and after."""

    def forward(self, x):
        with torch.no_grad():
            x = F.relu(self.conv1(x))
        return self.conv2(x)


@anysize(ALL)
class ParameterContainers(Sandwich):
    def parts(self):
        self.scales = nn.ParameterList([torch.randn(16, 1, 1) for _ in range(2)])
        self.shifts = nn.ParameterDict({"a": torch.randn(16, 1, 1)})

    def between(self, x):
        return x * self.scales[0] * self.scales[1] + self.shifts["a"]


@micro(ALL, inputs=lambda g: (torch.randn(2, 3, 8, 8, generator=g), torch.randint(4, (2,), generator=g)))
class LossInside(Sandwich):
    """In train mode the model returns its loss."""

    def forward(self, x, target):
        logits = super().forward(x).mean((2, 3))
        return F.cross_entropy(logits, target) if self.training else logits


# ---- count ties: one width is taken for another ----


@micro(
    Prunable(8, "inner.weight"),
    Prunable(8, "value.weight"),
    Prunable(16, "embed.weight"),
    inputs=rows(5, 6),
    watch="inner.weight",
)
class WidthReadFromTheInput(nn.Module):
    """An attention in which `C // heads`, C the width of its input, stands for the width of its projections."""

    def __init__(self):
        super().__init__()
        self.embed, self.inner, self.value = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.out, self.head = nn.Linear(16, 16), nn.Linear(16, 3)
        self.heads = 2

    def attend(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q = self.inner(x).reshape(b, n, self.heads, c // self.heads).transpose(1, 2)
        v = self.value(x).reshape(b, n, self.heads, c // self.heads).transpose(1, 2)
        return self.out(((q @ q.transpose(-1, -2) * 0.1).tanh() @ v).transpose(1, 2).reshape(b, n, c))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.head(x + self.attend(x))


@micro(Prunable(4, "query.weight"), Prunable(4, "value.weight"), inputs=rows(5, 6), watch="query.weight")
class OneAttributeForTwoWidths(nn.Module):
    """`head_dim` counts what the queries and what the values keep in every head."""

    def __init__(self):
        super().__init__()
        self.query, self.value, self.out = nn.Linear(6, 12), nn.Linear(6, 12), nn.Linear(12, 3)
        self.head_dim, self.all_dim = 4, 12

    def forward(self, x: Tensor) -> Tensor:
        q, v = (f(x).view(*x.shape[:-1], -1, self.head_dim).transpose(1, 2) for f in (self.query, self.value))
        mixed = (q @ q.transpose(-1, -2)).tanh() @ v
        return self.out(mixed.transpose(1, 2).reshape(*x.shape[:-1], self.all_dim))


# ---- integers inside containers, bounds ----


@anysize(Prunable(4))
class SizesInAList(Sandwich):
    """The sizes of a split are items of a list that a module holds, and of a dict."""

    def parts(self):
        self.splits, self.sizes = [4, 12], {"deep": (4, 12)}
        self.one, self.other = nn.Conv2d(4, 4, 1), nn.Conv2d(12, 12, 1)

    def between(self, x):
        a, b = x.split(self.splits, 1)
        c, d = torch.cat([self.one(a), self.other(b)], 1).split(self.sizes["deep"], 1)
        return torch.cat([c, d], 1)


@anysize(Prunable(6))
class BoundInAnAttribute(Sandwich):
    """The start of a slice is an attribute, which its length is not."""

    def parts(self):
        self.first = 6
        self.one = nn.Conv2d(6, 6, 1)

    def between(self, x):
        return torch.cat([self.one(x[:, : self.first]), x[:, self.first :]], 1)


# ---- attention of two heads, and integers that agree by chance ----


@micro(Prunable(24, "0.weight", exact=False), Prunable(72, "1.linear1.weight"), inputs=rows(5, 6), watch="0.weight")
class EncoderOfTwoHeads(nn.Sequential):
    """One head of two left is a width of one; the MLP is as wide as the packed projection."""

    def __init__(self):
        super().__init__(nn.Linear(6, 24), nn.TransformerEncoderLayer(24, 2, 72, batch_first=True), nn.Linear(24, 3))


@micro(Prunable(24, "0.weight", exact=False), Prunable(24, "1.linear1.weight"), inputs=rows(5, 6), watch="0.weight")
class EncoderOfOneWidth(nn.Sequential):
    """The MLP is as wide as the stream, and the sequence comes first."""

    def __init__(self):
        super().__init__(nn.Linear(6, 24), nn.TransformerEncoderLayer(24, 2, 24, norm_first=True), nn.Linear(24, 3))


@micro(Prunable(12, "embed.weight"), inputs=rows(6, 5), watch="embed.weight")
class ShiftAsLargeAsHeads(nn.Module):
    """The second attention's shift is as large as its number of heads: only the heads count its units."""

    class Attention(nn.Module):
        def __init__(self, shift: int):
            super().__init__()
            self.shift_size, self.num_heads = [shift, shift], 3
            self.qkv, self.proj = nn.Linear(12, 36), nn.Linear(12, 12)

        def forward(self, x):
            b, n, c = x.shape
            q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4)
            attention = (q * (c // self.num_heads) ** -0.5) @ k.mT
            if self.shift_size[0]:
                mask = x.new_zeros(n)
                for cut in (slice(-3), slice(-3, None), slice(self.shift_size[1])):
                    mask[cut] = cut.start or cut.stop
                attention = attention + (mask[:, None] - mask) / 9
            return self.proj((attention.softmax(-1) @ v).transpose(1, 2).reshape(b, n, c))

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Linear(5, 12), nn.Linear(12, 3)
        self.plain, self.shifted = self.Attention(0), self.Attention(3)

    def forward(self, x):
        x = self.embed(x)
        x = x + self.plain(x)
        return self.head(x + self.shifted(x))


# ---- weights that are standardised, writes by index, recurrence, shared keys and values ----


class _Standardised(nn.Conv2d):
    """Filters of zero mean and unit variance, by way of a batch norm of the weight seen as a matrix."""

    def forward(self, x):
        rows = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(rows, None, None, training=True, momentum=0.0).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


@anysize(Prunable(16, exact=False), Prunable(12, "one.weight"))
class StandardisedByBatchNorm(Sandwich):
    """`out_channels` is read by the code itself, and kernel positions merge with input channels."""

    after = 12

    def parts(self):
        self.one = _Standardised(16, 12, 3, padding=1)

    def between(self, x):
        return self.one(x).relu()


@anysize(Prunable(16))
class RowsWrittenByIndex(Sandwich):
    """Pixels are written in another order, all channels of each."""

    def between(self, x):
        rows = x.permute(0, 2, 3, 1).flatten(0, 2)
        out = torch.zeros_like(rows)
        out[torch.arange(len(rows) - 1, -1, -1)] = rows
        return out.view(x.shape[0], *x.shape[2:], -1).permute(0, 3, 1, 2)


@micro(Prunable(12, "lstm.weight_hh_l0", dim=1), Prunable(8, "embed.weight"), inputs=rows(5, 6), watch="embed.weight")
class Recurrence(nn.Module):
    """The gates are written in place, each through a piece of one product."""

    def __init__(self):
        super().__init__()
        self.embed, self.lstm, self.head = nn.Linear(6, 8), nn.LSTM(8, 12, batch_first=True), nn.Linear(12, 3)

    def forward(self, x):
        return self.head(self.lstm(self.embed(x))[0])


@micro(Prunable(12, "gru.weight_hh_l1", dim=1), Prunable(8, "embed.weight"), inputs=rows(5, 6), watch="embed.weight")
class GatedRecurrence(nn.Module):
    """Two layers in both directions; the result is transposed in place."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Linear(6, 8), nn.Linear(24, 3)
        self.gru = nn.GRU(8, 12, num_layers=2, bidirectional=True, batch_first=True)

    def forward(self, x):
        return self.head(self.gru(self.embed(x))[0])


@micro(Prunable(5, "queries.weight"), Prunable(16, "embed.weight"), inputs=rows(5, 6), watch="queries.weight")
class HeadsByPattern(nn.Module):
    """Heads as einops writes them: 'b n (h d) -> b h n d' for a number of heads h, with all other sizes computed."""

    def __init__(self):
        super().__init__()
        self.heads = 4
        self.embed, self.queries = nn.Linear(6, 16), nn.Linear(16, 20)
        self.pairs, self.join, self.head = nn.Linear(16, 40), nn.Linear(20, 16), nn.Linear(16, 3)

    def forward(self, x):
        x = self.embed(x)
        q, k, v = (self.split(t) for t in (self.queries(x), *self.pairs(x).chunk(2, -1)))
        found = torch.einsum("bhij,bhjd->bhid", torch.einsum("bhid,bhjd->bhij", q, k).softmax(-1), v)
        b, h, n, d = found.shape
        return self.head(x + self.join(found.permute(0, 2, 1, 3).reshape(b, n, h * d)))

    def split(self, t):
        b, n, width = t.shape
        return t.reshape(b, n, self.heads, width // self.heads).permute(0, 2, 1, 3)


class _SharedKeys(nn.Module):
    """Query heads over fewer heads of keys and values, which are stretched without a copy."""

    def __init__(self, heads: int, shared: int):
        super().__init__()
        self.heads, self.shared, self.size = heads, shared, 6
        self.embed, self.q, self.out = nn.Linear(5, 16), nn.Linear(16, 6 * heads), nn.Linear(6 * heads, 16)
        self.k, self.v, self.head = nn.Linear(16, 6 * shared), nn.Linear(16, 6 * shared), nn.Linear(16, 3)

    def forward(self, x):
        x = self.embed(x)
        b, n, _ = x.shape
        q = self.q(x).view(b, n, self.heads, self.size).transpose(1, 2)
        k, v = (f(x).view(b, n, self.shared, self.size).transpose(1, 2) for f in (self.k, self.v))
        times = self.heads // self.shared
        k, v = (t[:, :, None].expand(b, self.shared, times, n, self.size).flatten(1, 2) for t in (k, v))
        y = F.scaled_dot_product_attention(q, k, v)
        return self.head(x + self.out(y.transpose(1, 2).reshape(b, n, -1)))


@micro(Prunable(16, "embed.weight"), inputs=rows(4, 5), watch="embed.weight")
class StretchedKeys(_SharedKeys):
    """Two heads of keys and values for four of queries: what cannot go costs its own units."""

    def __init__(self):
        super().__init__(4, 2)


@micro(Prunable(16, "embed.weight"), inputs=rows(4, 5), watch="embed.weight")
class OneKeyForAll(_SharedKeys):
    """One head of keys and values for all: what cannot go costs its own units."""

    def __init__(self):
        super().__init__(4, 1)


# ---- layers that compute themselves ----


class _SamePadding(nn.Conv2d):
    """A subclass that pads by a module of its own, and calls the functional form."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.pad = nn.ZeroPad2d(1)

    def forward(self, x):
        return F.conv2d(self.pad(x), self.weight, self.bias, self.stride)


@anysize(Prunable(16), Prunable(12, "one.weight"))
class SubclassThatComputesItself(Sandwich):
    """The units come out of a module that has a module inside."""

    after = 12

    def parts(self):
        self.one = _SamePadding(16, 12, 3)

    def between(self, x):
        return self.one(x).relu()
