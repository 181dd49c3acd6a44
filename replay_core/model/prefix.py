"""Keys and values of what stands before a window of the prompt."""

import copy

from transformers import DynamicCache


def fresh(prefix: DynamicCache) -> DynamicCache:
    """Return a cache that grows without touching ``prefix``; the tensors are shared."""
    cache = copy.copy(prefix)
    cache.layers = [copy.copy(layer) for layer in prefix.layers]
    return cache
