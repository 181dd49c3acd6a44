"""Conversations in which a model calls a tool: what it asked for, what it is shown, when it ends.

Nothing here knows a harness or a model, and nothing that a model wrote is ever executed.
"""
