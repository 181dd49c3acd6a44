"""The model's own doors: decoder, final norm, head, visual positions and visual features.

Nothing is found by name pattern and no class is listed: a model qualifies when transformers'
accessors answer, ``head(norm(h_last))`` really are its logits and its decoder is causal
(:func:`check_doors`).
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from replay_core.errors import UsageError
from replay_core.model.hooks import capture

MODALITIES = ("image", "video")
PIXELS = ("pixel_values", "pixel_values_videos", "pixel_values_images", "image_patches")
Inputs = Mapping[str, Tensor]


@dataclass(frozen=True)
class Anatomy:
    """The parts of a multimodal model that replay touches; see :func:`anatomy_of`."""

    model: PreTrainedModel
    decoder: nn.Module
    norm: nn.Module
    head: nn.Linear

    @property
    def layers(self) -> nn.ModuleList:
        """The decoder layers, in order."""
        layers = self.decoder.layers
        assert isinstance(layers, nn.ModuleList)
        return layers

    @property
    def name(self) -> str:
        """Where the model was loaded from, else its class."""
        return getattr(self.model, "name_or_path", "") or type(self.model).__name__


def anatomy_of(model: PreTrainedModel) -> Anatomy:
    """Return the parts of ``model`` that replay needs.

    Raises:
        UsageError: the model has no such door, or cannot take precomputed vision outputs.
    """
    decoder = model.get_decoder()
    head = model.get_output_embeddings()
    norm = getattr(decoder, "norm", None)
    kind = type(model).__name__
    if not isinstance(getattr(decoder, "layers", None), nn.ModuleList) or norm is None:
        raise UsageError(f"{kind} is not supported: its text decoder has no 'layers' and 'norm'")
    if not isinstance(head, nn.Linear):
        raise UsageError(f"{kind} is not supported: its output embeddings are not a linear head")
    if head.weight.shape != (head.out_features, head.in_features) or head.weight.is_meta:
        raise UsageError(
            f"{kind} is not supported: the weights of its head are packed or not in memory, but "
            "the logit lens reads their rows; load it with an unquantised head on a device"
        )
    if "mm_encoder_outputs" not in inspect.signature(model.forward).parameters:
        raise UsageError(
            f"{kind} is not supported: its forward does not take 'mm_encoder_outputs' "
            "(transformers 5.18 or newer gives it to the models that have it)"
        )
    return Anatomy(model, decoder, norm, head)


@torch.no_grad()
def check_doors(anatomy: Anatomy) -> None:
    """Check on a short text that the logit lens and the window of the prompt read the model right.

    ``head(norm(h_last))`` must be the logits, with nothing behind the head: a model that scales or
    caps its logits would be misread, be it ever so little at small logits. And the decoder, given
    the plain (batch, tokens) mask, must be causal, since what stands behind the last visual token
    is not run.

    Raises:
        UsageError: the logits differ, or an earlier token sees a later one.
    """
    head, last = anatomy.head, len(anatomy.layers) - 1
    ids = plain_ids(anatomy.model).to(head.weight.device)
    from_head: list[Tensor] = []
    hook = head.register_forward_hook(lambda module, args, output: from_head.append(output))
    try:
        with capture(anatomy.layers, [last], where="after", stop=False) as seen:
            logits = anatomy.model(input_ids=ids, use_cache=False).logits
    finally:
        hook.remove()
    # From the weights, as the lens reads them: a hook or a wrapper on the head must show, too.
    normed = anatomy.norm(seen[last]).to(head.weight.device)
    expected = functional.linear(normed, head.weight, head.bias).to(logits)
    untouched = len(from_head) == 1 and torch.equal(from_head[0].to(logits), logits)
    if not untouched or not torch.allclose(logits, expected, rtol=1e-3, atol=1e-3):
        gap = (logits - expected).abs().max().item()
        raise UsageError(
            f"{anatomy.name} is not supported: its logits are not head(norm(h)) of its last layer "
            f"(they differ by up to {gap:.3g}{_logit_settings(anatomy.model)}), so the logit lens "
            "does not read it"
        )
    whole, start = (_decoded(anatomy, ids[:, :length]) for length in (ids.shape[1], 4))
    if (whole[:, :4] - start).norm() > 0.1 * start.norm():
        raise UsageError(
            f"{anatomy.name} is not supported: its text decoder is not causal (what follows "
            "a token changes its activations), so prompts cannot be cut behind a visual token"
        )


def plain_ids(model: PreTrainedModel) -> Tensor:
    """Return eight token ids (1, 8), none of them a placeholder."""
    special = {getattr(model.config, f"{modality}_token_id", None) for modality in MODALITIES}
    return torch.tensor([[token for token in range(16) if token not in special][:8]])


def _decoded(anatomy: Anatomy, ids: Tensor) -> Tensor:
    """Return the decoder's last hidden states (1, tokens, hidden) for a prompt, in float32."""
    embeds = anatomy.model.get_input_embeddings()(ids)
    mask = torch.ones_like(ids)
    hidden: Tensor = anatomy.decoder(
        inputs_embeds=embeds, attention_mask=mask, use_cache=False
    ).last_hidden_state
    return hidden.float()


