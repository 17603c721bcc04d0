"""Save a pruned model and load it back onto its own class: safetensors for weights, JSON for the plan, no pickle.

A saved model is a directory of two files. `model.safetensors` holds every parameter and buffer once; `plan.json` holds
the plan, with the dense model's tensor names and shapes, and the SHA-256 of the weights. `load` applies the plan to a
newly built dense model, so that the result is an ordinary model of the user's own class.
"""

from secateurs.store.save import load, load_plan, save

__all__ = ["load", "load_plan", "save"]
