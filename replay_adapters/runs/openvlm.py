"""VLMEvalKit's predictions in the form that the OpenVLM leaderboard takes.

Its pull request adds a model to the harness's ``config.py`` and comes with the predictions, as
``MODEL/MODEL_BENCHMARK.xlsx``.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replay_adapters.runs.run import RunLog

# A cell of Excel holds no more characters; what is longer is cut there.
CELL = 32_767


@dataclass(frozen=True)
class CutCell:
    """A cell that a sheet does not hold whole."""

    file: str
    index: str
    column: str
    characters: int
    """How many there are; one more than the limit where it is not known."""

    def __str__(self) -> str:
        return (
            f"{self.file}, index {self.index}: {self.column} has at least {self.characters} "
            f"characters, of which the sheet holds {CELL}"
        )


def write_predictions(run: RunLog, path: Path) -> list[CutCell]:
    """Write a run's predictions as a sheet, with the harness's columns and rows; return what is
    cut.

    A text stays one, whatever it begins with: sheets take ``=1+1`` for a formula.
    """
    import pandas as pd

    table = read_predictions(run.path)
    cut = [
        CutCell(path.name, str(row["index"]), str(column), len(str(row[column])))
        for row in table.to_dict("records")
        for column in table.columns
        if len(str(row[column])) > CELL
    ]
    if run.path.suffix == ".xlsx":  # which was cut when it was written
        cut += _cut_before(run, table, path.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = {"strings_to_formulas": False, "strings_to_urls": False}
    with pd.ExcelWriter(path, engine="xlsxwriter", engine_kwargs={"options": plain}) as writer:
        table.to_excel(writer, index=False)
    return cut


def read_predictions(path: Path) -> Any:
    """Return a predictions file as a table whose texts stay texts: an answer may be ``None``."""
    import pandas as pd

    texts: dict[str, Any] = {"keep_default_na": False, "na_values": [""]}
    if path.suffix == ".xlsx":
        return pd.read_excel(path, **texts)
    if path.suffix == ".json":
        return pd.DataFrame(json.loads(path.read_text(encoding="utf-8")))
    return pd.read_csv(path, sep="\t" if path.suffix == ".tsv" else ",", **texts)


def _cut_before(run: RunLog, table: Any, name: str) -> list[CutCell]:
    """Return the predictions of a sheet that are shorter than the run's journal has them."""
    found = []
    for index, text in zip(table["index"], table["prediction"], strict=True):
        item = run.items.get(str(index))
        # Without a journal, a full cell is taken for one that was cut.
        characters = len(item.answers[0]) if item and item.answers else CELL + 1
        if len(str(text)) == CELL < characters:
            found.append(CutCell(name, str(index), "prediction", characters))
    return found


def model_entry(
    entries: Mapping[str, Mapping[str, Any]], display: str, facts: Sequence[str]
) -> str:
    """Return the Python that adds models to the harness's table: name → their arguments.

    ``display`` is the method's name on the leaderboard, ``facts`` lines about it. A model whose
    arguments are empty, since its run did not keep them, is only named.
    """
    lines = [f"# {line}" for line in (f"Method: {display}", *facts)]
    lines += [
        "#",
        "# For vlmeval/config.py, whose table takes them by supported_VLM.update(replay_series).",
        "# They need pip install 'activation-replay[vlmevalkit]', and a run by vlmeval_replay, or",
        "# by a script that calls replay_adapters.vlmevalkit.register() first.",
        "from replay_adapters.vlmevalkit.planned import Build",
        "",
        "replay_series = {",
    ]
    for name, arguments in entries.items():
        if not arguments:
            lines += [f"    # {name}: its run does not say by which arguments it was made."]
            continue
        lines += [f"    {name!r}: Build(", "        {"]
        lines += [f"            {key!r}: {value!r}," for key, value in arguments.items()]
        lines += ["        }", "    ),"]
    return "\n".join([*lines, "}", ""])
