"""Deployment: measure latency on a runtime, prune to a latency there, and export (ONNX, OpenVINO, torch.export)."""

from secateurs.deploy.device import Device
from secateurs.deploy.export import Exported, export
from secateurs.deploy.layer_times import LayerTime, Profile
from secateurs.deploy.loaded import Loaded
from secateurs.deploy.memory import Activations, activations
from secateurs.deploy.stopwatch import Measurement, Ratio

__all__ = [
    "Activations",
    "Device",
    "Exported",
    "LayerTime",
    "Loaded",
    "Measurement",
    "Profile",
    "Ratio",
    "activations",
    "export",
]
