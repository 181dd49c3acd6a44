"""A preset by name, through the harness: what it holds is run, and its name is written down."""

from replay_core import ReplayConfig


def test_a_run_with_a_preset_says_so_and_uses_its_values(lmms_eval, tiny_pairs, tmp_path):
    pair = tiny_pairs["qwen2_5_vl"]
    file = tmp_path / "mine.yaml"
    file.write_text(
        f"policy: {pair.policy}\nbase: {pair.base}\nreplay: {{layers: 3, threshold: 0.2}}\n"
        "presets: {table9: {boundary: reference, threshold: 0.7, step_size: 3, steps: 9}}\n"
    )
    typed = f"pair={file},replay_preset=table9,replay_steps=2"
    ended = lmms_eval("qwen2_vl_replay", typed, "replay_test_pictures", "--limit", "2")
    assert ended.code == 0, ended.output
    expected = ReplayConfig(boundary="reference", layers=3, threshold=0.7, step_size=3, steps=2)
    run = ended.results["replay"]
    assert run["preset"] == "table9"
    assert run["config"] == expected.model_dump(mode="json")
    assert {record["config_hash"] for record in ended.records} == {expected.fingerprint()}
    assert {record["steps"] for record in ended.records} == {2}
