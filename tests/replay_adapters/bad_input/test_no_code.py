"""No checkpoint's own code is run, whatever stands on standard input."""

import json
import shutil
from pathlib import Path

import pytest

from replay_adapters.settings.checkpoints import check_checkpoints
from replay_adapters.settings.options import resolve
from replay_core import UsageError, load_pair
from replay_core.pair.loading import load_config, load_model

# Where each kind of file names a class of its own.
FILES = {
    "config.json": {"AutoConfig": "mine.Mine", "AutoModelForImageTextToText": "mine.Mine"},
    "processor_config.json": {"AutoProcessor": "mine.Mine"},
    "tokenizer_config.json": {"AutoTokenizer": ["mine.Mine", None]},
}


@pytest.fixture
def asked(monkeypatch) -> list[str]:
    """Answer y to every question; return what was asked."""
    questions: list[str] = []
    monkeypatch.setattr("builtins.input", lambda text="": questions.append(text) or "y")
    return questions


@pytest.fixture
def code(tiny_pairs, tmp_path):
    """Return a copy of a policy, one of whose files names code beside it; and what that leaves."""

    def make(file: str) -> tuple[Path, Path]:
        folder, mark = tmp_path / "policy", tmp_path / "mark"
        shutil.copytree(tiny_pairs["qwen2_5_vl"].policy, folder)
        content = json.loads((folder / file).read_text())
        content |= {"auto_map": FILES[file]}
        kind = {"config.json": "model_type", "processor_config.json": "processor_class"}
        content[kind.get(file, "tokenizer_class")] = "Mine"
        (folder / file).write_text(json.dumps(content))
        (folder / "mine.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass Mine: pass\n")
        return folder, mark

    return make


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("method", ["none", "replay"])
def test_a_checkpoints_code_is_not_run(code, asked, tiny_pairs, file, method):
    folder, mark = code(file)
    given = {"pretrained": str(folder), "replay_base": str(tiny_pairs["qwen2_5_vl"].base)}
    if file == "config.json":
        with pytest.raises(UsageError, match="is not a checkpoint that transformers can load"):
            check_checkpoints(resolve({**given, "replay_method": method}))
    else:  # the base lends what cannot be loaded
        assert check_checkpoints(resolve({**given, "replay_method": method}))
    assert not mark.exists()
    assert not asked


def test_loading_runs_none_either(code, asked, tiny_pairs):
    folder, mark = code("config.json")
    for load in (load_config, load_model, lambda f: load_pair(f, tiny_pairs["qwen2_5_vl"].base)):
        with pytest.raises(UsageError, match="is not a checkpoint that transformers can load"):
            load(folder)
    assert not mark.exists()
    assert not asked
