"""Lightning module of a semantic segmentation network."""

from collections.abc import Mapping
from typing import Any, cast, final

from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassJaccardIndex
from typing_extensions import override

from secateurs.app.data.masks import IGNORED
from secateurs.app.training.module import Classifier, heads_of
from secateurs.app.training.optimisation import Optimisation
from secateurs.errors import InputError
from secateurs.recover import DistilLoss

AUXILIARY = 0.5
"""Weight of an auxiliary head's loss, as in torchvision's reference training."""


@final
class Segmenter(Classifier):
    """Cross-entropy of every pixel, and the mean over the classes of intersection over union (mIoU).

    The intersections and unions are summed over all images before they are divided, pixels without a class left out.
    Logits of another height and width than the masks are resized, bilinearly.
    """

    def __init__(
        self, model: nn.Module, optimisation: Optimisation, teacher: DistilLoss | None = None, *, classes: int = 0
    ) -> None:
        super().__init__(model, optimisation, teacher, classes=classes)
        self.meters = nn.ModuleDict(
            {split: MulticlassJaccardIndex(classes, ignore_index=IGNORED) for split in ("validation", "test")}
        )

    @override
    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        images, labels = batch
        first, *auxiliary = (at_pixels(logits, labels) for logits in pixel_heads(self.model(images)))
        smoothing = self.optimisation.label_smoothing
        loss = F.cross_entropy(first, labels, ignore_index=IGNORED, label_smoothing=smoothing)
        for head in auxiliary:
            loss = loss + AUXILIARY * F.cross_entropy(head, labels, ignore_index=IGNORED, label_smoothing=smoothing)
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(labels))
        return loss

    @override
    def _measure(self, split: str, batch: tuple[Tensor, Tensor]) -> None:
        images, labels = batch
        logits = at_pixels(pixel_heads(self.model(images))[0], labels)
        meter: Any = self.meters[split]
        meter.update(logits.argmax(1), labels)
        loss = F.cross_entropy(logits, labels, ignore_index=IGNORED)
        self.log(f"{split}/loss", loss, on_step=False, on_epoch=True, batch_size=len(labels))
        self.log(f"{split}/accuracy", meter, on_step=False, on_epoch=True)


def pixel_heads(output: Any) -> list[Tensor]:
    """The logits of the pixels, then those of any auxiliary head; torchvision's networks return a dict of them."""
    if isinstance(output, Mapping) and "out" in output:
        named = cast("Mapping[str, Tensor]", output)
        return [named["out"], *(named[key] for key in named if key == "aux")]
    return heads_of(output)


def at_pixels(logits: Tensor, labels: Tensor) -> Tensor:
    """Logits [n, classes, h, w] at the height and width of masks; InputError for any other shape.

    >>> import torch
    >>> at_pixels(torch.zeros(1, 3, 2, 2), torch.zeros(1, 4, 4)).shape
    torch.Size([1, 3, 4, 4])
    """
    if logits.dim() != 4:
        raise InputError(
            f"the network returned {tuple(logits.shape)}, and segmentation needs logits [n, classes, height, width]; "
            "name a network that keeps the places of pixels, for example torchvision:lraspp_mobilenet_v3_large"
        )
    if logits.shape[-2:] == labels.shape[-2:]:
        return logits
    return F.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False)


def pixel_loss(outputs: Any, labels: Any) -> Tensor:
    """The loss of the first head, as criteria and methods take it: a function of (outputs, targets)."""
    return F.cross_entropy(at_pixels(pixel_heads(outputs)[0], labels), labels, ignore_index=IGNORED)
