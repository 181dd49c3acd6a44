"""Where the processor comes from, also when the policy ships none that can be loaded.

Policies are published whose preprocessor_config.json names a class that no release of transformers
has, or with no processor at all; the harnesses' classes fail on them. What such a policy ships and
can be loaded is kept (its tokenizer and chat template, say), and the rest is its base's.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from loguru import logger
from transformers import AutoProcessor, AutoTokenizer, PretrainedConfig, ProcessorMixin
from transformers.utils.hub import cached_file

from replay_adapters.settings.options import Settings
from replay_core import UsageError
from replay_core.errors import shown
from replay_core.pair.identity import checkpoint_revision

_IMAGES = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")
_TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "vocab.txt", "tokenizer.model"),
)
_TEMPLATE = ("chat_template.jinja", "chat_template.json")
# What transformers raises where a file is missing, or names a class that there is not.
_UNUSABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError)


@dataclass(frozen=True)
class Processor:
    """What a harness's class loads its processor from, and the checkpoints whose files it holds."""

    source: str
    parts: tuple[str, ...]


def processor_of(settings: Settings) -> Processor:
    """Return where the processor is loaded from: as the pair says, the policy, or else its base.

    Raises:
        UsageError: a processor's file is damaged, or nothing that was named has a processor.
    """
    return _found(settings.processor_source, settings.pair.base, settings.pair.processor)


def check_processor(settings: Settings, config: PretrainedConfig) -> None:
    """Check that a run's processor makes inputs for the model whose config this is.

    Raises:
        UsageError: there is none that can be loaded, or it is another model's: it marks pictures
            by another token, cuts them into other patches, or has more tokens than the model.
    """
    source = processor_of(settings).source
    why = _foreign(source, checkpoint_revision(source), config)
    if why is not None:
        raise UsageError(
            f"the processor of {shown(settings.processor_source)} is not one for "
            f"{shown(settings.pair.policy)}: {why}"
        )


def _foreign(source: str, revision: str, config: PretrainedConfig) -> str | None:
    """Return why a processor is another model's; None where nothing says so."""
    processor = _loaded(source, revision)
    vision = getattr(config, "vision_config", None)
    images, tokenizer = (
        getattr(processor, part, None) for part in ("image_processor", "tokenizer")
    )
    words = 0 if tokenizer is None else len(tokenizer)
    # Gemma 3's begins an image with one token and marks its places by another.
    places = getattr(processor, "image_token_ids", None) or [_known(processor, "image_token_id")]
    wanted = _known(config, "image_token_id")
    marked = wanted if wanted in places else places[0]
    facts = {
        "the id of its image token": (marked, config, "image_token_id"),
        "its patch_size": (_known(images, "patch_size"), vision, "patch_size"),
        "its merge_size": (_known(images, "merge_size"), vision, "spatial_merge_size"),
    }
    for what, (ours, where, name) in facts.items():
        theirs = _known(where, name)
        if ours is not None and theirs is not None and ours != theirs:
            return f"{what} is {ours}, and the model's is {theirs}"
    most = config.get_text_config().vocab_size
    return f"it has {words} tokens, and the model {most}" if words > most else None


def _known(owner: Any, name: str) -> int | None:
    """Return a whole number that stands under a name; None where something else, or nothing, does.

    Sides that are equal may stand as a pair or by name.
    """
    value = getattr(owner, name, None)
    sides = list(value) if isinstance(value, list | tuple) else [value]
    return sides[0] if len(set(map(str, sides))) == 1 and type(sides[0]) is int else None


@lru_cache(maxsize=16)
def _loaded(source: str, revision: str) -> Any:
    """Return the processor whose files are of this revision."""
    return AutoProcessor.from_pretrained(source, trust_remote_code=False)


def processor_revision(settings: Settings) -> str:
    """Return what identifies the processor that is used: its chat template, tokenizer and all."""
    return "+".join(checkpoint_revision(part) for part in processor_of(settings).parts)


