"""Texts that several tables of bad input hold."""

LONG = "x" * 2000
