"""The model's own doors: decoder, final norm, head, visual positions and visual features.

Nothing is found by name pattern and no class is listed: a model qualifies when transformers'
accessors answer and ``head(norm(h_last))`` really are its logits (:func:`check_doors`).
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

from replay_core.capture import capture
from replay_core.errors import UsageError

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
    """Check on a short text that ``head(norm(h_last))`` are the model's logits.

    Models that scale or cap their logits fail here, since the logit lens would misread them.

    Raises:
        UsageError: the logits differ by more than rounding.
    """
    head = anatomy.head
    ids = torch.arange(8, device=head.weight.device).unsqueeze(0) % head.out_features
    last = len(anatomy.layers) - 1
    with capture(anatomy.layers, [last], where="after", stop=False) as seen:
        logits = anatomy.model(input_ids=ids, use_cache=False).logits
    # From the weights, as the lens reads them: a hook or a wrapper on the head must show, too.
    expected = functional.linear(anatomy.norm(seen[last]), head.weight, head.bias)
    if not torch.allclose(logits, expected.to(logits.device, logits.dtype), rtol=1e-3, atol=1e-3):
        gap = (logits - expected.to(logits)).abs().max().item()
        raise UsageError(
            f"{anatomy.name} is not supported: its logits are not head(norm(h)) of its last layer "
            f"(they differ by up to {gap:.3g}), so the logit lens does not read it"
        )


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
    """Return where each modality's placeholder tokens stand: modality → bool (batch, tokens)."""
    masks = {}
    for modality in MODALITIES:
        token = getattr(model.config, f"{modality}_token_id", None)
        if token is not None:
            masks[modality] = input_ids == token
    return masks


@dataclass(frozen=True)
class VisualFeatures:
    """Vision outputs of a batch, as the language model receives them at its visual positions.

    ``flat`` is (visual tokens, hidden), in the order of the prompt: sample by sample, position by
    position. ``outputs`` are the model's own encoder outputs and ``is_modality`` says which rows of
    ``flat`` belong to which of them.
    """

    outputs: dict[str, BaseModelOutputWithPooling]
    is_modality: dict[str, Tensor]
    flat: Tensor

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
        return VisualFeatures(outputs, is_modality, self.flat.to(device))

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

    ``inputs`` are the processor's whole output.

    Raises:
        ValueError: the prompt's placeholders and the features do not match in number.
    """
    masks = placeholder_masks(model, inputs["input_ids"])
    outputs = {}
    for modality in masks:
        encode = getattr(model.base_model, f"get_{modality}_features", None)
        if encode is None:
            continue
        accepted = inspect.signature(encode).parameters
        arguments = {key: inputs[key] for key in accepted if key in inputs}
        if any(key in arguments for key in PIXELS):
            with torch.no_grad():
                outputs[modality] = encode(**arguments, return_dict=True)
    if not outputs:
        return None
    visual = torch.stack([masks[modality] for modality in outputs]).any(0)
    is_modality = {modality: masks[modality][visual] for modality in outputs}
    pieces = {modality: _flattened(output.pooler_output) for modality, output in outputs.items()}
    some = next(iter(pieces.values()))
    flat = some.new_zeros(int(visual.sum()), some.shape[-1])
    for modality, piece in pieces.items():
        if int(is_modality[modality].sum()) != len(piece):
            raise ValueError(
                f"the prompts hold {int(is_modality[modality].sum())} {modality} tokens, but the "
                f"vision tower returned {len(piece)} features"
            )
        flat[is_modality[modality]] = piece
    return VisualFeatures(outputs, is_modality, flat)


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
