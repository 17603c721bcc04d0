"""Pruning during training: `Session` drives a method inside any loop, by hooks on the optimizer."""

from secateurs.session.best import Best
from secateurs.session.history import Event, History
from secateurs.session.method import Driver, TrainingMethod
from secateurs.session.penalty import L2, GroupNorm, Penalty, ScaleL1
from secateurs.session.schedule import (
    Asymptotic,
    Clock,
    Constant,
    Cubic,
    Exponential,
    ExponentialDecay,
    Linear,
    OneShot,
    Position,
    ToZero,
)
from secateurs.session.scope import Units
from secateurs.session.session import Session
from secateurs.session.sparsify import Gradual, Sparsify

__all__ = [
    "L2",
    "Asymptotic",
    "Best",
    "Clock",
    "Constant",
    "Cubic",
    "Driver",
    "Event",
    "Exponential",
    "ExponentialDecay",
    "Gradual",
    "GroupNorm",
    "History",
    "Linear",
    "OneShot",
    "Penalty",
    "Position",
    "ScaleL1",
    "Session",
    "Sparsify",
    "ToZero",
    "TrainingMethod",
    "Units",
]
