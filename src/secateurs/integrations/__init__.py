"""Pruning with the tools of others: each module needs its package, and imports it when it is used.

`secateurs.integrations.huggingface` (transformers), `.timm`, and `.ultralytics`.
"""
