"""Arms of a pair on rendered scenes, answered in batches through the core, in float32 arithmetic.

Documents go through the checkpoint's own processor and chat template, as in a harness; answers are
compared item by item.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from checkpoint import TASK_FILE, harness_messages, task
from packing import MAX_NEW_TOKENS
from PIL import Image
from tqdm import tqdm
from transformers import BatchFeature, Qwen2_5_VLProcessor

from replay_core import Pair, ReplayConfig, ReplayRecord, Steered
from replay_core.answer import answer
from replay_core.studies.stats.paired import PairedComparison, compare

BATCH = 100


def split_docs(split: str) -> list[dict]:
    """The documents of a committed split (dev or test), as the harness sees them."""
    spec = json.loads((TASK_FILE.parent / "splits" / f"{split}.json").read_text())
    return task.split_docs(**spec)


def fresh_docs(seed: int, n: int) -> list[dict]:
    """N documents rendered with any seed, from the test split's fold: no training grid occurs."""
    return task.split_docs("fresh", seed=seed, count=n, fold=0)


def batches(
    processor: Qwen2_5_VLProcessor, docs: Sequence[dict], blank: bool = False, name: str = ""
) -> Iterator[BatchFeature]:
    """Processed, left-padded model inputs; `blank` replaces every image by plain grey."""
    grey = Image.new("RGB", (task.SIZE, task.SIZE), (int(task.BACKGROUND),) * 3)
    for start in tqdm(
        range(0, len(docs), BATCH), desc=name, leave=False, disable=not sys.stderr.isatty()
    ):
        part = docs[start : start + BATCH]
        images = [grey if blank else doc["image"] for doc in part]
        texts = [
            processor.apply_chat_template(
                harness_messages(image, doc["question"], doc.get("question_first", False)),
                tokenize=False,
                add_generation_prompt=True,
            )
            for image, doc in zip(images, part, strict=True)
        ]
        yield processor(
            text=texts, images=images, padding=True, padding_side="left", return_tensors="pt"
        )


def respond(
    pair: Pair,
    processor: Qwen2_5_VLProcessor,
    docs: Sequence[dict],
    config: ReplayConfig,
    *,
    k: int = 1,
    blank: bool = False,
    name: str = "",
    records: list[ReplayRecord] | None = None,
) -> list[list[str]]:
    """Responses, k per document: greedy when k is 1, else drawn from the whole distribution.

    The records of the answers are added to `records`, where a list is given.
    """
    how: dict = {"max_new_tokens": MAX_NEW_TOKENS, "do_sample": False}
    if k > 1:
        how |= {"do_sample": True, "temperature": 1.0, "top_k": 0, "num_return_sequences": k}
    steered = Steered(pair, config)
    responses: list[list[str]] = []
    for inputs in batches(processor, docs, blank, name):
        answers = answer(steered, inputs, how)
        texts = processor.batch_decode(answers.new, skip_special_tokens=True)
        responses += [texts[i : i + k] for i in range(0, len(texts), k)]
        if records is not None:
            records += answers.records
    return responses


def scores(responses: list[list[str]], docs: Sequence[dict]) -> np.ndarray:
    """(documents, k) 0/1 scores."""
    rows = zip(responses, docs, strict=True)
    return np.array([[task.score(text, doc["answer"]) for text in row] for row, doc in rows])


def paired(before: np.ndarray, after: np.ndarray) -> PairedComparison:
    """Two 0/1 outcomes of the same documents."""
    return compare(dict(enumerate(before.tolist())), dict(enumerate(after.tolist())))


@torch.no_grad()
def base_lens(
    pair: Pair, processor: Qwen2_5_VLProcessor, docs: Sequence[dict]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logit lens of the base at the visual positions: entropies in nats and best guesses.

    Both are (documents, layers, 16); layer l is read after decoder layer l.
    """
    base, entropies, guesses = pair.base, [], []
    for inputs in batches(processor, docs, name="lens"):
        visual = inputs["input_ids"] == base.model.config.image_token_id
        states = base.model(**inputs, output_hidden_states=True).hidden_states
        # The last entry of hidden_states is normed already, the first is the embeddings.
        normed = [*(base.norm(h) for h in states[1:-1]), states[-1]]
        after = torch.stack([h[visual].unflatten(0, (len(visual), -1)) for h in normed], 1)
        log_p = base.head(after).log_softmax(-1)
        entropies.append(-(log_p.exp() * log_p).sum(-1))
        guesses.append(log_p.argmax(-1))
    return torch.cat(entropies), torch.cat(guesses)


def selected_share(entropy: torch.Tensor, gamma: float) -> float:
    """Share of the visual positions that the mask selects, mean over documents and layers."""
    return (entropy <= gamma * entropy.amax(-1, keepdim=True)).float().mean().item()


def lens_accuracy(
    guess: torch.Tensor, processor: Qwen2_5_VLProcessor, docs: Sequence[dict]
) -> float:
    """Share of cells whose content the lens names, mean over documents and layers."""
    cells = [cell for doc in docs for row in doc["grid"] for cell in row]
    words = [cell.replace(" ", "") or "empty" for cell in cells]
    wanted = torch.tensor(processor.tokenizer.convert_tokens_to_ids(words))
    return (guess == wanted.view(len(docs), 1, -1)).float().mean().item()
