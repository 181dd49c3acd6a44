"""Read and edit what goes into and out of a module, by hooks that live inside a ``with`` block.

"After layer l" is the output of decoder layer l, before the final norm; "before layer l" is its
input. Hooks are attached all or none, and are gone after the block, also after an exception.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

from torch import Tensor, nn

Where = Literal["after", "before"]
See = Callable[[int, Tensor], Tensor | None]


class Reached(Exception):
    """Ends a forward pass early, from a hook; the block that waits for it suppresses it."""


@contextlib.contextmanager
def hooked(
    layers: nn.ModuleList, wanted: Iterable[int], see: See, *, where: Where
) -> Iterator[None]:
    """Call ``see(layer, hidden)`` whenever one of the ``wanted`` layers runs inside the block.

    ``hidden`` is (batch, tokens, hidden). What ``see`` returns takes its place in the pass; None
    leaves it.
    """
    with contextlib.ExitStack() as hooks:
        for layer in wanted:
            if where == "after":
                handle = layers[layer].register_forward_hook(_after(layer, see))
            else:
                handle = layers[layer].register_forward_pre_hook(
                    _before(layer, see), with_kwargs=True
                )
            hooks.callback(handle.remove)
        yield


@contextlib.contextmanager
def entering(module: nn.Module, see: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """Call ``see`` with the keyword arguments of ``module`` before it runs inside the block."""

    def hook(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        see(kwargs)

    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def capture(
    layers: nn.ModuleList, wanted: Sequence[int], *, where: Where, stop: bool = True
) -> Iterator[dict[int, Tensor]]:
    """Collect activations of the forward pass inside the block.

    Yields a dict that the pass fills: layer → (batch, tokens, hidden). With ``stop`` the pass ends,
    without an error, once the last of ``wanted`` has been read, so the forward call must be the
    block's last statement.
    """
    seen: dict[int, Tensor] = {}
    last = max(wanted)

    def keep(layer: int, hidden: Tensor) -> None:
        seen[layer] = hidden
        if stop and layer == last:
            raise Reached

    with hooked(layers, wanted, keep, where=where), contextlib.suppress(Reached):
        yield seen


def _after(layer: int, see: See) -> Callable[..., Any]:
    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        if isinstance(output, Tensor):
            return see(layer, output)
        edited = see(layer, output[0])
        return None if edited is None else (edited, *output[1:])

    return hook


def _before(layer: int, see: See) -> Callable[..., Any]:
    def hook(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        edited = see(layer, args[0] if args else kwargs["hidden_states"])
        if edited is None:
            return None
        if args:
            return (edited, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": edited}

    return hook
