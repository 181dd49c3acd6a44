"""Images and videos of a batch: what came with the prompts, and the features made from it."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from replay_core.errors import UsageError

MODALITIES = ("image", "video")
PIXELS = ("pixel_values", "pixel_values_videos", "pixel_values_images", "image_patches")
# A processor's whole output.
Inputs = Mapping[str, Tensor]


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
        return self.with_features(self.moved(delta))

    def moved(self, delta: Tensor) -> Tensor:
        """Return ``flat + delta``, added in the dtype of ``delta`` and rounded to the model's."""
        return (self.flat.to(delta.dtype) + delta).to(self.flat.dtype)

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
    pieces = {modality: flattened(output.pooler_output) for modality, output in outputs.items()}
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


def flattened(pooled: Tensor | tuple[Tensor, ...] | list[Tensor]) -> Tensor:
    """Return a modality's features (tokens, width) in one piece, which families keep in several."""
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
