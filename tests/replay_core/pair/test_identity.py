"""Whatever in a checkpoint can change an answer changes its identity; nothing else does."""

import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from peft import LoraConfig, get_peft_model

from replay_core import Steered, UsageError, load_pair
from replay_core.pair.identity import checkpoint_revision, folder_digest, revision_of
from replay_core.pair.loading import load_model
from tests.replay_core.helpers import Loaded, from_nowhere, stable
from tests.support import tiny

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def copy(one: Loaded, tmp_path: Path) -> Path:
    return shutil.copytree(one.folders.policy, tmp_path / "copy")


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "model-00002-of-00003.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin",
        "pytorch_model-00001-of-00002.bin",
        "weights.pt",
        "consolidated.00.pth",
        "model.gguf",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
        "vocab.json",
        "merges.txt",
        "tokenizer.model",
        "special_tokens_map.json",
        "preprocessor_config.json",
        "video_preprocessor_config.json",
        "processor_config.json",
        "chat_template.jinja",
        "chat_template.json",
        "additional_chat_templates/tools.jinja",
        "adapter_config.json",
        "adapter_model.safetensors",
        "adapter_model.bin",
        "modeling_mine.py",
        "vision/model.safetensors",
        "a_kind_of_tomorrow.xyz",
    ],
)
def test_other_bytes_in_a_file_that_can_change_an_answer_are_another_identity(
    copy: Path, name: str
) -> None:
    write(copy / name, b"some bytes")
    first = folder_digest(copy)
    write(copy / name, b"same bytes")
    assert folder_digest(copy) != first
    (copy / name).unlink()
    assert folder_digest(copy) != first


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "LICENSE",
        "figures/curve.png",
        ".gitattributes",
        ".git/HEAD",
        ".cache/huggingface/download/model.safetensors.metadata",
        "optimizer.pt",
        "optimizer.bin",
        "scheduler.pt",
        "rng_state_0.pth",
        "trainer_state.json",
        "training_args.bin",
        "all_results.json",
        "events.out.tfevents.1",
        "runs/today/events",
        "checkpoint-500/model.safetensors",
        "global_step500/mp_rank_00_model_states.pt",
        "__pycache__/modeling_mine.cpython-311.pyc",
    ],
)
def test_what_changes_no_answer_is_left_out(copy: Path, name: str) -> None:
    first = folder_digest(copy)
    write(copy / name, b"bytes")
    assert folder_digest(copy) == first


def test_shards_count_wherever_the_index_finds_them(copy: Path) -> None:
    shards = {"a": "checkpoint-5/part.safetensors", "b": "../beside.safetensors"}
    write(copy / "model.safetensors.index.json", json.dumps({"weight_map": shards}).encode())
    for name in shards.values():
        write(copy / name, b"one")
        before = folder_digest(copy)
        write(copy / name, b"two")
        assert folder_digest(copy) != before


def test_the_same_bytes_under_other_names_are_another_identity(copy: Path) -> None:
    first = folder_digest(copy)
    (copy / "chat_template.jinja").rename(copy / "chat_template.txt")
    assert folder_digest(copy) != first


def test_files_behind_links_count_and_a_circle_of_links_ends(copy: Path, tmp_path: Path) -> None:
    blobs = tmp_path / "blobs"
    write(blobs / "tools.jinja", b"one")
    (copy / "additional_chat_templates").symlink_to(blobs)
    (blobs / "back").symlink_to(copy)
    first = folder_digest(copy)
    write(blobs / "tools.jinja", b"two")
    assert folder_digest(copy) != first


def test_a_folder_is_known_by_its_content_whatever_its_config_says(one: Loaded, copy: Path) -> None:
    """Older versions of transformers wrote the commit of the checkpoint that a run began from."""
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "_commit_hash": COMMIT}))
    model = load_model(copy)
    assert revision_of(model) == checkpoint_revision(copy) == f"sha256:{folder_digest(copy)}"
    assert revision_of(one.policy) == f"sha256:{folder_digest(one.folders.policy)}"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that puts a folder into the hub's cache: id, folder, commit."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def put(name: str, folder: Path, commit: str) -> None:
        home = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
        shutil.copytree(folder, home / "snapshots" / commit)
        write(home / "refs" / "main", commit.encode())

    return put


def test_a_hub_id_is_known_by_its_commit(one: Loaded, hub, tmp_path: Path) -> None:
    hub("me/policy", one.folders.policy, COMMIT)
    assert checkpoint_revision("me/policy") == f"commit:{COMMIT}"
    assert revision_of(load_model("me/policy")) == f"commit:{COMMIT}"
    other = COMMIT[::-1]
    hub("me/base", one.folders.base, other)
    pair = load_pair("me/policy", "me/base")
    assert (pair.policy_revision, pair.base_revision) == (f"commit:{COMMIT}", f"commit:{other}")
    only = tmp_path / "processor"
    only.mkdir()
    shutil.copy(one.folders.policy / "processor_config.json", only)
    hub("me/processor", only, COMMIT[1:] + "f")
    assert checkpoint_revision("me/processor") == f"commit:{COMMIT[1:]}f"


def test_an_adapter_is_known_by_its_base_and_itself(one: Loaded, hub, tmp_path: Path) -> None:
    base = shutil.copytree(one.folders.base, tmp_path / "base")
    lora = get_peft_model(tiny.load_model(base), LoraConfig(r=2, target_modules=["q_proj"]))
    lora.save_pretrained(tmp_path / "adapter")
    own = f"sha256:{folder_digest(tmp_path / 'adapter')}"
    first = checkpoint_revision(tmp_path / "adapter")
    assert first == f"{checkpoint_revision(base)}+{own}"
    onto = checkpoint_revision(tmp_path / "adapter", onto=one.folders.policy)
    assert onto == f"{checkpoint_revision(one.folders.policy)}+{own}"
    hub("me/lora", tmp_path / "adapter", COMMIT)
    assert checkpoint_revision("me/lora") == f"{checkpoint_revision(base)}+commit:{COMMIT}"
    write(base / "config.json", (base / "config.json").read_bytes() + b"\n")
    assert checkpoint_revision(tmp_path / "adapter") != first


def test_what_is_nowhere_is_refused() -> None:
    with pytest.raises(UsageError, match="nobody/nothing is neither a folder nor the id of a repo"):
        checkpoint_revision("nobody/nothing")


def test_a_model_from_nowhere_has_no_revision(one: Loaded) -> None:
    assert revision_of(from_nowhere(one)) == ""


def test_saved_targets_are_not_taken_for_another_bases(one: Loaded, tmp_path: Path) -> None:
    """Weights of another format behind the same path, which the first digests left out."""
    base = shutil.copytree(one.folders.base, tmp_path / "base")
    (base / "model.safetensors").unlink()
    inputs = one.batch("one_image")

    def made(seed: int) -> Steered:
        generator = torch.Generator().manual_seed(seed)
        weights = {
            name: weight + 0.01 * torch.randn(weight.shape, generator=generator)
            for name, weight in one.base.state_dict().items()
        }
        torch.save(weights, base / "pytorch_model.bin")
        return Steered(load_pair(one.folders.policy, base), stable(steps=2))

    first, second = made(1), made(2)
    targets = first.targets(inputs)
    first.optimise(inputs, targets=targets)
    with pytest.raises(UsageError, match="these targets were made with"):
        second.optimise(inputs, targets=targets)
