"""Channel rules: importing this package registers one rule for every ATen operator that the library understands."""

from secateurs.graph.rules import (
    contract,
    factories,
    in_place,
    joining,
    norm,
    pointwise,
    reduce,
    reorder,
    reshape,
    slicing,
)

__all__ = [
    "contract",
    "factories",
    "in_place",
    "joining",
    "norm",
    "pointwise",
    "reduce",
    "reorder",
    "reshape",
    "slicing",
]
