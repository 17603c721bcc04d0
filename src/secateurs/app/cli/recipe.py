"""The settings of a run as one frozen value; its fields are the flags of `secateurs prune` and the keys of a file."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, final, get_args

from secateurs.app.choices import Shape
from secateurs.app.cli.amounts import Amount, ByPattern, amount, by_pattern, duration
from secateurs.app.cli.augmenting import Augmenting
from secateurs.app.cli.flags import about as _about
from secateurs.app.cli.start import Start
from secateurs.errors import RecipeError

Ranking = Literal["mean", "max", "sum", "as-is", "uniform"]
RoundShape = Literal["linear", "cubic", "exponential"]
Control = Literal["none", "random", "l2", "scratch", "dense"]
"""Control experiment that a method is compared with; see `controls`."""


@final
@dataclass(frozen=True)
class Recipe(Start, Augmenting):
    """All settings that determine the resulting network: the same recipe gives the same plan."""

    method: str = field(
        default="magnitude",
        metadata=_about("method", "how units are chosen: a name of the list below, or path.py:CLASS", "NAME"),
    )
    options: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the method that differ from its defaults; `--method.FIELD VALUE`."""
    control: Control = field(
        default="none",
        metadata=_about(
            "method",
            "instead of the method, trained as long: units drawn at random, or of the smallest L2 norm, the same small "
            "network from scratch, or the dense network trained on",
            "",
        ),
    )
    like: Path | None = field(
        default=None, metadata=_about("method", "a finished run, for a control as large as its network", "FOLDER")
    )

    rounds: int = field(
        default=0,
        metadata=_about(
            "method",
            "prune by a criterion in so many rounds: cut, then train for an equal part of --prune-epochs; 0: at once",
            "N",
        ),
    )
    round_schedule: RoundShape = field(
        default="linear",
        metadata=_about("method", "how much of what goes is gone after each round", ""),
    )
    ranking: Ranking = field(
        default="mean",
        metadata=_about(
            "method",
            "how a criterion's scores compare between layers: over each layer's mean, maximum or sum, as they are, "
            "or not at all, so that all layers lose the same share",
            "",
        ),
    )

    macs: Amount = field(
        default=None, metadata=_about("budget", "what remains of the multiply-accumulates", "X", read=amount)
    )
    params: Amount = field(default=None, metadata=_about("budget", "what remains of the parameters", "X", read=amount))
    memory: Amount = field(
        default=None,
        metadata=_about("budget", "what remains of the activations written, added up", "X", read=amount),
    )
    peak_memory: Amount = field(
        default=None,
        metadata=_about("budget", "what remains of the activations that are alive at once", "X", read=amount),
    )
    filters: Amount = field(default=None, metadata=_about("budget", "what remains of the filters", "X", read=amount))
    shares: tuple[tuple[str, float], ...] = field(
        default=(),
        metadata=_about(
            "budget",
            "what remains of the filters of single layers or stages, for example [[layer1,0.5],[layer2,0.25]]",
            "LIST",
        ),
    )
    latency: float | None = field(
        default=None,
        metadata=_about(
            "budget",
            "what remains of the time of one image on --runtime: a share, or milliseconds such as 10ms",
            "X",
            read=duration,
        ),
    )
    runtime: Literal["eager", "compile", "onnxruntime", "openvino", "executorch", "cuda", "cuda-compile"] | None = (
        field(
            default=None,
            metadata=_about(
                "budget",
                "where latency is measured: eager, compile, onnxruntime, openvino, executorch, cuda or cuda-compile; "
                "a network slower there than the dense one is refused",
                "NAME",
            ),
        )
    )
    min_keep: ByPattern = field(
        default=1,
        metadata=_about(
            "budget",
            "fewest units that stay in any group, or in those of some modules: {layer4.*: 16, nn.Linear: 8}",
            "UNITS",
            read=by_pattern,
        ),
    )
    min_keep_fraction: float = field(
        default=0.0, metadata=_about("budget", "smallest fraction of units that stays in any group", "F")
    )
    multiple_of: ByPattern | None = field(
        default=None,
        metadata=_about(
            "budget",
            "every width becomes a multiple of this, or those of some modules: {layer4.*: 32, nn.Linear: 8}; 1: any "
            "width; not given: what runtimes are fast on",
            "N",
            read=by_pattern,
        ),
    )

    train_epochs: int = field(
        default=100,
        metadata=_about(
            "training",
            "epochs of the first training, where there are no weights (100) or a new classifier is to be trained (20)",
            "N",
        ),
    )
    train_lr: float = field(
        default=0.1,
        metadata=_about("training", "peak learning rate of the first training (from given weights 0.01)", "RATE"),
    )
    prune_epochs: int = field(
        default=40,
        metadata=_about("training", "epochs in which a method that prunes during training does so (others: none)", "N"),
    )
    recover: Literal["recalibrate", "reconstruct"] = field(
        default="recalibrate",
        metadata=_about(
            "training",
            "what follows removal, before any fine-tuning: recalibrate BatchNorm, or reconstruct every layer from the "
            "dense network by least squares (on at most 2,048 calibration images)",
            "",
        ),
    )
    epochs: int = field(default=40, metadata=_about("training", "epochs of fine-tuning after pruning", "N"))
    distil: float = field(
        default=0.0,
        metadata=_about(
            "training",
            "part of the fine-tuning loss that compares with the dense network's logits (temperature 4); the rest "
            "compares with the labels",
            "F",
        ),
    )
    lr: float = field(
        default=0.02, metadata=_about("training", "peak learning rate of pruning and of fine-tuning", "RATE")
    )
    schedule: Shape = field(default="one-cycle", metadata=_about("training", "how the learning rate moves", ""))
    step_every: int | None = field(
        default=None, metadata=_about("training", "epochs after which a step rate falls, again and again", "N")
    )
    milestones: tuple[int, ...] = field(
        default=(), metadata=_about("training", "epochs at which a multi-step rate falls, for example [80,120]", "LIST")
    )
    gamma: float = field(default=0.1, metadata=_about("training", "what a falling rate is multiplied by", "X"))
    warmup: float | None = field(default=None, metadata=_about("training", "epochs in which the rate rises", "EPOCHS"))
    momentum: float = field(default=0.9, metadata=_about("training", "of SGD", "X"))
    nesterov: bool = field(default=True, metadata=_about("training", "Nesterov's form of momentum", ""))
    weight_decay: float = field(default=5e-4, metadata=_about("training", "decay of the weights, in all of them", "X"))
    decay_norms: bool = field(
        default=False, metadata=_about("training", "let biases and BatchNorm's scales and shifts decay too", "")
    )
    label_smoothing: float = field(default=0.0, metadata=_about("training", "share spread over all classes", "X"))
    train_schedule: Shape | None = field(
        default=None, metadata=_about("training", "of the first training, where it has another than --schedule", "")
    )
    train_milestones: tuple[int, ...] = field(
        default=(), metadata=_about("training", "of the first training, where it has others", "LIST")
    )
    prune_lr: float | None = field(
        default=None,
        metadata=_about("training", "peak learning rate of pruning, where it has another than --lr", "RATE"),
    )
    prune_schedule: Shape | None = field(
        default=None, metadata=_about("training", "of pruning, where it has another than --schedule", "")
    )
    prune_milestones: tuple[int, ...] = field(
        default=(), metadata=_about("training", "of pruning, where it has others", "LIST")
    )
    prune_cycles: int = field(
        default=1, metadata=_about("training", "times that pruning goes through its schedule: once a round", "N")
    )
    ema: float = field(
        default=0.0,
        metadata=_about(
            "training",
            "decay of a moving average of the weights, which is validated and kept, in the first training and in "
            "fine-tuning; 0: none",
            "X",
        ),
    )
    accumulate: int = field(default=1, metadata=_about("training", "batches whose gradients make one step", "N"))
    clip: float | None = field(default=None, metadata=_about("training", "largest norm of all gradients", "X"))

    def __post_init__(self) -> None:
        """Refuse null values: YAML reads `model:` without a value as null."""
        for f in fields(self):
            if getattr(self, f.name) is None and type(None) not in get_args(f.type):
                raise RecipeError(f"{f.name} of the recipe is null; give it a value, or leave it out")

    def as_keys(self) -> dict[str, Any]:
        """Return the recipe as written to a file: plain values, and the method's options under its name.

        >>> Recipe(macs=0.5).as_keys()["method"], Recipe(method="l2", options={"p": 1}).as_keys()["method"]
        ('magnitude', {'name': 'l2', 'p': 1})
        """
        keys = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "options"}
        keys |= {name: str(value) for name, value in keys.items() if isinstance(value, Path)}
        keys |= {name: _listed(value) for name, value in keys.items() if isinstance(value, tuple)}
        if self.options:
            keys["method"] = {"name": self.method, **self.options}
        return keys


def _listed(value: Any) -> Any:
    return [_listed(part) for part in value] if isinstance(value, tuple) else value
