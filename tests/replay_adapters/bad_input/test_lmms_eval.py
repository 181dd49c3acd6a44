"""Bad input for ``lmms_eval``: one sentence, exit code 2, before weights are read."""

import pytest
import yaml

from tests.replay_adapters.bad_input import lmms_eval_cases as cases
from tests.replay_adapters.bad_input.checkpoints import DAMAGES
from tests.replay_adapters.bad_input.conftest import write


def quoted(value: str) -> str:
    return "'" + value.replace("'", "'\\''") + "'"


@pytest.mark.parametrize(("given", "told"), cases.OPTIONS)
def test_a_model_argument(lmms_eval_told, given, told):
    assert told in lmms_eval_told(f"--model_args {quoted(f'pair=demo,{given}')}")


@pytest.mark.parametrize(("given", "told"), cases.PAIRS)
def test_a_pair_or_checkpoint(lmms_eval_told, given, told):
    assert told in lmms_eval_told(f"--model_args {quoted(given)} --tasks mmmu_val_reasoning")


@pytest.mark.parametrize(("content", "told"), cases.PAIR_FILES)
def test_a_pair_file(lmms_eval_told, tmp_path, content, told):
    file = write(tmp_path / "mine.yaml", content)
    assert told in lmms_eval_told(f"--model_args pair={file}")


@pytest.mark.parametrize(("given", "told"), cases.GENERATION)
def test_a_generation_setting(lmms_eval_told, given, told):
    assert told in lmms_eval_told(f"--gen_kwargs {quoted(given)}")


@pytest.mark.parametrize(("line", "told"), cases.FLAGS)
def test_a_flag(lmms_eval_told, line, told):
    assert told in lmms_eval_told(line)


@pytest.mark.parametrize(("content", "told"), cases.CONFIGS)
def test_a_config_file(lmms_eval_told, tmp_path, content, told):
    file = write(tmp_path / "runs.yaml", content)
    assert told in lmms_eval_told(f"--config {file}")


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_checkpoint(lmms_eval_told, damaged, name):
    """As the policy, alone: there is no base to lend it a processor."""
    given = f"pretrained={damaged(name).policy},replay_method=none"
    line = f"--model_args {quoted(given)} --tasks mmmu_val_reasoning"
    assert DAMAGES[name][1] in lmms_eval_told(line)


@pytest.mark.parametrize("name", ["../../escaped", "/tmp/escaped", "a/b", "x" * 101])
def test_no_name_of_an_own_task_leaves_the_output_folder(lmms_eval_told, tmp_path, name):
    """Where the samples file would have it; asked for by file, in a group, or by its folder."""
    task = {"task": name, "dataset_path": "json", "output_type": "generate_until"}
    words = "which cannot be that of a folder (allowed: at most 100 bytes"
    (tmp_path / "own").mkdir()
    for content in (task, {"group": "mine", "task": [task]}, {"group": name, "task": ["mmmu_val"]}):
        file = write(tmp_path / "own" / "mine.yaml", yaml.safe_dump(content))
        assert words in lmms_eval_told(f"--tasks {file}")
    write(tmp_path / "own" / "mine.yaml", yaml.safe_dump(task))
    assert words in lmms_eval_told(f"--tasks replay_demo --include_path {tmp_path / 'own'}")
