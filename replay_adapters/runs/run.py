"""A finished run on one task: its items, and what must be equal in a run it is compared with.

``runs.lmms_eval`` and ``runs.vlmevalkit`` find the files of their harness and make a
:class:`RunLog` of them; whatever works on finished runs reads nothing else.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from replay_adapters.settings.benchmarks import benchmark_of
from replay_core import ReplayConfig, UsageError
from replay_core.errors import shown

# Model arguments that decide what a model sees of a picture or film.
PIXEL_KEYS = ("min_pixels", "max_pixels", "total_pixels", "max_num_frames", "fps", "nframe")
# Arguments that say where and how fast, or which model, but not what is asked.
_NEUTRAL = (
    *("batch_size", "device", "device_map", "attn_implementation", "use_flash_attention_2"),
    *("use_cache", "pretrained", "pair", "processor", "model_path", "verbose", "use_vllm"),
)
# What writes the answers of most runs: the model's own generate.
_TRANSFORMERS = "transformers"
ASPECTS = ("prompt", "pixels", "decoding", "answer format", "judge")
# The field that both harnesses' HR-Bench gives the rotations of one question.
_ROTATION = "cycle_category"
_OPTION = re.compile(r"^\s*\(?([A-J])[.):]\s*(.*)$", re.MULTILINE)

Facts = dict[str, dict[str, Any]]
Record = Mapping[str, Any]


@dataclass(frozen=True)
class Item:
    """What a run logged of one document."""

    score: float
    """Finite; what the harness's scorer gave it under the run's metric."""
    asked: str = ""
    """The question, with its options …"""
    target: str = ""
    """… and the right answer."""
    answers: Sequence[str] = ()
    """The texts of all logged answers, where a file has them."""
    scores: Sequence[float] = ()
    """Each answer's own score, where the harness scores more than one."""
    records: Sequence[Record] = ()
    """The plugin's record of each answer; none of a stock run or an answer from a cache."""
    counted: Sequence[int] = ()
    """The harness's own counts of new tokens, where it has them."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Everything else in the harness's file that is text or a number."""

    def __post_init__(self) -> None:
        if any(not isinstance(record, Mapping) for record in self.records):
            raise TypeError("a record is no mapping")

    @property
    def tokens(self) -> float | None:
        """New tokens, a mean over the document's answers."""
        return _mean_of([record.get("new_tokens") for record in self.records] or self.counted)

    @property
    def truncated(self) -> float | None:
        """Share of the document's answers that were cut."""
        return _mean_of(record.get("truncated") for record in self.records)


@dataclass(frozen=True)
class RunLog:
    """One run on one task."""

    harness: str
    task: str
    metric: str
    path: Path
    """The harness's file with a line or row per document."""
    items: dict[Any, Item]
    facts: Facts
    """Aspect → name → what must be equal in a run it is compared with."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What the plugin wrote of the run: policy, base, ``config``, ``totals`` …; of a stock run at
    most the policy."""
    beside: tuple[Path, ...] = ()
    """Other files of the run, as the one with its results."""
    asked: int | None = None
    """How many documents were asked, where the harness says so …"""
    whole: int | None = None
    """… and how many the task has."""
    reported: float | None = None
    """The harness's own number for the metric, where it has one."""
    unscored: int = 0
    """Answers that the scorer could not score; they count as wrong."""

    def __post_init__(self) -> None:
        if not isinstance(self.settings.get("config") or {}, Mapping):
            raise TypeError("the plugin's config is no mapping")

    @property
    def scores(self) -> dict[Any, float]:
        """Document → score."""
        return {document: item.score for document, item in self.items.items()}

    @property
    def records(self) -> list[Record]:
        """The records of all answers."""
        return [record for item in self.items.values() for record in item.records]

    @property
    def config(self) -> Mapping[str, Any]:
        """The replay options of the run; a run without the plugin is the policy alone."""
        given = self.settings.get("config") or {"method": "none"}
        return {**ReplayConfig().model_dump(mode="json"), **given}

    @property
    def rotated(self) -> bool:
        """Whether one question stands in several documents, with its options in another order."""
        return all(_ROTATION in item.fields for item in self.items.values())

    @property
    def own_number(self) -> float | None:
        """The harness's own number where it is no mean of these scores, in percent or not."""
        mean = fmean(item.score for item in self.items.values())
        # Harnesses round to two digits of a percentage, or to one.
        same = self.reported is None or any(
            math.isclose(self.reported, scale * mean, abs_tol=6e-4 * scale) for scale in (1, 100)
        )
        return None if same else self.reported

    def mean(self, of: Callable[[Item], float | None]) -> float | None:
        """Return the mean over documents of something, None where any has none."""
        values = [of(item) for item in self.items.values()]
        known = [value for value in values if value is not None]
        return fmean(known) if known and len(known) == len(values) else None

    def clusters(self, name: str) -> dict[Any, str]:
        """Return document → cluster.

        ``question``: documents that ask the same with the same options, in whatever order these
        stand. Any other name is a field of the documents.

        Raises:
            UsageError: the documents have no such field.
        """
        found: dict[Any, str] = {}
        for document, item in self.items.items():
            if name == "question" and item.asked:
                found[document] = _question(item.asked)
            elif name in item.fields:
                found[document] = str(item.fields[name])
            else:
                fields = ", ".join(sorted({"question", *item.fields}))
                raise UsageError(
                    f"--cluster {shown(name)} is no field of {self.path.name} (allowed: {fields})"
                )
        return found


