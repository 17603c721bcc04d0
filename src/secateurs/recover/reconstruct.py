"""Refit every layer to the dense network's activations by least squares, in forward order, on a few images."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from secateurs.errors import InputError
from secateurs.recover.recovery import Pair
from secateurs.recover.settle import settle_norms
from secateurs.recover.solve import Change, solve
from secateurs.recover.walk import Sampling, Seen, walk


@dataclass(frozen=True)
class Reconstruct:
    """Refit the weights of every layer to its activations in the dense network, without labels or gradients.

        minimise over W, b:   Σ ‖f(D (W x + b) + r) - f(t)‖² + λ ‖W - W₀‖²

    x: what the layer sees in the small network as recovered so far; t: the dense network's value at the same place,
    reduced to the channels that are left; D and r: the norm that follows and the shortcut that is added, as they are in
    the small network, so that a layer makes up for what the other branch lost; f: the ReLU or clamp that follows, if
    any. f is dealt with by `rounds` of majorisation: where the dense value is cut off, any value that is cut off too
    will do. λ is the best of six on a quarter of the images; a layer that is nearer to the dense one as it is keeps its
    weights. Convolutions of any kind and dimension, and linear layers, whose weight is a parameter that nothing else
    reads; b goes to the layer's bias or to that of the norm behind it. `rows` rows (an image at a position) or 64 for
    each column are sampled, within `memory` bytes; beside them the live activations of both networks are held for all
    images.

    `settle`: BatchNorm's running statistics are set to the new ones at the end, and scales and shifts are changed so
    that the network computes the same (see `settle_norms`).

    Sources: He, Zhang and Sun (ICCV 2017, channel pruning) and Zhang et al. (2015, asymmetric reconstruction behind
    ReLU); ours are the place behind norm and sum, and one mechanism for every network.
    """

    sweeps: int = 1
    _: KW_ONLY
    rounds: int = 5
    rows: int = 1 << 15
    memory: int = 1 << 30
    settle: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that mean nothing."""
        if self.sweeps < 1 or self.rounds < 0 or self.rows < 1 or self.memory < 1 << 20:
            message = (
                f"{self} cannot work: it needs one sweep or more, rounds of at least 0, rows of at least 1 and 1 MiB."
            )
            raise InputError(message)

    def recover(self, pair: Pair) -> None:
        """Change the weights of `pair.small`."""
        changed: list[str] = []
        for sweep in range(self.sweeps):
            sampling = Sampling(self.rows, 64, self.memory, self.seed + 10_000 * sweep)
            changed += walk(pair, sampling, self._solved, f"sweep {sweep + 1}")
        if changed and self.settle:
            settle_norms(pair.small, pair.batches)

    def _solved(self, seen: Seen) -> Change | None:
        layer = seen.layer
        return solve(seen.rows, seen.scale, bias=layer.bias is not None, clamp=layer.clamp, rounds=self.rounds)
