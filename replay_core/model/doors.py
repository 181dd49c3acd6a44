"""Checks, on a short text, that a model's own doors lead where replay takes them to lead."""

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from replay_core.errors import UsageError
from replay_core.model.anatomy import Anatomy
from replay_core.model.hooks import capture
from replay_core.model.vision import MODALITIES


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
