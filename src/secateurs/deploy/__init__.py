"""Deployment: measure latency on a runtime, prune to it, and export (ONNX, OpenVINO, ExecuTorch, torch.export)."""

from secateurs.deploy.device import Device
from secateurs.deploy.export import Exported, export
from secateurs.deploy.layer_times import LayerTime, Profile
from secateurs.deploy.loaded import Loaded
from secateurs.deploy.memory import ActivationMemory, activation_memory
from secateurs.deploy.stopwatch import Measurement, Ratio

__all__ = [
    "ActivationMemory",
    "Device",
    "Exported",
    "LayerTime",
    "Loaded",
    "Measurement",
    "Profile",
    "Ratio",
    "activation_memory",
    "export",
]
