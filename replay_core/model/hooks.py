"""Read activations with hooks that live only inside a ``with`` block.

"After layer l" is the output of decoder layer l, before the final norm; "before layer l" is its
input.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from torch import Tensor, nn

Where = Literal["after", "before"]


class Reached(Exception):
    """Ends a forward pass early, from a hook; never leaves :func:`capture` and its like."""


@contextlib.contextmanager
def capture(
    layers: nn.ModuleList, wanted: Sequence[int], *, where: Where, stop: bool = True
) -> Iterator[dict[int, Tensor]]:
    """Collect activations of the forward pass inside the block.

    Yields a dict that the pass fills: layer → (batch, tokens, hidden). With ``stop`` the pass ends,
    without an error, once the last of ``wanted`` has been read, so the forward call must be the
    block's last statement. All hooks are gone afterwards, also after an exception.
    """
    seen: dict[int, Tensor] = {}
    last = max(wanted)

    def keep(layer: int, hidden: Tensor) -> None:
        seen[layer] = hidden
        if stop and layer == last:
            raise Reached

    with contextlib.ExitStack() as hooks:
        for layer in wanted:
            if where == "after":
                handle = layers[layer].register_forward_hook(_after(layer, keep))
            else:
                handle = layers[layer].register_forward_pre_hook(
                    _before(layer, keep), with_kwargs=True
                )
            hooks.callback(handle.remove)
        with contextlib.suppress(Reached):
            yield seen


def _after(layer: int, keep: Callable[[int, Tensor], None]) -> Callable[..., None]:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        keep(layer, output if isinstance(output, Tensor) else output[0])

    return hook


def _before(layer: int, keep: Callable[[int, Tensor], None]) -> Callable[..., None]:
    def hook(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        keep(layer, args[0] if args else kwargs["hidden_states"])

    return hook
