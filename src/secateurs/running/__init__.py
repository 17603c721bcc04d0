"""Run models for inference, with hooks on their activations, without changing them or the process."""
