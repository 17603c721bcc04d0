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

    x: the layer's input in the small network as recovered so far; t: the dense network's value at the same place,
    reduced to the remaining channels; D and r: the norm that follows and the shortcut that is added, in the small
    network, so that a layer also compensates for losses in the other branch; f: the ReLU or clamp that follows, if any,
    handled by `rounds` of majorisation: where the dense value is clamped, any clamped value has no error. λ is the best
    of six on a quarter of the images, which are held out; a layer whose held-out error does not decrease keeps its
    weights.

    It applies to convolutions of any kind and dimension and to linear layers whose weight is a parameter that no other
    operator reads; b is added to the layer's bias or to that of the following norm. sweeps: passes over all layers.
    rows: sampled rows (image × position) per layer, at least 64 for each column, within `memory` bytes; besides, the
    live activations of both networks are held for all images. settle: at the end, set BatchNorm's running statistics to
    the new ones and change scales and shifts so that outputs stay equal (see `settle_norms`). seed: of the sampling.

    Raises InputError for values out of range, and what `recover` raises.

    Sources: He, Zhang and Sun (ICCV 2017, channel pruning) and Zhang et al. (2015, asymmetric reconstruction behind
    ReLU). Ours: targets after norm and sum, and one mechanism for every network.

    >>> import copy, torch
    >>> from torch import nn
    >>> import secateurs as sct
    >>> from secateurs.recover.recovery import recover
    >>> net = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 1))  # y = 1·(1·x) + 1·(2·x)
    >>> net[0].weight.data, net[1].weight.data = torch.tensor([[1.0], [2.0]]), torch.ones(1, 2)
    >>> net[1].bias.data = torch.zeros(1)
    >>> x = torch.arange(16.0)[:, None]
    >>> plan = sct.Plan.from_keep(sct.trace(net, x), {"0": [0]})
    >>> small = sct.apply(plan, copy.deepcopy(net))
    >>> fitted = recover(small, net, [x], plan=plan, steps=Reconstruct())  # y = 3·x
    >>> round(fitted[1].weight.item(), 3), abs(round(fitted[1].bias.item(), 3))
    (3.0, 0.0)
    """

    sweeps: int = 1
    _: KW_ONLY
    rounds: int = 5
    rows: int = 1 << 15
    memory: int = 1 << 30
    settle: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values out of range."""
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
