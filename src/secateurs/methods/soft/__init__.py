"""SFP, ASFP, SRFP, ASRFP: filters are set to zero after every epoch and may grow back (He et al. 2018 and later)."""

from secateurs.methods.soft.method import ASFP, ASRFP, SFP, SRFP

__all__ = ["ASFP", "ASRFP", "SFP", "SRFP"]
