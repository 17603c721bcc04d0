"""Networks of the papers, and the construction of networks of other packages by name."""

from secateurs.app.models.loading import build, check_name, native_shape
from secateurs.app.models.mobilefacenet import MobileFaceNet
from secateurs.app.models.publisher import published_preprocessing
from secateurs.app.models.resnet import CifarResNet, resnet20, resnet32, resnet44, resnet56, resnet110
from secateurs.app.models.vgg import CifarVGG, vgg16_bn
from secateurs.app.models.zoo import has_named_weights, published_classes, published_state

__all__ = [
    "CifarResNet",
    "CifarVGG",
    "MobileFaceNet",
    "build",
    "check_name",
    "has_named_weights",
    "native_shape",
    "published_classes",
    "published_preprocessing",
    "published_state",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "resnet110",
    "vgg16_bn",
]
