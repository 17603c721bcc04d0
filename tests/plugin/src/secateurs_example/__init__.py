"""HRank, nuclear norms and group lasso for Secateurs."""
