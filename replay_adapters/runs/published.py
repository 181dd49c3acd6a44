"""The paper's own numbers for a run, with what they were made with; or why it has none."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml

from replay_adapters.runs.run import RunLog
from replay_adapters.settings.benchmarks import Benchmark, benchmarks
from replay_adapters.settings.pairs import pair_names, read_pair
from replay_adapters.settings.resources import resource

Settings = Mapping[str, Any]
_ROLES = ("policy", "base")
_NONE, _BASE = {"method": "none"}, {"method": "base"}
_REPLAY = {"method": "replay", "select": "low"}
_INJECT = {"method": "inject", "select": "low"}
# What cells of one table are told apart by.
_CELL = ("threshold", "step_size", "thresholds", "step_scaling")
# What is always said of a number with replay; anything else where it differs.
_MAIN = ("threshold", "step_size", "layers", "steps", "boundary")
_UNTOLD = {"replay": ("threshold", "step_size", "layers"), "inject": ("layers", "boundary")}


@dataclass(frozen=True)
class Published:
    """The number that the paper has for what a run is, in percent; None where it has none.

    ``notes`` say where the number stands, what it was made with and what differs in the run; or,
    without a number, why there is none.
    """

    items: str
    score: float | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Cell:
    """One number of a table, the arms whose number it is, and what is known of its settings."""

    score: float
    source: str
    arms: tuple[Settings, ...]
    settings: Settings


def published(run: RunLog) -> Published | None:
    """Return the paper's number for a run: of its pair, its task, and its arm.

    None where the paper has nothing on the pair or the task.
    """
    table = _table()
    name = next((n for n, known in benchmarks().items() if run.task in known.tasks), None)
    pair = _pair(run, table["results"])
    if name is None or pair is None or name not in table["results"][pair]:
        return None
    benchmark = benchmarks()[name]
    metrics = benchmark.tasks[run.task].metrics
    if run.metric not in metrics:
        which = f"--metric {' or '.join(metrics)}" if metrics else "no metric of this task alone"
        return _none(benchmark, f"the paper's is of {benchmark.items}: {which}")
    other = _other_models(run, pair)
    if other is not None:
        return _none(benchmark, other)
    method = run.config["method"]
    arm = _of(run.config, ("method",) if method in ("none", "base") else _REPLAY)
    cells = _cells(pair, name, table)
    alike = [cell for cell in cells if arm in cell.arms]
    if not alike:
        arms = dict.fromkeys(_shown(each) for cell in cells for each in cell.arms)
        return _none(benchmark, f"the paper has none with {_shown(arm)} (but {'; '.join(arms)})")
    same = (cell for cell in alike if not _differing(_of(cell.settings, _CELL), run))
    cell = next(same, alike[0])
    notes = [_made_with(cell, run), *_otherwise(run, pair, table), benchmark.caution]
    return Published(benchmark.items, cell.score, tuple(filter(None, notes)))


def table_number(
    table: str, policy: str, benchmark: str, arm: str, options: Mapping[str, Any]
) -> float | None:
    """Return the number that one of the paper's tables has for an arm, in percent, if it has one.

    ``table`` is ``results`` (arms ``none`` and ``replay``), ``injection`` (``none``, ``low`` and
    ``high``) or ``grid``, whose arms are known by the ``options`` threshold and step_size.
    """
    known = _table()
    pair = next((name for name in known["results"] if read_pair(name).policy == policy), None)
    arms = ("none", "low", "high") if table == "injection" else ("none", "replay")
    if table == "grid" and arm != "none":
        row = known["grid"].get(pair, {}).get(options.get("threshold"), {})
        found = row.get(options.get("step_size")) if benchmark == "mathverse" else None
    else:
        numbers = known["results" if table == "grid" else table].get(pair, {}).get(benchmark)
        found = dict(zip(arms, numbers or (), strict=False)).get(arm)
    return None if found is None else float(found)


def _none(benchmark: Benchmark, why: str) -> Published:
    return Published(benchmark.items, None, (why,))


@cache
def _table() -> dict[str, Any]:
    text = (resource("configs") / "published.yaml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def _pair(run: RunLog, results: Iterable[str]) -> str | None:
    """Return the published pair that a run is of: by its policy, else by the name it was given."""
    known = {read_pair(name).policy: name for name in results}
    named = run.settings.get("pair")
    return known.get(_models(run).get("policy"), named if named in known.values() else None)


def _models(run: RunLog) -> Settings:
    """Return the run's policy and base; those of its pair where it does not name them."""
    named = run.settings.get("pair")
    shipped = read_pair(named) if named in pair_names() else None
    found = {role: run.settings.get(role, getattr(shipped, role, None)) for role in _ROLES}
    return {role: model for role, model in found.items() if model is not None}


