"""Run decoder layers that keep their inputs only, and run again for the backward pass.

Transformers' own gradient checkpointing does nothing in eval mode, and turns the cache off that
holds the prefix of a window. So the layers' forwards are wrapped here, inside a ``with`` block.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache

from replay_core.model.prefix import fresh


@contextlib.contextmanager
def checkpointed(layers: Sequence[nn.Module]) -> Iterator[None]:
    """Let ``layers`` keep nothing but their inputs for the backward pass inside the block.

    The gradient is the same; each layer runs once more for it. Hooks on the layers see every
    activation once, in the forward pass.
    """
    with contextlib.ExitStack() as changed:
        for layer in layers:
            # A forward may already be an attribute of its own: accelerate's dispatch sets one.
            own = vars(layer).get("forward")
            layer.forward = _run_again(layer.forward)
            changed.callback(_restore, layer, own)
        yield


def _run_again(forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        return forward(*args, **_own_caches(kwargs))

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return checkpoint(run, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    return wrapped


def _own_caches(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments with caches that may grow: a layer that runs twice must not find the
    keys and values there that it added itself."""
    return {
        name: fresh(value) if isinstance(value, DynamicCache) else value
        for name, value in arguments.items()
    }


def _restore(layer: nn.Module, own: Callable[..., Any] | None) -> None:
    if own is None:
        del layer.forward
    else:
        layer.forward = own


class SavedBytes:
    """Counts, inside the block, the bytes that autograd keeps for the backward pass.

    A storage that several operations keep counts once; those of ``held`` tensors, which stand in
    memory anyway, do not count.
    """

    def __init__(self, held: Iterator[Tensor]) -> None:
        self._storages: dict[int, int] = {}
        self._held = {tensor.untyped_storage().data_ptr() for tensor in held}
        self._hooks = saved_tensors_hooks(self._keep, lambda tensor: tensor)

    def _keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._held:
            self._storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    @property
    def total(self) -> int:
        """The bytes seen."""
        return sum(self._storages.values())

    def __enter__(self) -> "SavedBytes":
        self._hooks.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._hooks.__exit__(*exception)
