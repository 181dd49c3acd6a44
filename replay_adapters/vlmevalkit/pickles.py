"""Plain values from pickles: what is read here runs no code, whoever wrote the file."""

import pickle
import re
from collections import OrderedDict, defaultdict
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import numpy as np
from loguru import logger

from replay_adapters.vlmevalkit.planned import Build

# Modules of upstream's that unpickle the archives of a downloaded set's clips.
_UNPACKING = ("mmbench_video", "video_holmes", "videomme", "videott")


def take_plain_values_from_pickles() -> None:
    """Let upstream read plain values from pickles, and nothing that runs when it is read.

    VLMEvalKit 0.0.20 unpickles whatever stands where a scorer of an earlier run has left its
    verdicts, as ``MODEL_SET_exact_matching_result.pkl``, also a torn one, and the archives of some
    sets' clips. Below the folder of one of our models, a file of anything else is moved aside, and
    scored anew; below another model's, upstream reads as ever. To be dropped when it keeps verdicts
    in another form.
    """
    from vlmeval.smp import file

    file.pickle = SimpleNamespace(load=_scored, dump=pickle.dump)
    for name in _UNPACKING:
        module = import_module(f"vlmeval.dataset.{name}")
        module.pickle = SimpleNamespace(load=plain_values)  # type: ignore[attr-defined]


def plain_values(file: IO[bytes]) -> Any:
    """Return what a pickle holds: numbers, texts, bytes, and containers of them.

    Raises:
        pickle.UnpicklingError: it holds anything else, or is damaged.
    """
    try:
        return _PlainValues(file).load()
    except pickle.UnpicklingError:
        raise
    except Exception as error:  # whatever damage makes of the reader
        raise pickle.UnpicklingError(f"{type(error).__name__}: {error}") from error


class _PlainValues(pickle.Unpickler):
    """Knows the names of a few types; with any other a pickle could call whatever it likes."""

    def find_class(self, module: str, name: str) -> Any:
        known = {
            ("collections", "OrderedDict"): OrderedDict,
            ("collections", "defaultdict"): defaultdict,
            **{("builtins", kind.__name__): kind for kind in (dict, list, set, int, float, str)},
            ("numpy", "dtype"): _Kind,
            ("numpy.core.multiarray", "scalar"): _number,
            ("numpy._core.multiarray", "scalar"): _number,
        }
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return known[module, name]


class _Kind:
    """What a pickle says of a number's type, in the place of numpy's own reader."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]


def _number(kind: _Kind, content: bytes) -> Any:
    """Return one of numpy's numbers as one of Python's."""
    if not re.fullmatch(r"[biuf][1248]", kind.code) or kind.order not in ("<", ">", "|", "="):
        raise pickle.UnpicklingError(f"it holds a number of type {kind.code}")
    (number,) = np.frombuffer(content, dtype=f"{kind.order}{kind.code}").tolist()
    return number


def _scored(file: IO[bytes]) -> Any:
    """Return what a scorer has kept; nothing where that cannot be told without running it."""
    from vlmeval.config import supported_VLM

    path = Path(file.name)
    if not any(isinstance(supported_VLM.get(part), Build) for part in path.parts):
        return pickle.load(file)
    try:
        return plain_values(file)
    except pickle.UnpicklingError as error:
        aside = path.with_name(f"{path.name}.aside")
        path.replace(aside)
        logger.warning(f"replay: {path} is not read ({error}); it was moved to {aside}")
        return {}
