"""Pooling, resampling and crops: windows slide over space; batch and channels pass on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from secateurs.graph.labels import ANY, Fresh
from secateurs.graph.rules.table import NAMED_RULES, rule

if TYPE_CHECKING:
    from secateurs.graph.propagate import Op, Propagation

aten = torch.ops.aten


def roi_align(p: Propagation, op: Op) -> None:
    """Resampled crops of feature maps: channels pass on; boxes and space cannot have units."""
    x, boxes = op.args[:2]
    lab = p.get(x)
    p.guard_all(boxes, "the units are coordinates")
    for d in (0, 2, 3):
        p.guard(lab.axes[d], "a window slides along the units")
    p.set(op.out, (None, lab.axes[1], None, None), zero=lab.zero)


NAMED_RULES["torchvision::roi_align"] = roi_align

_SLIDING = (
    aten.max_pool2d_with_indices.default,
    aten.max_pool3d_with_indices.default,
    aten.avg_pool2d.default,
    aten.avg_pool3d.default,
    aten._adaptive_avg_pool2d.default,
    aten._adaptive_avg_pool3d.default,
    aten.adaptive_max_pool2d.default,
    aten.adaptive_max_pool3d.default,
    aten.upsample_nearest2d.default,
    aten.upsample_bilinear2d.default,
    aten.upsample_bicubic2d.default,
    aten.upsample_nearest1d.default,
    aten.upsample_linear1d.default,
    aten.upsample_nearest3d.default,
    aten.upsample_trilinear3d.default,
    aten._upsample_nearest_exact2d.default,
    aten._upsample_bilinear2d_aa.default,
    aten._upsample_bicubic2d_aa.default,
    aten.upsample_nearest2d.vec,
    aten.upsample_bilinear2d.vec,
    aten.upsample_bicubic2d.vec,
    aten.upsample_nearest1d.vec,
    aten.upsample_linear1d.vec,
    aten.upsample_nearest3d.vec,
    aten.upsample_trilinear3d.vec,
    aten.reflection_pad1d.default,
    aten.reflection_pad2d.default,
    aten.reflection_pad3d.default,
    aten.replication_pad1d.default,
    aten.replication_pad2d.default,
    aten.replication_pad3d.default,
    aten.grid_sampler_2d.default,
    aten.grid_sampler_3d.default,
    aten.max_unpool2d.default,
    aten.max_unpool3d.default,
    aten.adaptive_avg_pool1d.default,
    aten.avg_pool1d.default,
    aten.fractional_max_pool2d.default,
    aten.max_pool2d.default,
    aten.mkldnn_max_pool2d.default,
)


@rule(*_SLIDING)
def sliding(p: Propagation, op: Op) -> None:
    """Pooling, resampling and padding over space: batch and channels pass on; space cannot have units."""
    x = op.args[0]
    out = op.out[0] if isinstance(op.out, (tuple, list)) else op.out
    lab = p.get(x)
    name = op.func.overloadpacket.__name__
    spatial = next((int(c) for c in reversed(name) if c in "123"), 2) if "aa" not in name else 2
    lead = len(lab.axes) - spatial
    axes: list[Any] = list(lab.axes[:lead])
    for d in range(lead, len(lab.axes)):
        axis = p.settle(lab.axes[d])
        if isinstance(axis, (np.ndarray, Fresh)):
            p.guard(axis, "a window slides along the units")
        axes.append(axis if axis is ANY and out.shape[d] > 1 else None)
    for other in op.args[1:2] if isinstance(op.args[1] if len(op.args) > 1 else None, torch.Tensor) else ():
        side = p.get(other)
        if len(side.axes) == len(axes) and "unpool" in name:
            for d in range(lead):
                axes[d] = (
                    p.meet(axes[d], side.axes[d]) if out.shape[d] > 1 or isinstance(axes[d], np.ndarray) else axes[d]
                )
        else:
            p.guard_all(other, "the units are coordinates")
    p.set(out, tuple(axes), zero=lab.zero)
    for extra in op.out[1:] if isinstance(op.out, (tuple, list)) else ():
        p.set(extra, tuple(axes), zero=False)
