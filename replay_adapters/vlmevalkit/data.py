"""Whether VLMEvalKit has the sets that are asked for, told before any weights are loaded.

Upstream builds the first model, answers nothing with it, and notes the set as invalid; what a set's
class does not know it drops without a word. Needs the harness to be imported.
"""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from replay_core import UsageError
from replay_core.errors import did_you_mean, shown

_RATES = ("fps", "nframe")


def check_data(named: Mapping[str, Mapping[str, Any] | None]) -> None:
    """Check sets: name → entry in a run file, None where only the name was given.

    Raises:
        UsageError: one sentence that quotes what was given and what is allowed.
    """
    for name, entry in named.items():
        if entry is None:
            _check_name(name)
        else:
            _check_entry(name, entry)


def _check_name(name: str) -> None:
    from vlmeval.dataset import DATASET_CLASSES
    from vlmeval.dataset.video_dataset_config import supported_video_datasets

    known = {*supported_video_datasets}
    known |= {one for cls in DATASET_CLASSES for one in cls.supported_datasets()}
    if name not in known and not _own(name).is_file():
        raise UsageError(
            f"--data {shown(name)} is not a set of VLMEvalKit, and {shown(_own(name), 200)} is not "
            f"there; {did_you_mean(name, known)}".strip(" ;")
        )


def _own(name: str) -> Path:
    """Return where a set of one's own has to lie."""
    from vlmeval.smp import LMUDataRoot

    return Path(LMUDataRoot()) / f"{Path(name).name}.tsv"


def _check_entry(name: str, entry: Mapping[str, Any]) -> None:
    import vlmeval.dataset
    from vlmeval.dataset.video_dataset_config import supported_video_datasets

    where = f"data.{shown(name)}"
    if not entry:
        if name not in supported_video_datasets:
            raise UsageError(
                f"{where}={{}} is not allowed: {did_you_mean(name, supported_video_datasets)}"
                "VLMEvalKit has no video set of this name (allowed: an entry with class and "
                "dataset)"
            )
        return
    kind = getattr(vlmeval.dataset, str(entry.get("class")), None)
    if not inspect.isclass(kind) or not hasattr(kind, "supported_datasets"):
        known = [
            one for one, cls in vars(vlmeval.dataset).items() if hasattr(cls, "supported_datasets")
        ]
        told = "has no class" if "class" not in entry else f"has class {shown(entry['class'])}"
        raise UsageError(
            f"{where} {told}; {did_you_mean(str(entry.get('class')), known)}(allowed: a class of "
            "vlmeval.dataset, such as ImageMCQDataset)"
        )
    known = [name for name in inspect.signature(kind.__init__).parameters if name != "self"]
    for given in entry:
        if given != "class" and given not in known:
            raise UsageError(
                f"{where}.{shown(given)} is not known to {entry['class']}; "
                f"{did_you_mean(str(given), known)}(allowed: {', '.join(known)})"
            )
    _check_set(where, kind, entry)
    if getattr(kind, "MODALITY", None) == "VIDEO":
        _check_rates(where, entry)


def _check_set(where: str, kind: Any, entry: Mapping[str, Any]) -> None:
    if "dataset" not in entry:
        return
    dataset = entry["dataset"]
    allowed = list(kind.supported_datasets())
    own = getattr(kind, "MODALITY", None) != "VIDEO"
    if isinstance(dataset, str) and (dataset in allowed or (own and _own(dataset).is_file())):
        return
    there = (
        f", and {shown(_own(dataset), 200)} is not there"
        if isinstance(dataset, str) and own
        else ""
    )
    some = ", ".join([*allowed[:6], *["…"] * (len(allowed) > 6)])
    raise UsageError(
        f"{where}.dataset={shown(dataset)} is not a set of {entry['class']}{there}; "
        f"{did_you_mean(str(dataset), allowed)}(allowed: {some or 'a file of your own'})"
    )


def _check_rates(where: str, entry: Mapping[str, Any]) -> None:
    for name in _RATES:
        value = entry.get(name, 0)
        whole = isinstance(value, int) or name == "fps"
        if isinstance(value, bool) or not isinstance(value, int | float) or not whole:
            raise UsageError(f"{where}.{name}={shown(value)} is not allowed (allowed: a number)")
    given = {name: entry.get(name, 0) for name in _RATES if entry.get(name, 0) > 0}
    if len(given) != 1:
        told = " and ".join(f"{name}={shown(entry[name])}" for name in _RATES if name in entry)
        raise UsageError(
            f"{where} has {told or 'neither fps nor nframe'} (allowed: one of fps and nframe above "
            "0)"
        )
