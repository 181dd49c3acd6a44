"""``vlmeval_replay`` with the harness's set Video_Holmes taken from the folder CLIPS.

With STOCK_ON_CPU=1 the harness's own model class runs on the CPU too, which it refuses, and is told
the rate of the clips, which it loses.
"""

import os
from typing import Any


def main() -> None:
    from vlmeval.dataset import video_holmes
    from vlmeval.smp import md5

    clips = os.environ["CLIPS"]
    video_holmes.get_cache_path = lambda repo: clips
    video_holmes.Video_Holmes.MD5 = md5(os.path.join(clips, "Video_Holmes.tsv"))
    if os.environ.get("STOCK_ON_CPU"):
        let_stock_class_run_on_cpu()
        tell_stock_class_the_rate()
    from replay_adapters.vlmevalkit.launcher import main as launch

    launch()


def let_stock_class_run_on_cpu() -> None:
    """Replace the hard-coded GPU, attention and ``.to("cuda")`` of the harness's Qwen2VLChat."""
    from transformers import BatchFeature, PreTrainedModel
    from vlmeval.vlm.qwen2_vl import model

    model.get_gpu_memory = lambda: [1]
    load = PreTrainedModel.from_pretrained.__func__
    to = BatchFeature.to

    def from_pretrained(cls: Any, *arguments: Any, **options: Any) -> Any:
        if options.get("attn_implementation") == "flash_attention_2":
            options |= {"attn_implementation": "sdpa", "device_map": "cpu"}
        return load(cls, *arguments, **options)

    PreTrainedModel.from_pretrained = classmethod(from_pretrained)
    BatchFeature.to = lambda self, where, **more: to(self, "cpu" if where == "cuda" else where)


def tell_stock_class_the_rate(rate: float = 2.0) -> None:
    """Take clips that come without their rate for what they are here: 4 frames of 2 seconds."""
    from transformers.video_utils import VideoMetadata

    known = VideoMetadata.sampled_fps.fget
    VideoMetadata.sampled_fps = property(lambda clip: known(clip) if clip.fps else rate)


if __name__ == "__main__":
    main()
