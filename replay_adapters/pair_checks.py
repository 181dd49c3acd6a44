"""Whether a pair can be replayed: one prompt through everything that a run relies on.

Each check is a line that passes, or says what to do. Minutes on a real pair, most of them loading.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from transformers import AutoProcessor, PretrainedConfig

from replay_adapters.media import UnreadableInput, check_picture, reading
from replay_adapters.session.standin import load_models_for
from replay_adapters.settings.benchmarks import benchmarks
from replay_adapters.settings.checkpoints import check_checkpoints
from replay_adapters.settings.options import Settings, resolve
from replay_adapters.settings.processors import processor_of
from replay_adapters.settings.run_options import PREFIX
from replay_core import Outcome, Pair, ReplayConfig, ReplayRecord, Steered, UsageError
from replay_core.answer import answer
from replay_core.errors import did_you_mean
from replay_core.faults import told as told_of

_TOKENS = 32  # new tokens that are timed
_LIMIT = 2048  # new tokens of an answer, where a pair has no limit: the paper's
_PIXELS = 501_760  # of the picture, where a pair has no limit: MM-Eureka's
_QUESTION = "How many red squares does the picture show? Think first, then answer with a number."
_GREEDY = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}


@dataclass(frozen=True)
class Check:
    """One line of the report."""

    name: str
    told: str
    well: bool = True

    def __str__(self) -> str:
        return f"{self.name:<20}{'passes' if self.well else 'FAILS'}: {self.told}"


@dataclass(frozen=True)
class Prompt:
    """What a pair is asked: a picture, a question, and what the processor makes of both."""

    inputs: Mapping[str, Tensor]
    size: tuple[int, int]


def items_of(given: str) -> int:
    """Return how many items a data set has: a number, or a name of configs/benchmarks.yaml.

    Raises:
        UsageError: it is neither.
    """
    if given.isdecimal() and int(given) > 0:
        return int(given)
    known = {name: one.n for name, one in benchmarks().items() if one.n is not None}
    if given.lower() not in known:
        hint = did_you_mean(given.lower(), known)
        raise UsageError(
            f"--items {given} is not allowed; {hint}allowed: a number above 0, or one of "
            f"{', '.join(sorted(known))}"
        )
    return known[given.lower()]


def check_pair(
    arguments: Mapping[str, Any], *, device: str, items: int | None, image: Path | None
) -> Iterator[Check]:
    """Yield what is found out about a pair, which ``arguments`` name as a harness's do.

    Where a check stands in the way of the others, it is the last one.

    Raises:
        UsageError: the pair, or a setting, does not exist.
    """
    settings = resolve(arguments)
    try:
        config = check_checkpoints(settings)
    except UsageError as error:
        yield Check("compatible", str(error), well=False)
        return
    yield Check("compatible", _facts(config))
    try:
        pair = load_models_for(settings, config, _loading(settings, device))
        prompt = _prompt(settings, pair, image)
    except (UsageError, UnreadableInput) as error:
        yield Check("doors", str(error), well=False)
        return
    except Exception as error:  # what transformers raises on a damaged or too large checkpoint
        yield Check("loading", f"{told_of(error)}; mend the checkpoint, or take less", well=False)
        return
    yield Check("vision towers", _towers(pair, settings))
    yield Check("doors", "x reaches the decoder as it is, and logits are head(norm(h))")
    try:
        yield _zero_steps(pair, settings.config, prompt)
        yield _self_pair(pair, settings.config, prompt)
        yield from _steered(pair, settings, prompt, items)
    except Exception as error:
        what = f"{told_of(error)}; take fewer pixels, or hold the base elsewhere"
        yield Check("one sample", f"{what} ({PREFIX}base_device)", well=False)


def _facts(config: PretrainedConfig) -> str:
    text = config.get_text_config()
    return (
        f"{config.model_type}, hidden size {text.hidden_size}, {text.num_hidden_layers} layers, "
        f"vocabulary {text.vocab_size} in policy and base"
    )


def _loading(settings: Settings, device: str) -> dict[str, Any]:
    return {"device_map": device, "dtype": settings.dtype or "auto", "attn_implementation": None}


def _towers(pair: Pair, settings: Settings) -> str:
    equal = "equal: each picture is encoded once" if pair.shared_vision else "different: both run"
    claimed = settings.pair.vision_frozen
    if claimed is None or claimed == pair.shared_vision:
        return equal
    return f"{equal}; the pair's file says vision_frozen: {str(claimed).lower()}"


def _prompt(settings: Settings, pair: Pair, image: Path | None) -> Prompt:
    """Return one question about the given picture, a demonstration's, or one that is drawn."""
    protocol = settings.protocol
    question = _QUESTION
    if image is not None:
        with reading(str(image)), Image.open(image) as opened:
            check_picture(opened, str(image))
            picture = opened.convert("RGB")
    elif settings.pair.tasks is not None:
        from replay_adapters.vlmevalkit.demo import demo_documents, demo_task

        document = demo_documents()[0]
        (picture,) = demo_task().doc_to_visual(document)
        question = demo_task().doc_to_text(document)
    else:
        picture = _drawn(protocol.max_pixels or _PIXELS)
    source = processor_of(settings).source
    pixels = protocol.harness_arguments()
    pixels.pop("max_num_frames", None)
    processor = AutoProcessor.from_pretrained(source, **pixels)
    content = [{"type": "image"}, {"type": "text", "text": question}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    inputs = processor(text=[text], images=[picture], return_tensors="pt")
    return Prompt(dict(inputs.to(pair.policy.model.device)), picture.size)


def _drawn(pixels: int) -> Image.Image:
    """Return a picture of about so many pixels: squares on a ground that changes slowly."""
    side = max(56, math.isqrt(pixels) // 28 * 28)
    picture = Image.linear_gradient("L").resize((side, side)).convert("RGB")
    draw = ImageDraw.Draw(picture)
    for number, colour in enumerate(("red", "green", "blue", "red", "white")):
        left, top = side * (number + 1) // 8, side * (number * 3 % 5 + 1) // 8
        draw.rectangle((left, top, left + side // 10, top + side // 10), fill=colour)
    return picture


def _zero_steps(pair: Pair, config: ReplayConfig, prompt: Prompt) -> Check:
    """Without a step, everything runs and the answer is the plain policy's, bit for bit."""
    how = {"max_new_tokens": 8, "output_logits": True, "return_dict_in_generate": True, **_GREEDY}
    zero = Steered(pair, config.model_copy(update={"steps": 0}))
    ours = zero.decode(prompt.inputs, zero.optimise(prompt.inputs), **how)
    plain = pair.policy.model.generate(**prompt.inputs, **how)
    equal = torch.equal(ours.sequences, plain.sequences) and all(
        torch.equal(one, other) for one, other in zip(ours.logits, plain.logits, strict=True)
    )
    told = "the plain policy's answer and logits, bit for bit"
    if not equal:
        gap = max(
            float((one - other).abs().max())
            for one, other in zip(ours.logits, plain.logits, strict=False)
        )
        told = (
            f"logits differ by up to {gap:.3g} from the plain policy's; do not trust this pair's "
            "numbers, and report it with `activation-replay doctor`'s lines"
        )
    return Check("zero steps", told, equal)


def _self_pair(pair: Pair, config: ReplayConfig, prompt: Prompt) -> Check:
    """With the policy as its own base there is nothing to match."""
    own = replace(
        pair,
        base=pair.policy,
        shared_vision=True,
        adapted=False,
        base_revision=pair.policy_revision,
    )
    aligned = config.model_copy(update={"boundary": "aligned", "steps": 1, "method": "replay"})
    (sample,) = Steered(own, aligned).optimise(prompt.inputs).samples
    quiet = sample.outcome in (Outcome.NO_DRIFT, Outcome.EMPTY_MASK)
    loss = "no" if sample.loss_before is None else f"{sample.loss_before:.2g} nats"
    told = f"{loss} loss with the policy as its own base ({sample.outcome})"
    if not quiet:
        told += ", where it must be rounding; the lens does not read this model as it reads itself"
    return Check("self-pair", told, quiet)


def _steered(pair: Pair, settings: Settings, prompt: Prompt, items: int | None) -> Iterator[Check]:
    """One sample as a run steers it, and what it costs."""
    steered = Steered(pair, settings.config)
    made = answer(steered, prompt.inputs, {"max_new_tokens": _TOKENS, **_GREEDY})
    (record,) = made.records
    yield _falls(record, settings.config)
    yield _changes(record, pair)
    yield Check("memory", _memory(record))
    yield Check("time", _time(record, settings, items))


def _falls(record: ReplayRecord, config: ReplayConfig) -> Check:
    before, after = record.loss_before, record.loss_after
    losses = "" if before is None or after is None else f"{before:.4g} → {after:.4g} nats, "
    told = f"{losses}{record.outcome}, {record.steps} steps, {record.visual_tokens} visual tokens"
    if record.outcome in (Outcome.APPLIED, Outcome.NO_DRIFT, Outcome.OFF):
        return Check("loss", told)
    remedy = record.outcome.remedy(PREFIX)
    return Check("loss", f"{told}: {record.outcome.meaning}; {remedy}", well=False)


def _changes(record: ReplayRecord, pair: Pair) -> Check:
    share, dtype = record.changed_fraction, pair.policy.model.dtype
    told = f"{share:.1%} of the visual features' elements, in {str(dtype).removeprefix('torch.')}"
    well = share > 0 or record.outcome is not Outcome.APPLIED
    return Check("changed", told if well else f"{told}; raise {PREFIX}step_size", well)


def _memory(record: ReplayRecord) -> str:
    if record.peak_memory_mb is not None:
        whole = torch.cuda.get_device_properties(0).total_memory / 2**20
        return f"{record.peak_memory_mb:,.0f} of {whole:,.0f} MiB of the GPU at the most"
    used = psutil.Process().memory_info().rss / 2**20
    return f"{used:,.0f} MiB of the machine's, of which {_free():,.0f} MiB are still free"


def _free() -> float:
    return float(psutil.virtual_memory().available / 2**20)


def _time(record: ReplayRecord, settings: Settings, items: int | None) -> str:
    seconds = record.seconds
    each = seconds.decode / max(1, record.new_tokens or 1)
    parts = f"{seconds.base:.2f} s for the base, {seconds.loop:.2f} s for the loop, "
    parts += f"{each:.3f} s for each new token"
    if items is None:
        return parts
    limit = _LIMIT
    with suppress(TypeError, ValueError):
        limit = int(settings.protocol.generation.get("max_new_tokens", _LIMIT))
    hours = items * (seconds.base + seconds.loop + each * limit) / 3600
    return (
        f"{parts}: {items:,} items like this one take at most {hours:.1f} hours, with answers of "
        f"{limit:,} tokens"
    )