def _logit_settings(model: PreTrainedModel) -> str:
    """Return what a config says of scaled or capped logits, for the sentence that refuses them."""
    config = model.config.get_text_config()
    names = ("final_logit_softcapping", "logits_scaling", "logit_scale")
    found = {name: getattr(config, name, None) for name in names}
    told = [f"{name}={value}" for name, value in found.items() if value is not None]
    return f"; its config has {', '.join(told)}" if told else ""


def check_backward(anatomy: Anatomy) -> None:
    """Check on a short text that gradients flow back through the decoder's first layer.

    Raises:
        UsageError: they do not, as with a quantised model whose kernels have no backward.
    """
    embed = anatomy.model.get_input_embeddings()
    with torch.inference_mode(False), torch.enable_grad():
        ids = torch.arange(8, device=next(embed.parameters()).device).unsqueeze(0)
        embeds = embed(ids).detach().clone().requires_grad_(True)
        try:
            with capture(anatomy.layers, [0], where="after") as seen:
                anatomy.decoder(inputs_embeds=embeds, use_cache=False)
            (gradient,) = torch.autograd.grad(seen[0].float().square().sum(), embeds)
        except (RuntimeError, NotImplementedError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UsageError(
                f"{anatomy.name} cannot be the policy of a replay: no gradient flows through its "
                f"first layer ({reason}); a model like this can be the base, or answer with "
                "method=none"
            ) from error
    if not gradient.isfinite().all() or not gradient.any():
        raise UsageError(
            f"{anatomy.name} cannot be the policy of a replay: the gradient through its first "
            "layer is not a finite, non-zero number"
        )


def placeholder_masks(model: PreTrainedModel, input_ids: Tensor) -> dict[str, Tensor]:
    """Return where each modality's own placeholder token stands: modality → bool (batch, tokens).

    A family may put features elsewhere (GLM-4.1V's videos stand on image tokens): where they went
    is in :attr:`VisualFeatures.positions`.
    """
    masks = {}
    for modality in MODALITIES:
        token = getattr(model.config, f"{modality}_token_id", None)
        if token is not None:
            masks[modality] = input_ids == token
    return masks


def check_complete(model: PreTrainedModel, inputs: Inputs) -> None:
    """Check that nothing of the processor's output was lost that the model would do without.

    Without these, positions (M-RoPE) and so all activations would silently be other ones.

    Raises:
        UsageError: pixels came without a tensor that the model's forward takes beside them.
    """
    accepted = inspect.signature(model.forward).parameters
    beside = {"mm_token_type_ids": PIXELS, "second_per_grid_ts": ("pixel_values_videos",)}
    for name, pixels in beside.items():
        given = [pixel for pixel in pixels if inputs.get(pixel) is not None]
        if given and name in accepted and inputs.get(name) is None:
            raise UsageError(
                f"{given[0]} came without {name}, without which {type(model).__name__} takes other "
                "positions; pass the processor's whole output"
            )


def check_pictured(
    model: PreTrainedModel, input_ids: Tensor, positions: Tensor | None = None
) -> None:
    """Check that a visual feature stands for each placeholder token of the prompts.

    ``positions``, bool (batch, tokens), is where features go; None where no pixels came at all. A
    placeholder without one would be read as a word, and its prompt taken for text alone.

    Raises:
        UsageError: a placeholder token has none.
    """
    for modality, mask in placeholder_masks(model, input_ids).items():
        bare = mask if positions is None else mask & ~positions.to(mask.device)
        if bare.any():
            pixels = {"image": "pixel_values", "video": "pixel_values_videos"}[modality]
            raise UsageError(
                f"the prompts hold {int(bare.sum())} {modality} tokens without {pixels}; pass the "
                "processor's whole output, with the pixels, which policy and base both have to see"
            )


@dataclass(frozen=True)
class VisualFeatures:
    """Vision outputs of a batch, as the language model receives them at its visual positions.

    ``flat`` is (visual tokens, hidden), in the order of the prompt: sample by sample, position by
    position. ``outputs`` are the model's own encoder outputs and ``is_modality`` says which rows of
    ``flat`` belong to which of them. ``positions``, bool (batch, tokens), is where they stand.
    """

    outputs: dict[str, BaseModelOutputWithPooling]
    is_modality: dict[str, Tensor]
    flat: Tensor
    positions: Tensor

    def plus(self, delta: Tensor) -> dict[str, BaseModelOutputWithPooling]:
        """Return fresh encoder outputs whose features are ``flat + delta``, in the model's dtype.

        ``delta`` is (visual tokens, hidden). Fresh for every call, because ``generate`` changes the
        object that it is given when it expands a batch.
        """
        edited = (self.flat.to(delta.dtype) + delta).to(self.flat.dtype)
        return self.with_features(edited)

    def to(self, device: torch.device) -> "VisualFeatures":
        """Return the same features on another device."""
        outputs = {modality: _moved(output, device) for modality, output in self.outputs.items()}
        is_modality = {modality: rows.to(device) for modality, rows in self.is_modality.items()}
        positions = self.positions.to(device)
        return VisualFeatures(outputs, is_modality, self.flat.to(device), positions)

    def with_features(self, flat: Tensor) -> dict[str, BaseModelOutputWithPooling]:
        """Return fresh encoder outputs that carry ``flat`` (visual tokens, hidden)."""
        fresh = {}
        for modality, output in self.outputs.items():
            pooled: Any = output.pooler_output
            rows = flat[self.is_modality[modality]]
            copy = type(output)(**output)
            copy["pooler_output"] = _shaped_like(pooled, rows)
            fresh[modality] = copy
        return fresh


def visual_features(model: PreTrainedModel, inputs: Inputs) -> VisualFeatures | None:
    """Run the vision tower once and return its features; None when the batch has no pixels.

    ``inputs`` are the processor's whole output. What each family's tower needs beside the pixels
    (grids, image sizes) is read from the signature of its own ``get_…_features``, and where the
    features go is asked of the model.

    Raises:
        UsageError: something of the processor's output is missing (:func:`check_complete`,
            :func:`check_pictured`), or the prompt's placeholders and the features do not match in
            number.
    """
    check_complete(model, inputs)
    outputs = {}
    for modality in MODALITIES:
        encode = getattr(model.base_model, f"get_{modality}_features", None)
        if encode is None:
            continue
        accepted = inspect.signature(encode).parameters
        arguments = {key: inputs[key] for key in accepted if key in inputs}
        if any(key in arguments for key in PIXELS):
            with torch.no_grad():
                outputs[modality] = encode(**arguments, return_dict=True)
    if not outputs:
        check_pictured(model, inputs["input_ids"])
        return None
    pieces = {modality: _flattened(output.pooler_output) for modality, output in outputs.items()}
    placed = {
        modality: _placed(model, inputs["input_ids"], modality, piece)
        for modality, piece in pieces.items()
    }
    positions = torch.stack(list(placed.values())).any(0)
    check_pictured(model, inputs["input_ids"], positions)
    some = next(iter(pieces.values()))
    is_modality = {modality: mask[positions].to(some.device) for modality, mask in placed.items()}
    flat = some.new_zeros(int(positions.sum()), some.shape[-1])
    for modality, piece in pieces.items():
        flat[is_modality[modality]] = piece
    return VisualFeatures(outputs, is_modality, flat, positions)


def _placed(model: PreTrainedModel, input_ids: Tensor, modality: str, features: Tensor) -> Tensor:
    """Return where the model itself puts one modality's ``features``: bool (batch, tokens).

    Raises:
        UsageError: they are not as many as their placeholders.
    """
    ask = getattr(model.base_model, "get_placeholder_mask", None)
    if ask is None:
        mask = placeholder_masks(model, input_ids)[modality]
    else:
        # The embeddings are only asked for their shape and device.
        shaped = features.new_empty(1).expand(*input_ids.shape, features.shape[-1])
        given = {"inputs_embeds": shaped, f"{modality}_features": features}
        try:
            answer = ask(input_ids, **given)
        except ValueError:
            mask = placeholder_masks(model, input_ids)[modality]
        else:
            pair = answer if isinstance(answer, tuple) else (answer, answer)
            mask = pair[MODALITIES.index(modality)][..., 0]
    if int(mask.sum()) != len(features):
        raise UsageError(
            f"the prompts hold {int(mask.sum())} {modality} tokens, but the vision tower returned "
            f"{len(features)} features"
        )
    return mask.to(input_ids.device)


def without_pixels(model: PreTrainedModel, inputs: Inputs) -> dict[str, Tensor]:
    """Return ``inputs`` as the forward takes them beside precomputed vision outputs."""
    accepted = inspect.signature(model.forward).parameters
    return {key: value for key, value in inputs.items() if key in accepted and key not in PIXELS}


def _moved(output: Any, device: torch.device) -> Any:
    """Return an encoder output, or what stands in one, on another device."""
    if isinstance(output, Tensor):
        return output.to(device)
    if isinstance(output, BaseModelOutputWithPooling):
        return type(output)(**{key: _moved(value, device) for key, value in output.items()})
    if isinstance(output, list | tuple):
        return type(output)(_moved(value, device) for value in output)
    return output


def _flattened(pooled: Tensor | tuple[Tensor, ...] | list[Tensor]) -> Tensor:
    parts = [pooled] if isinstance(pooled, Tensor) else list(pooled)
    return torch.cat([part.reshape(-1, part.shape[-1]) for part in parts])


def _shaped_like(
    pooled: Tensor | tuple[Tensor, ...] | list[Tensor], flat: Tensor
) -> Tensor | tuple[Tensor, ...]:
    if isinstance(pooled, Tensor):
        return flat.reshape(pooled.shape)
    sizes = [part.shape[:-1].numel() for part in pooled]
    pieces = torch.split(flat, sizes)
    return tuple(piece.reshape(part.shape) for piece, part in zip(pieces, pooled, strict=True))
