"""Types that every layer shares, each defined once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
"""Whole numbers: indices, counts, labels."""

Floats = NDArray[np.float64]
"""Real numbers in double precision: scores, costs per unit."""

Mask = NDArray[np.bool_]
"""One truth value for each unit or entry."""

Keep = dict[str, Ints]
"""Group name -> units that stay, ascending."""

Picked = Mapping[str, Sequence[int] | Ints]
"""Group name -> units that stay, as a user may write them."""

Loss = Callable[[Any, Any], Any]
"""(outputs, targets) -> the loss, a scalar (the mean over samples) or one value a sample."""

Scope = Literal["coupled", "uncoupled"]
"""Groups that may lose units: all ("coupled"), or only those with a single producing operator ("uncoupled").

The default of each method follows its authors: "uncoupled" where the paper leaves residual streams whole (CCP,
EPruner, FOAD), "coupled" where it prunes them too."""
