"""Activation Replay inside evaluation harnesses: thin adapters around :mod:`replay_core`."""
