"""The names of our models in lmms-eval, and the classes behind them."""

# Model name → (chat class, simple class where the harness has one).
MODEL_NAMES: dict[str, tuple[str, str | None]] = {
    "qwen2_vl_replay": ("Qwen2VLReplay", "Qwen2VLReplaySimple"),
    "qwen2_5_vl_replay": ("Qwen25VLReplay", "Qwen25VLReplaySimple"),
    "qwen3_vl_replay": ("Qwen3VLReplay", "Qwen3VLReplaySimple"),
    "internvl_hf_replay": ("InternVLHfReplay", None),
    "llava_hf_replay": ("LlavaHfReplay", "LlavaHfReplaySimple"),
}
