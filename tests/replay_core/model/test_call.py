"""Decoder calls and windows give the activations of the whole, plain pass."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from replay_core import UsageError
from replay_core.model.call import DecoderCall, decoder_call
from replay_core.model.vision import visual_features
from tests.replay_core.helpers import Loaded, counted, hooked, state_of
from tests.support import oracle

LAYERS = (0, 2, 4)


def whole_call(loaded: Loaded, inputs: Any) -> DecoderCall:
    features = visual_features(loaded.policy, inputs)
    return decoder_call(loaded.pair.policy, inputs, features)


def plain(loaded: Loaded, inputs: Any) -> oracle._Seen:
    with torch.no_grad(), oracle._capture(loaded.policy) as seen:
        loaded.policy(**inputs, use_cache=False)
    return seen


def real(inputs: Any, values: Tensor) -> Tensor:
    return values[inputs["attention_mask"].bool()]


@pytest.mark.parametrize("name", ["video", "mixed"])
def test_the_call_is_the_models_own(either: Loaded, name: str) -> None:
    inputs = either.batch(name)
    call, seen = whole_call(either, inputs), plain(either, inputs)
    assert torch.equal(call.embeds, seen.before[0])
    for where, expected in (("after", seen.after), ("before", seen.before)):
        with torch.no_grad():
            states = call.activations(LAYERS, where=where)
        assert states.keys() == set(LAYERS)
        for layer in LAYERS:
            assert torch.equal(real(inputs, states[layer]), real(inputs, expected[layer]))


def test_making_a_call_runs_no_layer_and_leaves_no_hook(loaded: Loaded) -> None:
    before = state_of(loaded.policy)
    with counted(first=loaded.pair.policy.layers[0], head=loaded.policy.lm_head) as calls:
        whole_call(loaded, loaded.batch("mixed"))
    assert calls == {"first": [], "head": []}
    assert state_of(loaded.policy) == before


def test_a_text_prompt_has_a_call_too(loaded: Loaded) -> None:
    inputs = loaded.singles("mixed")[1]
    call = decoder_call(loaded.pair.policy, inputs, None)
    with torch.no_grad():
        states = call.activations([1], where="after")
    assert torch.equal(states[1], plain(loaded, inputs).after[1])


@pytest.mark.parametrize(("name", "start", "stop"), [("video", 20, 40), ("mixed", 30, 60)])
@pytest.mark.parametrize("where", ["after", "before"])
def test_a_window_reads_what_the_whole_pass_reads(
    loaded: Loaded, name: str, start: int, stop: int, where: Any
) -> None:
    inputs = loaded.batch(name)
    seen = plain(loaded, inputs)
    window = whole_call(loaded, inputs).window(start, stop, 4)
    assert (window.start, window.embeds.shape[1]) == (start, stop - start)
    cut = {"attention_mask": inputs["attention_mask"][:, start:stop]}
    with torch.no_grad():
        states = window.activations([0, 3], where=where)
    for layer in (0, 3):
        expected = getattr(seen, where)[layer][:, start:stop]
        torch.testing.assert_close(
            real(cut, states[layer]), real(cut, expected), rtol=1e-4, atol=1e-4
        )


def test_the_prefix_runs_once_and_is_never_changed(loaded: Loaded) -> None:
    call = whole_call(loaded, loaded.batch("one_image"))
    with counted(first=loaded.pair.policy.layers[0], last=loaded.pair.policy.layers[3]) as calls:
        window = call.window(20, 35, 3)
        with torch.no_grad():
            first, second = (window.activations([2], where="after")[2] for _ in range(2))
    assert calls == {"first": [20, 15, 15], "last": []}
    assert torch.equal(first, second)
    assert window.prefix.get_seq_length() == 20


def test_a_window_from_the_first_column_on_has_no_prefix(loaded: Loaded) -> None:
    call = whole_call(loaded, loaded.batch("one_image"))
    window = call.window(0, 30, 3)
    assert window.prefix is None
    with torch.no_grad():
        states = window.activations([2], where="after")
        whole = call.activations([2], where="after")
    torch.testing.assert_close(states[2], whole[2][:, :30], rtol=1e-4, atol=1e-4)


def test_a_window_does_not_change_the_whole_call(one: Loaded) -> None:
    call = whole_call(one, one.batch("one_image"))
    before = {k: v.clone() for k, v in call.arguments.items() if isinstance(v, Tensor)}
    call.window(20, 35, 3)
    assert all(torch.equal(call.arguments[name], value) for name, value in before.items())
    assert call.prefix is None


def test_a_mask_of_another_form_is_not_cut(one: Loaded) -> None:
    call = whole_call(one, one.batch("one_image"))
    mask = torch.ones(1, 1, 4, 4)
    odd = replace(call, arguments={**call.arguments, "attention_mask": mask})
    assert odd.window(2, 3, 1) is odd
    none = replace(call, arguments={**call.arguments, "attention_mask": None})
    assert none.window(2, 3, 1).arguments["attention_mask"] is None


def test_given_embeddings_replace_the_calls_own(loaded: Loaded) -> None:
    call = whole_call(loaded, loaded.batch("one_image")).window(20, 35, 3)
    embeds = 2 * call.embeds
    assert torch.equal(call.activations([0], where="before", embeds=embeds)[0], embeds)
    assert torch.equal(call.activations([0], where="before")[0], call.embeds)


def test_a_window_passes_gradients_as_the_whole_does(loaded: Loaded) -> None:
    call = whole_call(loaded, loaded.batch("one_image"))
    gradients = []
    for piece, columns in ((call, slice(20, 35)), (call.window(20, 35, 3), slice(None))):
        embeds = piece.embeds.clone().requires_grad_()
        hidden = piece.activations([2], where="after", embeds=embeds)[2][:, columns]
        (gradient,) = torch.autograd.grad(hidden.square().sum(), embeds)
        gradients.append(gradient[:, columns])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-2)


def test_features_that_are_changed_on_their_way_are_refused(one: Loaded) -> None:
    """A model that scales its embeddings inside would get another x in the loop than at the end."""

    def scaled(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        return args, {**kwargs, "inputs_embeds": 2 * kwargs["inputs_embeds"]}

    inputs = one.batch("one_image")
    features = visual_features(one.policy, inputs)
    hook = one.policy.get_decoder().register_forward_pre_hook(scaled, with_kwargs=True)
    with hooked([hook]), pytest.raises(UsageError, match="do not reach the text decoder as its"):
        decoder_call(one.pair.policy, inputs, features)


def test_a_call_with_an_unknown_tensor_is_not_cut(one: Loaded) -> None:
    call = whole_call(one, one.batch("one_image"))
    odd = replace(call, arguments={**call.arguments, "per_layer_inputs": torch.ones(1, 58, 4)})
    assert odd.window(20, 35, 1) is odd
    plain_setting = replace(call, arguments={**call.arguments, "output_attentions": False})
    assert plain_setting.window(20, 35, 1) is not plain_setting
