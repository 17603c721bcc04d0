"""Integrations with other packages: each module imports its package when it is used.

`secateurs.integrations.huggingface` (transformers), `.timm`, and `.ultralytics`.
"""