def _other_models(run: RunLog, pair: str) -> str | None:
    """Return which model of the run is not the published pair's, if one is that matters."""
    models, wanted = _models(run), read_pair(pair)
    used = {"none": ("policy",), "base": ("base",)}.get(run.config["method"], _ROLES)
    for role in used:
        theirs = getattr(wanted, role)
        if models.get(role) != theirs:
            return f"the paper's {role} is {theirs} (here {models.get(role)})"
    return None


def _cells(pair: str, name: str, table: Settings) -> list[_Cell]:
    """Return what the paper has for a pair on a benchmark, what it puts first before the rest."""
    alone, steered = table["results"][pair][name]
    source = table["source"].get(pair, "Table 2")
    known = table["settings"]
    injects = pair in known["injected"]
    common = {**known["inject" if injects else "replay"], **known["pairs"].get(pair, {})}
    headline = {**common, **known["cells"].get(pair, {}).get(name, {})}
    cells = [
        _Cell(alone, f"{source}, the policy alone", (_NONE,), {}),
        _Cell(steered, source, (_REPLAY, _INJECT) if injects else (_REPLAY,), headline),
    ]
    base = table["base"].get(read_pair(pair).base, {})
    if name in base:
        cells.append(_Cell(base[name], "Table 2, the base alone", (_BASE,), {}))
    if name == "mathverse":
        cells += [
            _Cell(score, "Table 5", (_REPLAY,), {**common, "threshold": row, "step_size": column})
            for row, scores in table["grid"].get(pair, {}).items()
            for column, score in scores.items()
        ]
    _, *injected = table["injection"].get(pair, {}).get(name, (None,))
    for select, score in zip(("low", "high"), injected, strict=False):
        arm = {**_INJECT, "select": select}
        cells.append(_Cell(score, "Table 1", (arm,), arm))
    return cells


def _differing(settings: Settings, run: RunLog) -> dict[str, Any]:
    """Return the settings of a cell that the run has otherwise, with the run's own values."""
    ours = {**run.config, "layers": _layers(run.config.get("layers"))}
    return {name: ours.get(name) for name, value in settings.items() if ours.get(name) != value}


def _layers(given: Any) -> Any:
    """Return a number of first layers, as the tables have it, where the layers are such."""
    if given == "auto":
        return 4 * _table()["settings"]["decoder_layers"] // 7
    if isinstance(given, list | tuple) and list(given) == list(range(len(given))):
        return len(given)
    return given


def _made_with(cell: _Cell, run: RunLog) -> str:
    """Return where a number stands and its settings, with the run's where these differ."""
    if not cell.settings:
        return cell.source
    other = _differing(cell.settings, run)
    told = _of(cell.settings, [*_REPLAY, *_MAIN, *other])
    untold = [name for name in _UNTOLD[cell.settings["method"]] if name not in cell.settings]
    more = f"; the paper does not say its {', '.join(untold)}" if untold else ""
    return f"{cell.source}: {_shown(told, other)}{more}"


def _otherwise(run: RunLog, pair: str, table: Settings) -> Iterable[str]:
    """Yield what else the run does otherwise than the published ones: pixels, lengths, items."""
    pixels, decoding = run.facts.get("pixels", {}), run.facts.get("decoding", {})
    generation = {**decoding.get("generation", {}), **decoding}
    ours = {
        "max_new_tokens": generation.get("max_new_tokens"),
        "min_pixels": pixels.get("min_pixels"),
        "max_pixels": pixels.get("max_pixels"),
        "frames": pixels.get("max_num_frames", pixels.get("nframe")),
    }
    theirs = table["protocol"].get(pair, {})
    other = {name: ours[name] for name in theirs if str(ours[name]) != str(theirs[name])}
    if other:
        yield f"made with {_shown(_of(theirs, other), other)}"
    if run.asked is not None and run.whole is not None and run.asked < run.whole:
        yield f"of all items (here the first {run.asked} of {run.whole} documents)"


def _of(settings: Settings, names: Iterable[str]) -> dict[str, Any]:
    return {name: settings[name] for name in dict.fromkeys(names) if name in settings}


def _shown(settings: Settings, here: Settings | None = None) -> str:
    def one(name: str, value: Any) -> str:
        if here is None or name not in here:
            return f"{name}={value}"
        ours = here[name]
        return f"{name}={value} (here {'the default' if ours is None else ours})"

    return ", ".join(one(name, value) for name, value in settings.items())
