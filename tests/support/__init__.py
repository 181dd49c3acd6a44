"""Tiny checkpoints and the independent oracle that the core is judged by."""
