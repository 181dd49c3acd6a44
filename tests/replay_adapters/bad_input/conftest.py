"""Files and folders that bad input names, and the three commands, run up to the weights."""

import json
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from string import Template
from typing import Any

import pytest

from replay_adapters.session import standin
from tests.replay_adapters.bad_input.checkpoints import DAMAGES
from tests.support import tiny

Told = Callable[..., str]


def write(path: Path, content: Any) -> Path:
    """Write a text, bytes, or anything else as JSON."""
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        text = content if isinstance(content, str) else json.dumps(content)
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
    return path


@pytest.fixture(scope="session")
def places(tmp_path_factory, tiny_pairs) -> dict[str, str]:
    """What stands for ``$name`` in a case: a path."""
    root = tmp_path_factory.mktemp("places")
    folder = root / "folder"
    folder.mkdir()
    broken = root / "broken_tasks"
    broken.mkdir()
    write(broken / "bad.yaml", "task: [")
    files = {
        "empty": "",
        "binary": b"\x00\xff\xfe binary",
        "not_json": "{",
        "not_yaml": "a: [",
        "plain_yaml": "a: 3\n",
        "json_list": [1, 2],
        "json_text": '"text"',
        "json_nested": "[" * 100_000,
        "thresholds": {"thresholds": {"0": 1.5, "1": 1.5}},
        "thresholds_empty": {"thresholds": {}},
        "thresholds_true": {"thresholds": {"0": True}},
        "thresholds_negative": {"thresholds": {"0": -1}},
        "thresholds_nan": '{"thresholds": {"0": NaN}}',
        "thresholds_list": {"thresholds": [1, 2]},
    }
    found = {name: str(write(root / name, content)) for name, content in files.items()}
    pair = tiny_pairs["qwen2_5_vl"]
    families = {"qwen2": "qwen2_vl", "qwen3": "qwen3_vl", "llava": "llava"}
    found |= {name: str(tiny_pairs[family].policy) for name, family in families.items()}
    return {
        **found,
        "nowhere": str(root / "nowhere"),
        "folder": str(folder),
        "broken_tasks": str(broken),
        "policy": str(pair.policy),
        "base": str(pair.base),
    }


@pytest.fixture
def filled(places) -> Callable[[str], str]:
    """Put paths in the place of ``$name`` in a case."""
    return lambda text: Template(text).safe_substitute(places)


@pytest.fixture(scope="session")
def damaged(tmp_path_factory, tiny_pairs) -> Callable[[str], tiny.TinyPair]:
    """Return a copy of the tiny pair whose policy has a damage of ``checkpoints.DAMAGES``."""
    root = tmp_path_factory.mktemp("damaged")

    def make(name: str) -> tiny.TinyPair:
        policy = shutil.copytree(
            tiny_pairs["qwen2_5_vl"].policy, root / str(len(list(root.iterdir())))
        )
        DAMAGES[name][0](policy, tiny_pairs)
        return tiny.TinyPair(policy, tiny_pairs["qwen2_5_vl"].base)

    return make


@pytest.fixture
def no_weights(monkeypatch) -> None:
    """Fail a test as soon as weights are about to be read."""

    def reached(*given: Any, **options: Any) -> None:
        pytest.fail("weights were about to be read")

    monkeypatch.setattr(standin, "load_models_for", reached)


@pytest.fixture
def ended(monkeypatch, capsys) -> Callable[[Callable[[], Any], str, list[str]], str]:
    """Run a command in this process; return the one line that it prints, with exit code 2."""

    def run(main: Callable[[], Any], program: str, words: list[str]) -> str:
        monkeypatch.setattr(sys, "argv", [program, *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        error = capsys.readouterr().err
        assert "Traceback" not in error
        assert end.value.code == 2, error
        told = [line for line in error.splitlines() if line.startswith(f"{program}: ")]
        assert len(told) == 1, error
        assert error.strip().splitlines()[-1] == told[0], error
        assert len(told[0]) <= 1000
        return told[0]

    return run


@pytest.fixture
def lmms_eval_told(monkeypatch, ended, filled, no_weights) -> Told:
    """Return what ``lmms_eval`` says of bad input; upstream's evaluation must not be reached."""
    import lmms_eval.__main__ as harness

    from replay_adapters.lmms_eval import launcher

    monkeypatch.setattr(harness, "cli_evaluate_single", harness.cli_evaluate_single)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    def run(line: str) -> str:
        words = shlex.split(filled(line))
        given = {word.partition("=")[0] for word in words}
        demo = {"--model": "qwen2_vl_replay", "--tasks": "replay_demo"}
        for flag, value in demo.items() if not given & {"--config"} else ():
            words = words if flag in given else [*words, flag, value]
        return ended(launcher.main, "lmms_eval", words)

    return run
