"""Network Slimming and DepGraph's sparse learning: each is a penalty, a criterion and an allocator."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, Literal, Self

from secateurs.allocate import Allocator, AsIs, ByMax, Ranked
from secateurs.criteria import BatchNormScale, Criterion, Magnitude
from secateurs.session.method import check_preset
from secateurs.session.penalty import GroupNorm, ScaleL1
from secateurs.session.sparsify import Sparsify


@dataclass(frozen=True)
class NetworkSlimming(Sparsify):
    """Network Slimming: an L1 penalty on BatchNorm scales, then a cut by |scale|, ranked over the whole network.

    Of coupled norms each is penalised, and their |scale| are added; groups without a norm are scored by magnitude (both
    ours). penalty, criterion, allocator, until, scope, decoupled: see `Sparsify`.

    >>> NetworkSlimming().penalty
    ScaleL1(strength=0.0001, roles=('scale',))
    """

    penalty: ScaleL1 = ScaleL1()  # noqa: RUF009
    _: KW_ONLY
    criterion: Criterion = BatchNormScale(fallback=Magnitude())  # noqa: RUF009
    allocator: Allocator = Ranked(AsIs())  # noqa: RUF009
    reference: ClassVar[str] = (
        "Zhuang Liu, Jianguo Li, Zhiqiang Shen, Gao Huang, Shoumeng Yan, Changshui Zhang. Learning Efficient "
        "Convolutional Networks through Network Slimming. ICCV 2017. arXiv 1708.06519"
    )

    @classmethod
    def preset(cls, name: Literal["published"] = "published") -> Self:
        """Return the paper's settings: λ = 1e-4 through the whole run, then the cut; fine-tuning follows."""
        check_preset(cls, name, ("published",))
        return cls(until=1.0)


@dataclass(frozen=True)
class DepGraph(Sparsify):
    """DepGraph's sparse learning: a group-wise L2 penalty, stronger on small units, then a cut by the groups' norms.

    Groups are those of `trace`. For the ranking, norms are divided by the largest of their group (ours). penalty,
    criterion, allocator, until, scope, decoupled: see `Sparsify`.

    >>> DepGraph().penalty.strength
    0.0001
    """

    penalty: GroupNorm = GroupNorm()  # noqa: RUF009
    _: KW_ONLY
    criterion: Criterion = Magnitude(p=2)  # noqa: RUF009
    allocator: Allocator = Ranked(ByMax())  # noqa: RUF009
    reference: ClassVar[str] = (
        "Gongfan Fang, Xinyin Ma, Mingli Song, Michael Bi Mi, Xinchao Wang. DepGraph: Towards Any Structural Pruning. "
        "CVPR 2023. arXiv 2301.12900"
    )

    @classmethod
    def preset(cls, name: Literal["published"] = "published") -> Self:
        """Return the authors' code's settings: 1e-4 through the whole run, then the cut; fine-tuning follows."""
        check_preset(cls, name, ("published",))
        return cls(until=1.0)
