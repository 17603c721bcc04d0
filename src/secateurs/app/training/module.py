"""Lightning module of an image classifier: training, validation and test steps, optimizer and schedule."""

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from secateurs.app.training.mixing import mixed
from secateurs.app.training.optimisation import Optimisation
from secateurs.errors import InputError
from secateurs.recover import DistilLoss

AUXILIARY = 0.3
"""Weight of an auxiliary head's loss (Szegedy et al., "Going Deeper with Convolutions", 2014, section 5)."""


class Classifier(LightningModule):
    """Cross-entropy on a network's logits, and its top-1 and top-5 accuracy.

    Networks with auxiliary heads in train mode (GoogLeNet, Inception) are trained through all of them.
    """

    def __init__(
        self, model: nn.Module, optimisation: Optimisation, teacher: DistilLoss | None = None, *, classes: int = 0
    ) -> None:
        super().__init__()
        self.model = model
        self.optimisation = optimisation
        self.classes = classes
        self.teacher = teacher  # no module: the dense network is neither trained nor saved

    @override
    def on_fit_start(self) -> None:
        if self.teacher is not None:
            self.teacher.teacher.to(self.device)

    @override
    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        stepping = self.optimisation.stepping
        images, labels = mixed(*batch, stepping, self.classes)
        if stepping.channels_last and images.dim() == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        logits, *auxiliary = heads_of(self.model(images))
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
        logits = heads_of(self.model(images))[0]
        named = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
        found = {
            f"{split}/loss": F.cross_entropy(logits, labels),
            f"{split}/accuracy": named[:, 0].double().mean(),
            f"{split}/top5": named.any(1).double().mean(),
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


def heads_of(output: Any) -> list[Tensor]:
    """The logits, then those of any auxiliary heads."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(logits := getattr(output, "logits", None), Tensor) and not isinstance(output, tuple):
        return [logits]  # transformers' ModelOutput; torchvision's tuples with auxiliary heads have the field too
    if isinstance(output, tuple | list) and output and all(isinstance(o, Tensor) for o in output if o is not None):
        # GoogLeNetOutputs and InceptionOutputs put the main head first.
        return [o for o in output if o is not None]
    raise InputError(
        f"the network returned {type(output).__name__}, and training here needs logits [n, classes]; "
        "wrap it in a module whose forward returns the logits"
    )
