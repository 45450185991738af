"""Tries which architectures of transformers the engine serves, on small random checkpoints.

    python -m study.architectures            # all of them; writes docs/models.md

`checkpoints` makes the models, `sweep` tries one.
"""
