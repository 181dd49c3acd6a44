"""The core's tests: one file per module."""
