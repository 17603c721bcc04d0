"""Network, weights, data and preprocessing: the part of a recipe that a run starts from."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from secateurs.app.choices import Interpolation
from secateurs.app.cli.flags import about as _about
from secateurs.app.cli.where import Where

if TYPE_CHECKING:
    from secateurs.app.data.preprocessing import Preprocessing


@dataclass(frozen=True)
class Start(Where):
    """Settings of network, weights, data and preprocessing."""

    model: str = field(
        default="resnet20",
        metadata=_about(
            "network",
            "what to prune: a network of the papers (listed by secateurs inspect --help), torchvision:NAME, timm:NAME, "
            "hf:REPOSITORY (a classifier), or path.py:FUNCTION, called with in_channels and num_classes if it has them",
            "NAME",
        ),
    )
    weights: str | None = field(
        default=None,
        metadata=_about(
            "network",
            "its trained weights: a safetensors file, or published ones by name (torchvision:, timm:, hf:), DEFAULT "
            "for those that the publisher recommends; without weights the network is trained first",
            "FILE",
        ),
    )
    keep_head: bool = field(
        default=False,
        metadata=_about(
            "network", "keep the classifier of published weights, instead of a new one for the classes of the data"
        ),
    )
    protect: tuple[str, ...] = field(
        default=(), metadata=_about("network", "modules whose channels all stay", "MODULE")
    )

    data: str = field(
        default="digits",
        metadata=_about(
            "data",
            "digits (bundled with scikit-learn), cifar10:ROOT, cifar100:ROOT, tiny-imagenet:ROOT, imagefolder:ROOT; "
            "masks:ROOT for segmentation; coco:ROOT for detection; images:FOLDER for images without labels",
            "NAME",
        ),
    )
    task: Literal["classification", "segmentation", "detection"] | None = field(
        default=None,
        metadata=_about(
            "data", "classification, segmentation or detection; the data's own where it is not given", "NAME"
        ),
    )
    image_size: int | None = field(
        default=None,
        metadata=_about(
            "data",
            "side, in pixels, that images of folders are resized to; that which published weights were trained with, "
            "or 224",
            "PIXELS",
        ),
    )
    image_resize: int | None = field(
        default=None,
        metadata=_about(
            "data",
            "their shorter side before the centre crop; that of published weights, or 8/7 of --image-size",
            "PIXELS",
        ),
    )
    image_mean: tuple[float, ...] | None = field(
        default=None,
        metadata=_about(
            "data",
            "what is subtracted from each channel, from 0 to 1, for example [0.5,0.5,0.5]; that of published weights, "
            "or ImageNet's",
            "LIST",
        ),
    )
    image_std: tuple[float, ...] | None = field(
        default=None,
        metadata=_about(
            "data", "what each channel is divided by then; that of published weights, or ImageNet's", "LIST"
        ),
    )
    interpolation: Interpolation | None = field(
        default=None,
        metadata=_about("data", "how pixels are resized; as for published weights, or bilinear", ""),
    )
    batch_size: int = field(default=128, metadata=_about("data", "images in a batch, of all devices together", "N"))
    prune_batch_size: int | None = field(
        default=None, metadata=_about("data", "images in a batch while a method prunes, where it takes others", "N")
    )
    images: int | None = field(
        default=None,
        metadata=_about("data", "take only so many images to train on, to decide by and to test: to try a recipe", "N"),
    )
    calibration_batches: int = field(
        default=64,
        metadata=_about(
            "data", "batches of training images for what the method observes, and for BatchNorm after pruning", "N"
        ),
    )
    workers: int = field(
        default=0, metadata=_about("data", "processes that read images; for imagefolder use a few", "N")
    )

    def preprocessing(self) -> "Preprocessing":
        """Return the preprocessing of images; ImageNet's for settings that are not given."""
        from secateurs.app.data.preprocessing import Preprocessing

        given: dict[str, Any] = {
            "size": self.image_size,
            "resize": self.image_resize,
            "mean": self.image_mean,
            "std": self.image_std,
            "interpolation": self.interpolation,
        }
        return Preprocessing(**{name: value for name, value in given.items() if value is not None})
