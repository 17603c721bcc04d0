"""Allowed values of a run's settings; this module imports nothing heavy, so that `--help` is fast."""

from typing import Literal

Crop = Literal["standard", "none"]
"""Cropping of training images; see `data.augment`."""

Shape = Literal["one-cycle", "cosine", "step", "multi-step", "constant"]
"""Schedules of the learning rate; see `training.rates`."""

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
"""Lightning's names: float32, or automatic mixed precision in bfloat16 or float16."""

Interpolation = Literal["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"]
"""Interpolation of a resize, as torchvision names it."""

Logger = Literal["csv", "tensorboard", "mlflow", "wandb"]
"""Loggers of each epoch's figures; see `training.logs`."""

Strategy = Literal["auto", "ddp", "fsdp", "deepspeed"]
"""Lightning's names of what can be asked for; those that shard a model are refused, with the remedy."""

BUDGETS = ("macs", "params", "memory", "peak_memory", "filters", "latency")
"""Fields of a budget that are keys of a recipe and flags, each an amount."""

NETWORKS = {
    "resnet20": "resnet:resnet20",
    "resnet32": "resnet:resnet32",
    "resnet44": "resnet:resnet44",
    "resnet56": "resnet:resnet56",
    "resnet110": "resnet:resnet110",
    "resnet56-conv": "resnet:resnet56_conv",
    "resnet18": "resnet:resnet18",
    "resnet34": "resnet:resnet34",
    "vgg13": "vgg:vgg13",
    "vgg16-bn": "vgg:vgg16_bn",
    "vgg19-bn": "vgg:vgg19_bn",
    "mobilenet-v1": "mobilenet:mobilenet_v1",
    "googlenet": "googlenet:googlenet",
}
"""Networks of the papers: the name, and the module of `app.models` with the function that builds it."""

MODELS = (*NETWORKS, "torchvision:NAME", "timm:NAME", "hf:REPOSITORY", "path.py:function")
"""Forms of a model's name."""
