"""A harness whose policy writes given texts: images, prompts, x, records and scores are real.

``python -m tests.support.scripted SCRIPT LOG HARNESS …`` runs a harness's command line. SCRIPT is
JSON: a piece of the question → the texts of a conversation, turn by turn. The tokens are forced one
by one inside the model's own ``generate``, so that stopping, padding and counting are its own. LOG
gets a line for each call of ``generate``: the prompts as the tokenizer got them, their pictures'
grids, and how each is steered.
"""

import importlib
import json
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
PADS = re.compile(r"(<\|image_pad\|>)+")


class Script:
    """Says what is written next in each prompt of a batch."""

    def __init__(self, texts: dict[str, list[str]], log: Path) -> None:
        self.texts, self.log = texts, log

    def reply(self, prompt: str) -> str:
        """Return the text for a prompt: of its conversation, by how much was written before.

        Nothing is written to the prompt that stands in for an unreadable picture's.
        """
        if "<|vision_end|>?<|im_end|>" in prompt:
            return ""
        (key,) = [key for key in self.texts if key in prompt]
        turn = prompt.count("<|im_start|>assistant") - 1
        texts = self.texts[key]
        return texts[min(turn, len(texts) - 1)]


class Forced(LogitsProcessor):
    """Leaves each row only the next token of its text, and the end token behind the last."""

    def __init__(self, rows: list[list[int]], prompt: int) -> None:
        self.rows, self.prompt = rows, prompt

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return the scores of the next token (batch, vocabulary)."""
        step = input_ids.shape[1] - self.prompt
        forced = torch.full_like(scores, -torch.inf)
        for row, ids in enumerate(self.rows):
            forced[row, ids[min(step, len(ids) - 1)]] = 0
        return forced


def _by_picture(inputs: Any) -> tuple[torch.Tensor, ...]:
    """Return the pixels of each picture of a batch, as the vision tower gets them."""
    return inputs["pixel_values"].split(inputs["image_grid_thw"].prod(-1).tolist())


def install(script: Script) -> None:
    """Let every pair of this process write what the script says."""
    original = Steered.decode

    def decode(self: Steered, inputs: Any, result: Any, **generation: Any) -> Any:
        source = self.answering.name_or_path
        tokenizer = AutoTokenizer.from_pretrained(source)
        ids = inputs["input_ids"]
        kept = inputs["attention_mask"].bool()
        prompts = [tokenizer.decode(row[mask]) for row, mask in zip(ids, kept, strict=True)]
        end = tokenizer.eos_token_id
        rows = [[*tokenizer(script.reply(prompt)).input_ids, end] for prompt in prompts]
        forced = LogitsProcessorList([Forced(rows, ids.shape[1])])
        x = [result.of(number) for number in range(len(ids))]
        line = {
            "prompts": [PADS.sub("<|image_pad|>", prompt) for prompt in prompts],
            "grids": inputs["image_grid_thw"].tolist(),
            "visual": (ids == tokenizer.convert_tokens_to_ids("<|image_pad|>")).sum(1).tolist(),
            "bright": [float(part.mean()) for part in _by_picture(inputs)],
            "x": [None if one is None else one.norm(dim=-1).tolist() for one in x],
            "limit": generation.get("max_new_tokens"),
        }
        with script.log.open("a") as log:
            log.write(json.dumps(line) + "\n")
        return original(self, inputs, result, logits_processor=forced, **generation)

    Steered.decode = decode  # type: ignore[method-assign]


def take_local_sets() -> None:
    """Let VLMEvalKit take the sets that lie in its folder, whatever they hold."""
    from vlmeval.dataset.image_mcq import HRBenchDataset, ImageMCQDataset

    HRBenchDataset.DATASET_MD5 = {}
    ImageMCQDataset.DATASET_MD5 = {}


def main() -> None:
    """Run the harness that the command line names."""
    script, log, harness, *rest = sys.argv[1:]
    install(Script(json.loads(Path(script).read_text()), Path(log)))
    sys.argv = [harness, *rest]
    if harness == "vlmeval":
        take_local_sets()
    importlib.import_module(HARNESSES[harness]).main()


if __name__ == "__main__":
    main()
