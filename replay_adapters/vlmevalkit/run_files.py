"""Run files of VLMEvalKit, as ``--config`` takes them."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from replay_adapters.settings.places import check_name
from replay_core import UsageError
from replay_core.errors import did_you_mean, shown


def read_config(path: Path) -> dict[str, Any]:
    """Return a run file's content.

    Raises:
        UsageError: it is missing, is not JSON, or has not the form of a run file.
    """
    named = f"--config {shown(path)}"
    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once_each)
    except OSError as error:
        raise UsageError(f"{named} cannot be read: {error.strerror}") from error
    except RecursionError as error:
        raise UsageError(f"{named} is not JSON: it is nested too deep") from error
    except ValueError as error:
        raise UsageError(f"{named} is not JSON: {error}") from error
    parts = [content.get(part) if isinstance(content, dict) else None for part in ("model", "data")]
    if not all(isinstance(part, dict) and part for part in parts) or not all(
        isinstance(entry, dict) for part in parts for entry in part.values()
    ):
        raise UsageError(
            f"{named} is not a run file: it needs 'model' and 'data', each a mapping of names to "
            "settings"
        )
    for part in content:
        if part not in ("model", "data"):
            raise UsageError(
                f"{shown(part)} in {named} is not known; {did_you_mean(part, ('model', 'data'))}"
                "(allowed: model and data)"
            )
    for part in parts:
        for name in part:
            check_name(f"{named} has the name", name)
    return dict(content)


def _once_each(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return a mapping, none of whose keys stood twice."""
    counts = Counter(name for name, _ in pairs)
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        raise ValueError(f"{shown(twice[0])} stands twice")
    return dict(pairs)
