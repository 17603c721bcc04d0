"""Channel rules: importing this package registers one rule for every ATen operator that the library understands."""

from secateurs.graph.rules import contract, cuts, factories, joins, layout, norm, pointwise, reduce, reshape

__all__ = ["contract", "cuts", "factories", "joins", "layout", "norm", "pointwise", "reduce", "reshape"]