def score(value: Any, metric: str, task: str, document: Any, path: Path) -> float:
    """Return one document's score, which is a finite number; true and false are 1 and 0.

    Raises:
        UsageError: it is anything else; the sentence says where it stands.
    """
    plain = value.item() if hasattr(value, "item") else value
    if isinstance(plain, bool | int | float) and math.isfinite(plain):
        return float(plain)
    told = "missing" if plain is None else shown(repr(plain))
    raise UsageError(
        f"metric {shown(metric)!r} of task {task} is {told} for document {document} in {path} "
        "(allowed: a finite number for every document)"
    )


def published_metrics(task: str) -> tuple[str, ...]:
    """Return the metrics of a task that the paper's number is of; empty for any other task."""
    known = benchmark_of(task)
    return known.tasks[task].metrics if known else ()


def reported_number(numbers: Mapping[str, Any], metric: str) -> float | None:
    """Return lmms-eval's number for a metric, whose key there is ``metric,filter``."""
    found = [value for key, value in numbers.items() if key.partition(",")[0] == metric]
    usable = len(found) == 1 and isinstance(found[0], int | float)
    return float(found[0]) if usable else None


def plugin_facts(summary: Mapping[str, Any]) -> Facts:
    """Return what the plugin says of a run, in either harness."""
    protocol = dict(summary.get("protocol_settings") or {})
    generation = protocol.pop("generation", {})
    answer = protocol.pop("answer", {})
    facts = argument_facts({**protocol, **(summary.get("harness_arguments") or {})})
    facts["decoding"] |= {"dtype": summary.get("dtype"), "generation": generation}
    # Only runs by vLLM name it.
    facts["decoding"]["decoder"] = summary.get("decoder") or _TRANSFORMERS
    facts["decoding"]["engine"] = summary.get("engine") or {}
    facts["answer format"] = {mark: value for mark, value in answer.items() if value}
    return facts


def argument_facts(arguments: Mapping[str, Any]) -> Facts:
    """Sort a model's arguments into what they decide."""
    facts: Facts = {
        "prompt": {},
        "pixels": {},
        "decoding": {"decoder": _TRANSFORMERS, "engine": {}},
    }
    for name, value in arguments.items():
        if name in _NEUTRAL or name.startswith(("replay_", "vllm_")):
            continue
        prompt = "prompt" in name or "suffix" in name
        aspect = "pixels" if name in PIXEL_KEYS else "prompt" if prompt else "decoding"
        facts[aspect][name] = str(value)
    return facts


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that are text or numbers."""
    return {k: v for k, v in values.items() if isinstance(v, str | int | float | bool)}


def _mean_of(values: Iterable[float | None]) -> float | None:
    """Return the mean of what is known; None where nothing is."""
    known = [float(value) for value in values if value is not None]
    return fmean(known) if known else None


def _question(asked: str) -> str:
    text = re.split(r"\n\s*\(?A[).:]", asked)[0].strip()
    options = sorted(option.strip() for _, option in _OPTION.findall(asked))
    return "\n".join([text, *options])
