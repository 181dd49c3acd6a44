"""A damaged checkpoint ends a run of the harness with one sentence, and nothing answered."""

import shutil

from safetensors.torch import load_file, save_file

from tests.replay_adapters.vlmevalkit.conftest import PICTURES, write_run_file


def test_a_damaged_checkpoint_is_one_sentence(vlmeval, tiny_model, tiny_pairs, tmp_path):
    base = shutil.copytree(tiny_pairs["qwen2_5_vl"].base, tmp_path / "base")
    weights = load_file(base / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if not name.startswith("visual.")}
    save_file(kept, base / "model.safetensors", metadata={"format": "pt"})
    models = {"tiny-replay": tiny_model(replay_base=str(base), replay_layers=3)}
    file = write_run_file(tmp_path / "run.json", models, PICTURES)
    ended = vlmeval("--config", str(file), "--work-dir", str(tmp_path / "work"))
    assert ended.returncode == 2, ended.stdout[-5000:]
    told = f"vlmeval_replay: {base} does not hold the weights of the model in its config.json"
    assert ended.stdout.rstrip().splitlines()[-1].startswith(told)
    assert "Traceback" not in ended.stdout
    assert not list((tmp_path / "work").rglob("pictures.jsonl"))
