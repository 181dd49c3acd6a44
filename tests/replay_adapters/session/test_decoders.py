"""What is told of memory before anything is loaded: no weights are read, and vLLM is not needed."""

from types import SimpleNamespace

import pytest

from replay_adapters.session import decoders
from replay_adapters.session.decoders import check_room, room_for
from replay_adapters.settings.options import resolve
from replay_core import UsageError
from replay_core.decoding import options
from replay_core.pair.loading import load_config
from tests.support import tiny

MIB = 2**20


@pytest.fixture(autouse=True)
def installed(monkeypatch) -> None:
    monkeypatch.setattr(options, "version", lambda package: "0.32.0")


@pytest.fixture
def machine(monkeypatch):
    """Give the machine so much memory."""

    def set_total(size: int) -> None:
        monkeypatch.setattr(
            decoders.psutil, "virtual_memory", lambda: SimpleNamespace(total=int(size))
        )

    return set_total


def asked(files: tiny.TinyPair, **more):
    pair = {"pretrained": str(files.policy), "replay_base": str(files.base)}
    settings = resolve({**pair, "replay_decode": "vllm", "replay_layers": 2, **more})
    return settings, load_config(files.policy)


def size(model) -> int:
    return sum(weight.numel() * weight.element_size() for weight in model.parameters())


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_every_part_is_as_large_as_the_weights_that_are_loaded(tiny_pairs, machine, family):
    machine(100 * MIB)
    files = tiny_pairs[family]
    room = room_for(*asked(files), "cpu")
    policy, base = tiny.load_model(files.policy), tiny.load_model(files.base)
    del base.get_decoder().layers[2:]
    assert (room.policy, room.base) == (size(policy), size(base))
    assert room.weights == size(policy) - size(policy.base_model.visual)
    assert room.engine == 50 * MIB
    assert room.spare == 50 * MIB - room.policy - room.base


def test_what_is_not_there_takes_no_room(tiny_pairs, machine):
    machine(100 * MIB)
    files = tiny_pairs["qwen2_5_vl"]
    assert room_for(*asked(files, replay_base_device="cuda:1"), "cpu").base == 0
    settings, config = asked(files, replay_method="none", replay_layers=None)
    assert room_for(settings, config, "cpu").base == 0
    half = room_for(*asked(files, dtype="bfloat16"), "cpu")
    assert 2 * half.policy == room_for(*asked(files), "cpu").policy


def test_a_share_that_leaves_the_loop_no_room_is_refused(tiny_pairs, machine):
    machine(4 * MIB)
    told = r"vllm_gpu_memory_utilization=0\.90 leaves no room for the loop \(of 0\.0 GiB: vLLM"
    with pytest.raises(UsageError, match=told):
        check_room(
            *asked(tiny_pairs["qwen2_5_vl"], vllm_gpu_memory_utilization=0.9), device_map="cpu"
        )


def test_a_share_that_the_weights_alone_do_not_fit_in_is_refused(tiny_pairs, machine):
    machine(100 * MIB)
    with pytest.raises(UsageError, match=r"the model's weights alone are 0\.0 GiB; give it more"):
        check_room(
            *asked(tiny_pairs["qwen2_5_vl"], vllm_gpu_memory_utilization=0.005), device_map="cpu"
        )


def test_transformers_needs_no_room_beside_the_loop(tiny_pairs, machine):
    machine(1)
    files = tiny_pairs["qwen2_5_vl"]
    settings = resolve({"pretrained": str(files.policy), "replay_base": str(files.base)})
    check_room(settings, load_config(files.policy), "cpu")
