"""lmms-eval's command line, run with a policy that writes given texts instead of decoding.

``python -m tests.support.lab.scripted FILE``: the file holds the texts, the tokenizer's folder, and
command lines, one after the other: ours, then the harness's own, whose model ``writer`` has no
weights and nothing of this plugin. All but the decoding is real.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from tests.support.lab.writer import TEXTS

PROMPTS: dict[str, dict[int, str]] = {}
"""Task → the prompt of each document, as it reached the tokenizer."""


def write_instead_of_decoding(folder: str) -> None:
    """Put the texts in the place of what ``Steered.decode`` returns, cut at the limit of tokens."""
    from replay_adapters.lmms_eval.answering import Answerer
    from replay_core import Steered

    tokenizer = AutoTokenizer.from_pretrained(folder)
    answer = Answerer.answer
    asked: list[Any] = []

    def answering(self: Any, session: Any, rows: Any, *given: Any, **options: Any) -> Any:
        asked[:] = rows
        return answer(self, session, rows, *given, **options)

    def decode(self: Any, inputs: Any, result: Any, **generation: Any) -> torch.Tensor:
        limit, end = generation["max_new_tokens"], generation["eos_token_id"]
        written = [[*tokenizer(TEXTS[row.task][row.document]).input_ids, end] for row in asked]
        prompts = zip(inputs["input_ids"], inputs["attention_mask"].bool(), strict=True)
        for row, (ids, kept) in zip(asked, prompts, strict=True):
            prompt = re.sub(r"(<\|(image|video)_pad\|>)+", r"\1", tokenizer.decode(ids[kept]))
            PROMPTS.setdefault(row.task, {})[row.document] = prompt
        longest = max(min(len(ids), limit) for ids in written)
        new = torch.full((len(written), longest), generation["pad_token_id"])
        for row, ids in zip(new, written, strict=True):
            row[: min(len(ids), limit)] = torch.tensor(ids[:limit])
        return torch.cat([inputs["input_ids"], new], dim=1)

    Answerer.answer, Steered.decode = answering, decode  # type: ignore[method-assign]


def main() -> None:
    """Run the command lines; write each one's exit code where the file says, its prompts beside."""
    from lmms_eval.cli import dispatch
    from lmms_eval.models import MODEL_REGISTRY_V2
    from lmms_eval.models.registry_v2 import ModelManifest

    from replay_adapters.lmms_eval import launcher

    wanted = json.loads(Path(sys.argv[1]).read_text())
    TEXTS.update(wanted["texts"])
    write_instead_of_decoding(wanted["tokenizer"])
    writer = "tests.support.lab.writer.Writer"
    MODEL_REGISTRY_V2.register_manifest(ModelManifest("writer", simple_class_path=writer))
    for ours, arguments, code in wanted["runs"]:
        sys.argv = ["lmms_eval", *arguments]
        ended: Any = 0
        try:
            (launcher.main if ours else dispatch.main)()
        except SystemExit as stopped:
            ended = stopped.code or 0
        Path(code).write_text(str(ended))
        Path(code).with_suffix(".prompts").write_text(json.dumps(PROMPTS))
        PROMPTS.clear()


if __name__ == "__main__":
    main()
