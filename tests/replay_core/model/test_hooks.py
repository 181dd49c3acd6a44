"""Hooks that read and edit, and live only inside the block."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from replay_core.model.hooks import Reached, capture, entering, hooked


class Layer(nn.Module):
    """Adds its number; counts its runs."""

    def __init__(self, number: int, form: str) -> None:
        super().__init__()
        self.number, self.form, self.runs = number, form, 0

    def forward(self, hidden_states: Tensor) -> Any:
        self.runs += 1
        output = hidden_states + self.number
        return (output, "attention") if self.form == "tuple" else output


def layers(form: str = "tensor") -> nn.ModuleList:
    return nn.ModuleList(Layer(number, form) for number in range(1, 5))


def run(stack: nn.ModuleList, keyword: bool = False) -> Tensor:
    hidden = torch.zeros(1, 1, 1)
    for layer in stack:
        output = layer(hidden_states=hidden) if keyword else layer(hidden)
        hidden = output[0] if isinstance(output, tuple) else output
    return hidden


def runs(stack: nn.ModuleList) -> list[int]:
    return [layer.runs for layer in stack]


def hooks(stack: nn.ModuleList) -> int:
    return sum(len(layer._forward_hooks) + len(layer._forward_pre_hooks) for layer in stack)


@pytest.mark.parametrize("form", ["tensor", "tuple"])
@pytest.mark.parametrize("keyword", [False, True])
def test_after_is_the_output_and_before_the_input(form: str, keyword: bool) -> None:
    stack = layers(form)
    with capture(stack, [2, 0], where="after") as after:
        run(stack, keyword)
    with capture(stack, [2, 0], where="before") as before:
        run(stack, keyword)
    assert {layer: value.item() for layer, value in after.items()} == {0: 1, 2: 6}
    assert {layer: value.item() for layer, value in before.items()} == {0: 0, 2: 3}


def test_the_pass_ends_behind_the_last_one_wanted() -> None:
    stack = layers()
    with capture(stack, [2, 1], where="after"):
        run(stack)
    assert runs(stack) == [1, 1, 1, 0]


def test_a_pass_read_before_a_layer_does_not_run_it() -> None:
    stack = layers()
    with capture(stack, [0, 2], where="before"):
        run(stack)
    assert runs(stack) == [1, 1, 0, 0]


def test_without_stop_the_pass_runs_on() -> None:
    stack = layers()
    with capture(stack, [1], where="after", stop=False) as seen:
        assert run(stack).item() == 10
    assert seen[1].item() == 3


@pytest.mark.parametrize("where", ["after", "before"])
def test_no_hook_outlives_the_block(where: Any) -> None:
    stack = layers()
    with capture(stack, [0, 1], where=where):
        assert hooks(stack) == 2
        run(stack)
    assert hooks(stack) == 0
    assert run(stack).item() == 10


def test_an_exception_passes_and_leaves_no_hook() -> None:
    stack = layers()
    with pytest.raises(ZeroDivisionError), capture(stack, [0, 1], where="after"):
        raise ZeroDivisionError
    assert hooks(stack) == 0


def test_a_layer_that_is_not_there_leaves_no_hook() -> None:
    stack = layers()
    with pytest.raises(IndexError), capture(stack, [0, 9], where="after"):
        run(stack)
    assert hooks(stack) == 0


def test_reached_never_leaves() -> None:
    with capture(layers(), [0], where="after"):
        raise Reached


@pytest.mark.parametrize("form", ["tensor", "tuple"])
@pytest.mark.parametrize("keyword", [False, True])
@pytest.mark.parametrize("where", ["after", "before"])
def test_what_is_returned_takes_the_place(form: str, keyword: bool, where: Any) -> None:
    stack = layers(form)
    seen: list[tuple[int, float]] = []

    def raised(layer: int, hidden: Tensor) -> Tensor | None:
        seen.append((layer, hidden.item()))
        return None if layer == 0 else hidden + 3

    with hooked(stack, [0, 1, 3], raised, where=where):
        assert run(stack, keyword).item() == 10 + 2 * 3
    inputs, outputs = [(0, 0), (1, 1), (3, 9)], [(0, 1), (1, 3), (3, 13)]
    assert seen == (outputs if where == "after" else inputs)
    assert hooks(stack) == 0
    assert run(stack, keyword).item() == 10


def test_an_edit_keeps_what_else_a_layer_returns() -> None:
    layer = layers("tuple")[:1]
    with hooked(layer, [0], lambda _, hidden: hidden * 2, where="after"):
        hidden, beside = layer[0](torch.zeros(1, 1, 1))
    assert (hidden.item(), beside) == (2, "attention")


def test_entering_shows_the_keyword_arguments_inside_the_block_only() -> None:
    layer = layers()[0]
    seen: list[dict[str, Any]] = []
    with entering(layer, seen.append):
        layer(hidden_states=torch.ones(1))
    layer(hidden_states=torch.zeros(1))
    assert [arguments["hidden_states"].item() for arguments in seen] == [1]
    with pytest.raises(ZeroDivisionError), entering(layer, lambda arguments: 1 / 0):
        layer(hidden_states=torch.ones(1))
    assert not layer._forward_pre_hooks
