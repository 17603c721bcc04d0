"""Run a model, or look into it while it runs, and leave it as it was."""
