"""Damages of a checkpoint's folder, and words of the sentence that tells of each."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from tests.support import tiny

Pairs = Mapping[str, tiny.TinyPair]
Damage = Callable[[Path, Pairs], object]


def _replaced(name: str, content: str | bytes) -> Damage:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder, pairs: (folder / name).write_bytes(data)


def _edited(name: str, **changes: Any) -> Damage:
    def edit(folder: Path, pairs: Pairs) -> None:
        content = json.loads((folder / name).read_text())
        for key, value in changes.items():
            inner = isinstance(value, dict) and isinstance(content.get(key), dict)
            content[key] = {**content[key], **value} if inner else value
        (folder / name).write_text(json.dumps(content))

    return edit


def _cut(name: str, share: float) -> Damage:
    def cut(folder: Path, pairs: Pairs) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(len(data) * share)])

    return cut


def _removed(*names: str) -> Damage:
    return lambda folder, pairs: [(folder / name).unlink() for name in names]


def _sharded(index: Callable[[dict[str, str]], Any], *lost: str) -> Damage:
    """Split the weights over two files, with ``index`` of what is where, and lose some of them."""

    def split(folder: Path, pairs: Pairs) -> None:
        whole = folder / "model.safetensors"
        weights = load_file(whole)
        names = sorted(weights)
        where = {}
        for number, part in enumerate((names[::2], names[1::2]), start=1):
            shard = f"model-{number:05}-of-00002.safetensors"
            save_file({name: weights[name] for name in part}, folder / shard, {"format": "pt"})
            where |= dict.fromkeys(part, shard)
        whole.unlink()
        content = index(where)
        text = content if isinstance(content, str) else json.dumps({"weight_map": content})
        (folder / "model.safetensors.index.json").write_text(text)
        for name in lost:
            (folder / name).unlink()

    return split


def _swapped(where: dict[str, str]) -> dict[str, str]:
    first, second = sorted(set(where.values()))
    return {name: second if shard == first else first for name, shard in where.items()}


def _adapter(content: str) -> Damage:
    def leave(folder: Path, pairs: Pairs) -> None:
        (folder / "model.safetensors").unlink()
        (folder / "config.json").unlink()
        (folder / "adapter_config.json").write_text(content)

    return leave


def _processor_of(family: str) -> Damage:
    names = ("processor_config.json", "tokenizer.json", "tokenizer_config.json")

    def take(folder: Path, pairs: Pairs) -> None:
        for name in names:
            shutil.copy(pairs[family].policy / name, folder / name)

    return take


CODE = {"AutoConfig": "mine.Config", "AutoModelForImageTextToText": "mine.Model"}
WEIGHTS = "model.safetensors"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"

DAMAGES: dict[str, tuple[Damage, str]] = {
    "weights cut in half": (_cut(WEIGHTS, 0.5), "its file model.safetensors is cut or damaged"),
    "weights cut by a byte": (_cut(WEIGHTS, 0.99999), "model.safetensors is cut or damaged"),
    "weights' header cut": (_cut(WEIGHTS, 0.001), "model.safetensors is cut or damaged"),
    "weights empty": (_replaced(WEIGHTS, b""), "is cut or damaged"),
    "weights are text": (_replaced(WEIGHTS, "not weights"), "is cut or damaged"),
    "weights are a pointer": (_replaced(WEIGHTS, POINTER), "is a git-lfs pointer"),
    "weights missing": (_removed(WEIGHTS), "cannot be loaded: it holds no weights"),
    "a shard missing": (
        _sharded(dict, "model-00002-of-00002.safetensors"),
        "its file model-00002-of-00002.safetensors is missing",
    ),
    "index swapped": (_sharded(_swapped), "which its index says it does"),
    "index of elsewhere": (
        _sharded(lambda where: dict.fromkeys(where, "../model.safetensors")),
        "does not say which weights are in which file",
    ),
    "index a list": (_sharded(lambda where: "[]"), "does not say which weights are in which file"),
    "index no JSON": (_sharded(lambda where: "{"), "does not say which weights are in which file"),
    "config no JSON": (_replaced("config.json", "{"), "is not a checkpoint that transformers can"),
    "config a list": (_replaced("config.json", "[]"), "is not a checkpoint that transformers can"),
    "config a text": (_replaced("config.json", '"a"'), "is not a checkpoint that transformers can"),
    "config empty": (_replaced("config.json", "{}"), "is not a checkpoint that transformers can"),
    "config missing": (_removed("config.json"), "is not a checkpoint that transformers can load"),
    "config of no type": (_edited("config.json", model_type="nosuch"), "is not a checkpoint"),
    "config of a text model": (_replaced("config.json", '{"model_type": "gpt2"}'), "gpt2"),
    "config's layers a text": (
        _edited("config.json", text_config={"num_hidden_layers": "many"}),
        "is not a checkpoint that transformers can load",
    ),
    "config's decoder a text": (_edited("config.json", text_config="none"), "is not a checkpoint"),
    "config's own code": (
        _edited("config.json", model_type="mine", auto_map=CODE),
        "is not a checkpoint that transformers can load",
    ),
    "generation settings a list": (
        _replaced("generation_config.json", "[]"),
        "not a mapping of settings",
    ),
    "generation settings cut": (_replaced("generation_config.json", "{"), "is not JSON"),
    "processor cut": (_cut("processor_config.json", 0.5), "is not JSON"),
    "processor a pointer": (_replaced("processor_config.json", POINTER), "is a git-lfs pointer"),
    "tokenizer cut": (_cut("tokenizer.json", 0.5), "is not JSON"),
    "tokenizer settings cut": (_cut("tokenizer_config.json", 0.5), "is not JSON"),
    "processor missing": (
        _removed("processor_config.json", "tokenizer.json", "tokenizer_config.json"),
        "ships no processor that can be loaded",
    ),
    "tokenizer missing": (
        _removed("tokenizer.json", "tokenizer_config.json"),
        "ships no processor that can be loaded",
    ),
    "processor of LLaVA": (_processor_of("llava"), "is not one for"),
    "processor's patches": (
        _edited("processor_config.json", image_processor={"patch_size": 16}),
        "its patch_size is 16, and the model's is 14",
    ),
    "processor's merging": (
        _edited("processor_config.json", image_processor={"merge_size": 4}),
        "its merge_size is 4, and the model's is 2",
    ),
    "adapter a list": (_adapter("[1, 2]"), "holds [1, 2], not a mapping with base_model_name"),
    "adapter a text": (_adapter('"lora"'), "holds lora, not a mapping"),
    "adapter no JSON": (_adapter("{"), "is not JSON"),
    "adapter of nothing": (_adapter("{}"), "names no base_model_name_or_path"),
    "adapter of a number": (
        _adapter('{"base_model_name_or_path": 3}'),
        "holds 3 as its base_model_name_or_path",
    ),
    "adapter of nowhere": (
        _adapter('{"base_model_name_or_path": "/no/where"}'),
        "is not a checkpoint that transformers can load",
    ),
}
