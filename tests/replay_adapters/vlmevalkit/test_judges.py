"""Sets whose scorer asks a judge are refused while there is none, before anything is loaded."""

import pytest

from replay_adapters.vlmevalkit.judges import check_judges
from replay_adapters.vlmevalkit.launcher import prepare
from replay_core import UsageError
from tests.support.judge import listening

NAMES = ("OPENAI_API_KEY", "OPENAI_API_BASE", "HTTPS_PROXY", "HTTP_PROXY", "https_proxy")


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("flags", "environment", "told"),
    [
        ("", {}, "scored by a judge, but no key is given (set OPENAI_API_KEY or --judge-key"),
        ("--judge gpt-4o", {"OPENAI_API_KEY": "none"}, "but OPENAI_API_KEY=none"),
        ("--judge exact_matching", {}, "--judge exact_matching cannot score MathVista_MINI"),
        ("--judge-key x --judge-base-url judge", {}, "--judge-base-url=judge is no address"),
        ("--judge-key x --judge-base-url http://127.0.0.1:1/v1", {}, "does not answer"),
        ("", {"OPENAI_API_KEY": "x", "OPENAI_API_BASE": "http://127.0.0.1:1"}, "does not answer"),
        ("--judge-args [1]", {}, "--judge-args [1] is no JSON object"),
        ("--judge-args {", {}, "--judge-args { is not JSON"),
    ],
)
def test_a_judge_that_cannot_be_asked_is_refused(monkeypatch, tmp_path, flags, environment, told):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError) as refused:
        check_judges(["MMMU_DEV_VAL", "MathVista_MINI"], flags.split(), tmp_path / "vlmeval")
    assert told in str(refused.value)


@pytest.mark.parametrize(
    "flags",
    [
        "--mode infer",
        "--judge-key sk-1",
        "--use-verifier",
        "--judge qwen-72b",
        '--judge-args {"key":"sk-1"}',
        '--judge-args {"use_azure":true}',
    ],
)
def test_what_needs_no_key_or_has_one_passes(tmp_path, flags):
    check_judges(["MathVista_MINI"], flags.split(), tmp_path / "vlmeval")


def test_an_endpoint_of_ones_own_passes_with_any_key(tmp_path):
    with listening(str) as judge:
        flags = ["--judge-base-url", judge.url, "--judge-key", "none"]
        check_judges(["MathVista_MINI"], flags, tmp_path / "vlmeval")


def test_sets_with_rules_need_none(tmp_path):
    check_judges(["MMMU_DEV_VAL", "my_own_set"], [], tmp_path / "vlmeval")


def test_a_key_beside_the_package_counts_as_the_harness_reads_it(tmp_path):
    (tmp_path / ".env").write_text("OPENAI_API_KEY=sk-2\n")
    check_judges(["MathVista_MINI"], [], tmp_path / "vlmeval")


def test_the_command_line_is_refused_before_checkpoints_are_looked_for(tmp_path):
    words = ["--model", "MM-Eureka-Qwen-7B-none", "--data", "MathVista_MINI"]
    with pytest.raises(UsageError, match="the answers to MathVista_MINI are scored by a judge"):
        prepare([*words, "--work-dir", str(tmp_path)])
    with pytest.raises(UsageError, match="is not a checkpoint"):
        prepare([*words, "--work-dir", str(tmp_path), "--judge-key", "sk-1", "--judge", "gpt-4o"])
