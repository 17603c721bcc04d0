"""HRank, CHIP and group lasso for Secateurs."""
