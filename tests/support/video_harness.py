"""A harness whose policy writes given answers to questions about clips; all else is real.

``python -m tests.support.video_harness SCRIPT LOG HARNESS …`` runs a harness's command line. SCRIPT
is JSON: a piece of a question → the text to write, whose tokens are forced one by one inside the
model's own ``generate``. LOG gets a line for each row of each call: its prompt, the grids and rates
of its batch's clips, and the temporal positions of its clip's grids at the decoder.
"""

import importlib
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, LogitsProcessor, LogitsProcessorList

from replay_core import Steered

HARNESSES = {
    "lmms_eval": "replay_adapters.lmms_eval.launcher",
    "vlmeval": "replay_adapters.vlmevalkit.launcher",
}
PADS = re.compile(r"(<\|(?:image|video)_pad\|>)+")


class Forced(LogitsProcessor):
    """Leaves each row only the next token of its text."""

    def __init__(self, rows: list[list[int]], prompt: int) -> None:
        self.rows, self.prompt = rows, prompt

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return the scores of the next token (batch, vocabulary)."""
        step = input_ids.shape[1] - self.prompt
        forced = torch.full_like(scores, -torch.inf)
        for row, ids in enumerate(self.rows):
            forced[row, ids[min(step, len(ids) - 1)]] = 0
        return forced


def install(script: dict[str, str], log: Path) -> None:
    """Let every pair of this process write what the script says; note what it is given."""
    original = Steered.decode

    def reply(prompt: str) -> str:
        found = [text for key, text in script.items() if key in prompt]
        return found[0] if found else ""

    def decode(self: Steered, inputs: Any, result: Any, **generation: Any) -> Any:
        model = self.answering
        tokenizer = AutoTokenizer.from_pretrained(model.name_or_path)
        ids, kept = inputs["input_ids"], inputs["attention_mask"].bool()
        prompts = [tokenizer.decode(row[mask]) for row, mask in zip(ids, kept, strict=True)]
        end = tokenizer.eos_token_id
        rows = [[*tokenizer(reply(prompt)).input_ids, end] for prompt in prompts]
        forced = LogitsProcessorList([Forced(rows, ids.shape[1])])
        caught: list[torch.Tensor] = []

        def note(module: Any, given: Any, named: Any) -> None:
            caught.append(named["position_ids"])

        handle = model.get_decoder().register_forward_pre_hook(note, with_kwargs=True)
        try:
            return original(self, inputs, result, logits_processor=forced, **generation)
        finally:
            handle.remove()
            grids, rates = inputs.get("video_grid_thw"), inputs.get("second_per_grid_ts")
            with log.open("a") as file:
                for row, prompt in enumerate(prompts):
                    clip = ids[row] == model.config.video_token_id
                    along = caught[0][-3][row][clip]
                    line = {
                        "prompt": PADS.sub(r"\1", prompt),
                        "grids": [] if grids is None else grids.tolist(),
                        "rates": [] if rates is None else torch.as_tensor(rates).tolist(),
                        "temporal": (along - along[:1]).unique().tolist(),
                        "limit": generation.get("max_new_tokens"),
                    }
                    file.write(json.dumps(line) + "\n")

    Steered.decode = decode  # type: ignore[method-assign]


def take_local_sets(root: Path) -> None:
    """Let VLMEvalKit take the video sets that lie in ``root``, whatever they hold."""
    from vlmeval.dataset import mlvu, video_holmes, videommmu
    from vlmeval.smp import md5

    for module, name in ((mlvu, "MLVU_MCQ"), (video_holmes, "Video_Holmes")):
        getattr(module, name).MD5 = md5(str(root / name / f"{name}.tsv"))
    for module, name in (
        (mlvu, "MLVU_MCQ"),
        (video_holmes, "Video_Holmes"),
        (videommmu, "VideoMMMU"),
    ):
        module.get_cache_path = lambda repo, folder=root / name: str(folder)


def main() -> None:
    """Run the harness that the command line names."""
    script, log, harness, *rest = sys.argv[1:]
    install(json.loads(Path(script).read_text()), Path(log))
    sys.argv = [harness, *rest]
    if harness == "vlmeval":
        take_local_sets(Path(os.environ["CLIPS"]))
    importlib.import_module(HARNESSES[harness]).main()


if __name__ == "__main__":
    main()
