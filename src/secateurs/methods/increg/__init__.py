"""IncReg: a penalty factor for each unit that moves with its rank (Wang et al. 2019)."""

from secateurs.methods.increg.method import IncReg

__all__ = ["IncReg"]
