"""Bad input on the command line: one sentence, no traceback, exit code 2, no weights read."""

import sys

import pytest

from replay_adapters.lmms_eval import launcher


@pytest.fixture
def refused(monkeypatch, capsys):
    """Run the command with --model_args and return the one line it prints."""

    def run(model_args: str, *more: str, tasks: str = "replay_test_pictures") -> str:
        line = ["lmms_eval", "--model", "qwen2_vl_replay", "--model_args", model_args]
        monkeypatch.setattr(sys, "argv", [*line, "--tasks", tasks, *more])
        with pytest.raises(SystemExit) as ended:
            launcher.main()
        assert ended.value.code == 2
        (told,) = capsys.readouterr().err.strip().splitlines()
        assert "Traceback" not in told
        return told

    return run


def test_every_bad_input_of_the_command_line_is_one_sentence(refused, tiny_pairs, tmp_path):
    pair = tiny_pairs["qwen2_5_vl"]
    good = f"pretrained={pair.policy},replay_base={pair.base}"
    malformed = tmp_path / "pair.yaml"
    malformed.write_text("policy: [")
    other = tiny_pairs["qwen2_vl"].base
    for given, told in {
        "pair=nosuch": "pair=nosuch is neither a shipped pair nor a pair file",
        f"pretrained={pair.policy}": "replay_base is missing",
        f"pretrained={pair.policy},replay_base={other}": "(qwen2_5_vl and qwen2_vl; it must be",
        f"{good},replay_threshold=0": "replay_threshold=0 is not allowed",
        f"{good},replay_threshold=1.5": "replay_threshold=1.5 is not allowed",
        f"{good},replay_steps=-3": "replay_steps=-3.0 is not allowed",
        f"{good},replay_layers=99": "replay_layers=99 is not possible",
        f"{good},replay_treshold=0.4": "did you mean replay_threshold?",
        f"{good},replay_select=lo": "(allowed: low, high, all, random, matched_low,",
        f"{good},replay_boundary=reference,replay_layers=5": "includes the last of 5 layers",
        f"pretrained={tmp_path},replay_base={pair.base}": "is not a checkpoint",
        f"pair={malformed}": "is not YAML",
        "junk": "--model_args junk is not a list of name=value pairs",
    }.items():
        assert told in refused(given)


def test_flags_of_the_harness_that_its_classes_cannot_take_are_one_sentence(refused):
    assert "--batch_size auto is not allowed" in refused("", "--batch_size", "auto")
    assert "--batch_size auto:4 is not allowed" in refused("", "-b", "auto:4")
    assert "--gen_kwargs top_k=x is not allowed" in refused("", "--gen_kwargs=top_k=x")


def test_the_embedded_pair_answers_its_own_tasks_only(refused):
    assert "task 'mmmu_val' cannot be answered by the embedded pair" in refused(
        "", tasks="mmmu_val"
    )


def test_an_old_transformers_is_one_sentence_with_both_versions(refused, monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", lambda name: "5.17.0")
    told = refused("")
    assert "transformers 5.17.0 is installed, but 5.18 or newer is needed" in told