def _found(source: str, base: str, named: str | None) -> Processor:
    images, text = _trouble(source, checkpoint_revision(source))
    if not images and not text:
        return Processor(source, (source,))
    reason = images or text
    if named is not None:
        raise UsageError(f"the processor {named} cannot be loaded: {reason}")
    theirs = next(filter(None, _trouble(base, checkpoint_revision(base))), "")
    if theirs:
        beside = "" if base == source else f", and neither does its base {base} ({theirs})"
        raise UsageError(
            f"{source} ships no processor that can be loaded ({reason}){beside}; name a checkpoint "
            "that does as 'processor' in a pair file"
        )
    taken = ["image processor"] * bool(images) + ["tokenizer"] * bool(text)
    _say(
        f"replay: {source} ships no {' and no '.join(taken)} that can be loaded ({reason}): what "
        f"is missing is taken from its base {base}"
    )
    own_template = any(_file(source, name) for name in _TEMPLATE) or (
        not text
        and AutoTokenizer.from_pretrained(source, trust_remote_code=False).chat_template is not None
    )
    if images and text and not own_template:
        return Processor(base, (base,))
    wanted = dict.fromkeys(_IMAGES, base if images else source)
    wanted |= dict.fromkeys(_TOKENIZER, base if text else source)
    wanted |= dict.fromkeys(_TEMPLATE, source if own_template else base)
    return _joined(source, base, wanted)


def _joined(source: str, base: str, wanted: Mapping[str, str]) -> Processor:
    """Put usable files of a policy's processor and the rest of its base's into one folder.

    ``wanted``: name of a file → where it is taken from, if it is there.
    """
    folder = Path(_kept(checkpoint_revision(source), checkpoint_revision(base)).name)
    for name, where in {**wanted, "config.json": source}.items():
        if (path := _file(where, name)) is not None:
            shutil.copy(path, folder / name)
    return Processor(str(folder), (source, base))


@lru_cache(maxsize=16)
def _kept(*revisions: str) -> Any:
    """Return the folder for the processor of two checkpoints; it lasts as long as the process."""
    return TemporaryDirectory(prefix="replay-processor-")


@lru_cache(maxsize=64)
def _say(warning: str) -> None:
    """Log a warning once."""
    logger.warning(warning)


@lru_cache(maxsize=64)
def _trouble(source: str, revision: str) -> tuple[str, str]:
    """Return why a checkpoint's image processor and tokenizer cannot be used; empty if they can."""
    _check_readable(source)
    return _trouble_with_images(source, revision), _trouble_with_text(source)


def _trouble_with_images(source: str, revision: str) -> str:
    try:
        processor = _loaded(source, revision)
    except _UNUSABLE as error:
        return _first_sentence(error)
    if not isinstance(processor, ProcessorMixin):  # transformers then makes do with a tokenizer
        return "the class of its processor is not in transformers"
    return ""


def _trouble_with_text(source: str) -> str:
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except _UNUSABLE as error:
        return _first_sentence(error)
    # Without its files transformers makes one without vocabulary, which reads any text as empty.
    return "" if tokenizer("a text").input_ids else "its tokenizer has no vocabulary"


def _first_sentence(error: Exception) -> str:
    return (str(error).strip().splitlines() or [repr(error)])[0].split(". ")[0].rstrip(".")


def _check_readable(source: str) -> None:
    """Refuse a damaged file: what was meant to be used is not replaced by something else."""
    for name in (*_IMAGES, *_TOKENIZER, *_TEMPLATE):
        path = Path(source) / name
        if not path.is_file():
            continue
        content = path.read_bytes()
        if content.startswith(b"version https://git-lfs"):
            raise UsageError(
                f"{path} is a git-lfs pointer, not the file itself, which `git lfs pull` fetches"
            )
        if path.suffix == ".json":
            try:
                json.loads(content)
            except ValueError as error:
                raise UsageError(f"{path} is not JSON ({error})") from error


def _file(source: str, name: str) -> Path | None:
    """Return a checkpoint's file, from its folder or the hub; None where it has none."""
    try:
        found = cached_file(source, name)
    except OSError:
        return None
    return None if found is None else Path(found)
