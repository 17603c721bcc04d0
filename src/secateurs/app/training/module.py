"""Lightning module of an image classifier: training, validation and test steps, optimizer and schedule."""

from dataclasses import dataclass
from typing import Any, final

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from secateurs.app.training.rates import Rate
from secateurs.errors import InputError
from secateurs.recover import DistilLoss

AUXILIARY = 0.3
"""Weight of an auxiliary head's loss (Szegedy et al., "Going Deeper with Convolutions", 2014, section 5)."""


@final
@dataclass(frozen=True)
class Optimisation:
    """SGD with momentum, and how its learning rate moves from step to step.

    lr: the peak rate. decay_norms: let biases and norms' scales and shifts decay as well, as papers' codes do.
    label_smoothing: share of the target that is spread over all classes (Szegedy et al. 2016, arXiv:1512.00567).

    >>> Optimisation(epochs=20, lr=0.1).momentum
    0.9
    """

    epochs: int
    lr: float
    momentum: float = 0.9
    weight_decay: float = 5e-4
    rate: Rate = Rate()  # noqa: RUF009 (frozen)
    nesterov: bool = True
    decay_norms: bool = False
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot train."""
        if self.epochs < 0:
            raise InputError(f"{self.epochs} epochs cannot be trained; ask for 0 (none) or more")
        if not 0 < self.lr < float("inf"):
            raise InputError(f"a learning rate of {self.lr} trains nothing; choose one above 0, for example 0.1")
        if not 0 <= self.weight_decay < float("inf"):
            raise InputError(f"a weight decay of {self.weight_decay} is no decay; choose 0 or more, for example 5e-4")
        if not 0 <= self.momentum < 1:
            raise InputError(f"a momentum of {self.momentum} never forgets; choose 0 or more and less than 1")
        if not 0 <= self.label_smoothing < 1:
            raise InputError(f"label smoothing of {self.label_smoothing} leaves no label; choose from 0 to below 1")


@final
class Classifier(LightningModule):
    """Cross-entropy on a network's logits, and the share of images it names rightly.

    Networks with auxiliary heads in train mode (GoogLeNet, Inception) are trained through all of them.
    """

    def __init__(self, model: nn.Module, optimisation: Optimisation, teacher: DistilLoss | None = None) -> None:
        super().__init__()
        self.model = model
        self.optimisation = optimisation
        self.teacher = teacher  # no module: the dense network is neither trained nor saved

    @override
    def on_fit_start(self) -> None:
        if self.teacher is not None:
            self.teacher.teacher.to(self.device)

    @override
    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        images, labels = batch
        logits, *auxiliary = _heads(self.model(images))
        smoothing = self.optimisation.label_smoothing
        if self.teacher is None:
            loss = F.cross_entropy(logits, labels, label_smoothing=smoothing)
        else:
            loss = self.teacher(logits, labels, images)
        for head in auxiliary:
            loss = loss + AUXILIARY * F.cross_entropy(head, labels, label_smoothing=smoothing)
        self.log("train/loss", loss, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(labels))
        return loss

    @override
    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        self._measure("validation", batch)

    @override
    def test_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        self._measure("test", batch)

    def _measure(self, split: str, batch: tuple[Tensor, Tensor]) -> None:
        images, labels = batch
        logits = _heads(self.model(images))[0]
        found = {
            f"{split}/loss": F.cross_entropy(logits, labels),
            f"{split}/accuracy": (logits.argmax(1) == labels).double().mean(),
        }
        self.log_dict(found, on_step=False, on_epoch=True, batch_size=len(labels))

    @override
    def configure_optimizers(self) -> Any:
        settings = self.optimisation
        optimizer = torch.optim.SGD(
            _decayed(self.model, settings.weight_decay, norms=settings.decay_norms),
            settings.lr,
            settings.momentum,
            nesterov=settings.nesterov and settings.momentum > 0,
        )
        steps = int(self.trainer.estimated_stepping_batches) // settings.epochs
        schedule = settings.rate.attach(optimizer, steps_per_epoch=steps, epochs=settings.epochs)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _decayed(model: nn.Module, weight_decay: float, *, norms: bool) -> list[dict[str, Any]]:
    """Weights decay; biases and the scales and shifts of norms only if `norms`."""
    learnt = [p for p in model.parameters() if p.requires_grad]
    if norms:
        return [{"params": learnt, "weight_decay": weight_decay}]
    return [
        {"params": [p for p in learnt if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in learnt if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _heads(output: Any) -> list[Tensor]:
    """The logits, then those of any auxiliary heads."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, tuple | list) and output and all(isinstance(o, Tensor) for o in output if o is not None):
        # GoogLeNetOutputs and InceptionOutputs put the main head first.
        return [o for o in output if o is not None]
    raise InputError(
        f"the network returned {type(output).__name__}, and training here needs logits [n, classes]; "
        "wrap it in a module whose forward returns the logits"
    )
