"""Group Fisher pruning: per-sample Fisher information of coupled channels, one channel every few steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, replace
from typing import ClassVar, Literal, Self

from secateurs.errors import InputError, check_choice
from secateurs.methods.group_fisher.driver import FisherDriver, Normaliser
from secateurs.session.method import Driver, check_preset
from secateurs.session.run import Run


@dataclass(frozen=True)
class GroupFisher:
    """Group Fisher: every `every` steps, remove the unit with the least Fisher information per saved memory.

    s_u = Σ_n ( Σ_{x ∈ consumers} ∂L_n/∂m_u^x )²  over the samples since the last event (equations 1 to 5 of the
    paper; contributions of coupled consumers are added before squaring), divided by ΔM ("memory", the paper's
    default), ΔC ("macs") or 1 ("none"). Training continues between removals; start from a converged model with a
    small learning rate.

    normaliser: divisor of the information. every = d: 25 for classification, 10 for detection. per_event: units per
    event (paper: 1). until: reach the budget in this share of the run instead, with as many units per event as needed
    (ours). The groups of `trace` replace the paper's Algorithm 1, whose grouping depends on the order of layers; whole
    groups of a grouped convolution are removed together. shrink_every: physically shrink after each removal of this
    share of the MACs (ours; the paper masks).

    Raises InputError for values out of range.

    >>> GroupFisher().fitted(10, 30)
    GroupFisher(every=3, per_event=1, until=0.5, normaliser='memory', shrink_every=0.05)
    """

    every: int = 25
    _: KW_ONLY
    per_event: int = 1
    until: float | None = None
    normaliser: Normaliser = "memory"
    shrink_every: float = 0.05
    renamed: ClassVar[Mapping[str, str]] = {"within": "until"}
    reference: ClassVar[str] = (
        "Liyang Liu, Shilong Zhang, Zhanghui Kuang, Aojun Zhou, Jing-Hao Xue, Xinjiang Wang, Yimin Chen, Wenming "
        "Yang, "
        "Qingmin Liao, Wayne Zhang. Group Fisher Pruning for Practical Network Compression. ICML 2021. arXiv "
        "2108.00708"
    )

    def __post_init__(self) -> None:
        check_choice(self, normaliser=Normaliser)
        if self.every < 1 or self.per_event < 1 or not (self.until is None or 0.0 < self.until <= 1.0):
            raise InputError(
                f"{self}: every and per_event count from 1, and until is a share of the run above 0 and at most 1."
            )

    @classmethod
    def preset(cls, name: Literal["published", "published-detection"] = "published") -> Self:
        """Return the authors' settings: one unit every 25 steps (10 for detection), masked until the end.

        >>> GroupFisher.preset("published-detection").every
        10
        """
        check_preset(cls, name, ("published", "published-detection"))
        return cls(every=25 if name == "published" else 10, shrink_every=1.0)

    def fitted(self, steps_per_epoch: int, epochs: int) -> Self:
        """Return the method with the budget reached at half of the run, in about 50 events at least.

        A session calls this only if one unit every `every` steps would not reach the budget within the run.
        """
        total = steps_per_epoch * epochs
        return replace(self, every=max(1, min(self.every, total // 100)), until=self.until or 0.5)

    def start(self, run: Run) -> Driver:
        """Find consumers and map sizes; hooks are registered when an optimizer is attached."""
        return FisherDriver(run, self)
