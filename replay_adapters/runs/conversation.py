"""One conversation with a tool, out of a finished run of either harness: listed, and drawn."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from replay_adapters.console import check_output
from replay_adapters.runs.reader import read_runs, reading_run
from replay_adapters.runs.run import Record
from replay_core import UsageError
from replay_core.errors import shown

_LONGEST = 400  # characters of a text that are listed
_SIDE = 1200  # pixels of the drawn image's longer side
_STRIP = 240  # pixels of a drawn crop's height
_COLOURS = ("red", "deepskyblue", "lime", "orange", "magenta", "yellow")


@dataclass(frozen=True)
class Conversation:
    """What a run has logged of one document's conversation, turn by turn."""

    harness: str
    task: str
    document: Any
    score: float
    turns: Sequence[Record]

    @property
    def crops(self) -> list[tuple[int, tuple[int, int, int, int]]]:
        """The turns whose calls were answered by a crop, and its box in the original image."""
        found = []
        for turn in self.turns:
            tool = turn.get("tool") or {}
            if tool.get("crop"):
                left, top, right, bottom = tool["crop"]
                found.append((int(turn["turn"]), (left, top, right, bottom)))
        return found


def check_picture(file: Path) -> None:
    """Raise UsageError where a picture cannot be written to a file, by its name."""
    check_output("--picture", file.parent)
    if file.is_dir() or file.suffix.lower() not in Image.registered_extensions():
        raise UsageError(
            f"--picture {shown(file)} is no name of a picture's file (allowed: one that ends with "
            ".png, .jpg and the like)"
        )


def conversations(folder: Path, task: str | None, document: str | None) -> list[Conversation]:
    """Return a document's conversations in a run, one per repeat; the first document's where None.

    Raises:
        UsageError: there is no such run, task or document, or it has no turns.
    """
    read = read_runs(folder, [task] if task else ())
    with reading_run(folder):
        runs = [run for run in read if any(r.get("turn") is not None for r in run.records)]
    if not runs:
        raise UsageError(
            f"{shown(folder)} holds no run with conversations (their records have a turn)"
        )
    if len(runs) > 1:
        names = ", ".join(run.task for run in runs)
        raise UsageError(f"{shown(folder)} holds conversations of {names}; name one with --task")
    (run,) = runs
    named = next(iter(run.items)) if document is None else document
    key = next((key for key in run.items if str(key) == str(named)), None)
    if key is None:
        some = ", ".join(map(str, list(run.items)[:8]))
        raise UsageError(f"--document {shown(named)} is none of task {run.task} ({some} …)")
    item = run.items[key]
    if not item.records:
        raise UsageError(f"document {key} of {run.task} has no records, as an answer from a cache")
    return [
        Conversation(run.harness, run.task, key, item.score, turns)
        for turns in _split(item.records)
    ]


def listing(conversation: Conversation) -> Iterator[str]:
    """Yield the lines that tell what was written and shown, and how each turn was steered."""
    with reading_run(conversation.task):
        yield from _lines(conversation)


def _lines(one: Conversation) -> Iterator[str]:
    yield f"{one.task}, document {one.document}: {len(one.turns)} turns, score {one.score:g}"
    for turn in one.turns:
        yield f"turn {turn['turn']}: {', '.join(_steering(turn))}"
        yield f"  wrote   {_short(turn.get('response') or '')}"
        tool = turn.get("tool") or {}
        if tool.get("box"):
            yield f"  box     {_numbers(tool['box'])}, in pixels of the image as it was shown"
        if tool.get("crop"):
            width, height = tool["size"]
            yield (
                f"  crop    {_numbers(tool['crop'])} of the original image, shown as "
                f"{width} by {height}"
            )
        if tool.get("told"):
            yield f"  told    {tool['told']}"
        if turn.get("answer") is not None:
            yield f"  answer  {turn['answer'] or '(none)'}"


def drawn(conversation: Conversation, image: Image.Image) -> Image.Image:
    """Return the original image with the boxes of all crops, and the crops below it."""
    scale = min(1.0, _SIDE / max(image.size))
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    crops = [(turn, box, image.crop(box)) for turn, box in conversation.crops]
    strip = [_fitted(crop, size[0]) for _, _, crop in crops]
    height = size[1] + sum(part.height + 8 for part in strip)
    page = Image.new("RGB", (size[0], height), "white")
    page.paste(image.convert("RGB").resize(size))
    pen, top = ImageDraw.Draw(page), size[1]
    for (turn, box, _), part in zip(crops, strip, strict=True):
        colour = _COLOURS[turn % len(_COLOURS)]
        left, upper, right, lower = (side * scale for side in box)
        pen.rectangle((left, upper, max(left, right - 1), max(upper, lower - 1)), None, colour, 3)
        pen.text((left + 4, upper + 4), str(turn), fill=colour)
        top += 8
        page.paste(part, (0, top))
        pen.rectangle((0, top, part.width - 1, top + part.height - 1), None, colour, 3)
        pen.text((6, top + 6), f"turn {turn}", fill=colour)
        top += part.height
    return page


def _fitted(crop: Image.Image, width: int) -> Image.Image:
    scale = min(_STRIP / crop.height, width / crop.width)
    size = max(1, round(crop.width * scale)), max(1, round(crop.height * scale))
    return crop.convert("RGB").resize(size)


def _split(records: Sequence[Record]) -> list[list[Record]]:
    """Return the records of each conversation: a first turn begins one."""
    found: list[list[Record]] = []
    for record in records:
        if not record.get("turn"):
            found.append([])
        found[-1].append(record)
    return found


def _steering(turn: Record) -> Iterator[str]:
    yield str(turn["outcome"])
    if turn.get("loss_before") is not None and turn.get("loss_after") is not None:
        yield f"masked KL {turn['loss_before']:.4g} to {turn['loss_after']:.4g} nats"
    yield f"{turn.get('visual_tokens')} visual tokens"
    yield f"{turn.get('new_tokens')} new tokens ({turn.get('finish_reason')})"
    yield f"seed {turn.get('seed')}"


def _numbers(values: Sequence[float]) -> str:
    return f"[{', '.join(f'{value:g}' for value in values)}]"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST // 2]} … {line[-_LONGEST // 2 :]}"
