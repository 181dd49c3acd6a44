"""The fused kernels of the lens, run by Triton's interpreter, and when they are taken."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from replay_core import head_rows
from replay_core.head_rows import Fused, Gathered, Whole, fused_kernels
from tests.replay_core.helpers import Loaded, run, stable

CHECK = """
import torch
from replay_core import kernels
assert kernels.agrees(torch.device("cpu"))
worst = 0.0
for rows, hidden, k, dtype in [
    (0, 64, 3, torch.float32), (1, 33, 2, torch.bfloat16), (4, 200, 50, torch.bfloat16),
    (2, 96, 256, torch.float16), (3, 1000, 7, torch.float32),
]:
    torch.manual_seed(rows)
    normed, head = torch.randn(rows, hidden), torch.randn(300, hidden).to(dtype)
    ids, by_logit = torch.randint(300, (rows, k)), torch.randn(rows, k)
    wide = head[ids].double()
    logits = torch.einsum("rh,rkh->rk", normed.double(), wide)
    gradient = torch.einsum("rk,rkh->rh", by_logit.double(), wide)
    found = kernels.read(normed, head, ids), kernels.pull(by_logit, head, ids)
    for mine, other in zip(found, (logits, gradient)):
        assert mine.shape == other.shape and mine.dtype == torch.float32
        if rows:
            worst = max(worst, float((mine - other).norm() / other.norm()))
print(worst)
"""


def test_the_kernels_give_what_the_plain_way_gives() -> None:
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", CHECK], env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert float(ended.stdout) < 1e-6


def test_a_cpu_takes_the_plain_way(one: Loaded) -> None:
    head, ids = one.pair.policy.head, torch.tensor([[0, 1]])
    assert fused_kernels(torch.device("cpu")) is None
    assert isinstance(head_rows.head_rows(head, ids, torch.float32), Gathered)
    assert isinstance(head_rows.head_rows(head, None, torch.float32), Whole)


def spelled_out() -> SimpleNamespace:
    """Return what the kernels compute, as the interpreter's test shows, in plain torch."""
    return SimpleNamespace(
        MOST_IDS=256,
        read=lambda normed, head, ids: (normed[:, None] * head[ids].float()).sum(-1),
        pull=lambda by_logit, head, ids: (by_logit[..., None] * head[ids].float()).sum(1),
    )


def test_the_lens_reads_the_same_through_them(one: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = one.batch("two_images")
    plain = run(one, inputs, stable(steps=3))
    monkeypatch.setattr(head_rows, "fused_kernels", lambda device: spelled_out())
    head, ids = one.pair.policy.head, torch.tensor([[0, 1]])
    assert isinstance(head_rows.head_rows(head, ids, torch.float32), Fused)
    assert isinstance(head_rows.head_rows(head, ids, torch.bfloat16), Gathered)
    assert isinstance(head_rows.head_rows(head, ids.repeat(1, 200), torch.float32), Gathered)
    fused = run(one, inputs, stable(steps=3))
    torch.testing.assert_close(fused.delta, plain.delta, rtol=1e-3, atol=1e-6)
    assert fused.delta.any()


def test_kernels_that_cannot_be_built_are_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise OSError(f"no compiler for {name}")

    monkeypatch.setattr(head_rows.importlib, "import_module", broken)
    assert fused_kernels.__wrapped__(torch.device("cuda")) is None
