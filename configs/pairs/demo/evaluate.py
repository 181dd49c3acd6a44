"""Measure the exported pair through the public doors: transformers' generate, the real processor.

The bf16 weights are read into float32 arithmetic, because bf16 matrix products are about twenty
times slower on a CPU without hardware for them. lmms-eval computes in bf16 and may differ by a
few answers in a thousand.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from math import comb
from pathlib import Path

import numpy as np
import torch
from checkpoint import GUESS, harness_messages, task
from packing import MAX_NEW_TOKENS
from PIL import Image
from tqdm import tqdm
from transformers import AutoModelForImageTextToText, AutoProcessor, BatchFeature, set_seed

log = logging.getLogger("demo-pair")
BATCH = 50
SAMPLES = 8


class Checkpoint:
    """One exported model with its processor."""

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        self.model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
        self.processor = AutoProcessor.from_pretrained(folder)

    def batches(self, docs: list[dict], blank: bool = False) -> Iterator[BatchFeature]:
        """Processed, left-padded model inputs; `blank` replaces every image by plain grey."""
        grey = Image.new("RGB", (task.SIZE, task.SIZE), (int(task.BACKGROUND),) * 3)
        for start in tqdm(range(0, len(docs), BATCH), desc=self.name):
            part = docs[start : start + BATCH]
            images = [grey if blank else doc["image"] for doc in part]
            texts = [
                self.processor.apply_chat_template(
                    harness_messages(image, doc["question"]),
                    tokenize=False,
                    add_generation_prompt=True,
                )
                for image, doc in zip(images, part, strict=True)
            ]
            yield self.processor(
                text=texts, images=images, padding=True, padding_side="left", return_tensors="pt"
            )

    def respond(self, docs: list[dict], k: int = 1, blank: bool = False) -> list[list[str]]:
        """Responses, k per document: greedy when k is 1, else from the whole distribution."""
        how: dict = {"do_sample": False}
        if k > 1:
            how = {"do_sample": True, "temperature": 1.0, "top_k": 0, "num_return_sequences": k}
        responses = []
        for inputs in self.batches(docs, blank):
            out = self.model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, **how)
            new = out[:, inputs["input_ids"].shape[1] :]
            texts = self.processor.batch_decode(new, skip_special_tokens=True)
            responses += [texts[i : i + k] for i in range(0, len(texts), k)]
        return responses

    @torch.no_grad()
    def visual_entropy(self, docs: list[dict]) -> tuple[torch.Tensor, torch.Tensor]:
        """Logit lens at the visual positions: entropies in nats and best guesses.

        Both are (documents, layers, 16); layer l is read after decoder layer l.
        """
        decoder, entropies, guesses = self.model.get_decoder(), [], []
        for inputs in self.batches(docs):
            visual = inputs["input_ids"] == self.model.config.image_token_id
            states = self.model(**inputs, output_hidden_states=True).hidden_states
            normed = [*(decoder.norm(h) for h in states[1:-1]), states[-1]]
            after = torch.stack([h[visual].unflatten(0, (len(visual), -1)) for h in normed], 1)
            log_p = self.model.get_output_embeddings()(after).log_softmax(-1)
            entropies.append(-(log_p.exp() * log_p).sum(-1))
            guesses.append(log_p.argmax(-1))
        return torch.cat(entropies), torch.cat(guesses)


def mcnemar(fixed: int, broken: int) -> float:
    """Exact two-sided McNemar p-value for `fixed` and `broken` discordant pairs."""
    n = fixed + broken
    tail = sum(comb(n, i) for i in range(min(fixed, broken) + 1))
    return min(1.0, 2 * tail / 2**n)


def compare(name: str, base: np.ndarray, policy: np.ndarray) -> None:
    """Log two paired 0/1 outcomes with their exact test."""
    fixed, broken = int((policy > base).sum()), int((policy < base).sum())
    log.info(
        "%s: base %.3f, policy %.3f (n = %d, %d fixed, %d broken, exact McNemar p = %.2g)",
        name,
        base.mean(),
        policy.mean(),
        len(base),
        fixed,
        broken,
        mcnemar(fixed, broken),
    )


def scores(responses: list[list[str]], docs: list[dict]) -> np.ndarray:
    """(documents, k) 0/1 scores."""
    rows = zip(responses, docs, strict=True)
    return np.array([[task.score(text, doc["answer"]) for text in row] for row, doc in rows])


def by_type(values: np.ndarray, docs: list[dict]) -> str:
    """Mean of `values` for each question type, as text."""
    kinds = np.array([doc["question_type"] for doc in docs])
    return "  ".join(f"{kind} {values[kinds == kind].mean():.3f}" for kind in task.QUESTION_TYPES)


def log_spread(base: Checkpoint, docs: list[dict]) -> None:
    """Log how the base's entropies at visual positions spread and what each gamma selects."""
    entropy, guess = base.visual_entropy(docs)
    cells = [cell for doc in docs for row in doc["grid"] for cell in row]
    words = [cell.replace(" ", "") or "empty" for cell in cells]
    wanted = torch.tensor(base.processor.tokenizer.convert_tokens_to_ids(words))
    right = guess == wanted.view(len(docs), 1, -1)
    for layer in range(entropy.shape[1]):
        here = entropy[:, layer]
        quantiles = here.flatten().quantile(torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9]))
        selected = [
            f"{(here <= gamma * here.amax(1, keepdim=True)).float().mean():.2f}"
            for gamma in (0.1, 0.2, 0.4, 0.7)
        ]
        log.info(
            "base lens after layer %d: entropy deciles 10/25/50/75/90%% %s nats, "
            "gamma .1/.2/.4/.7 selects %s, names the content %.3f",
            layer,
            "/".join(f"{q:.2f}" for q in quantiles),
            "/".join(selected),
            right[:, layer].float().mean(),
        )


def evaluate_pair(folder: Path, test: list[dict], dev: list[dict], seed: int) -> None:
    """Log every number the pair is shipped with; `folder` holds base/ and policy/."""
    kinds: dict[str, Counter] = {kind: Counter() for kind in task.QUESTION_TYPES}
    for doc in test:
        kinds[doc["question_type"]][doc["answer"]] += 1
    best_constant = sum(max(counts.values()) for counts in kinds.values()) / len(test)
    log.info("test: n = %d, best constant answer per question type %.3f", len(test), best_constant)

    greedy, sampled = {}, {}
    for name in ("base", "policy"):
        model = Checkpoint(folder / name)
        set_seed(seed)
        responses = model.respond(test)
        greedy[name] = scores(responses, test)[:, 0]
        blank = scores(model.respond(test, blank=True), test)[:, 0]
        sampled[name] = scores(model.respond(test, k=SAMPLES), test)
        guessed = np.mean([GUESS in row[0] for row in responses])
        log.info("%s greedy: %s", name, by_type(greedy[name], test))
        log.info("%s on blank images %.3f; guesses %.3f", name, blank.mean(), guessed)
        if name == "base":
            log_spread(model, dev[:200])
    compare("greedy", greedy["base"], greedy["policy"])
    log.info("Pass@1: base %.3f, policy %.3f", sampled["base"].mean(), sampled["policy"].mean())
    compare(f"Pass@{SAMPLES}", sampled["base"].max(1), sampled["policy"].max(1))
