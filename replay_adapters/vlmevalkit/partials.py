"""What a run of VLMEvalKit has answered so far: in JSON, under the names of upstream's pickles.

Reading a pickle runs whatever code it holds, and a torn one ends every restart. Nothing is lost
with one that is moved aside: each sample stands in our own journal, too.
"""

import functools
import json
from pathlib import Path
from typing import Any

from loguru import logger

from replay_adapters.session.session import current
from replay_core.jsonl import replace_text

_ENDING = ".pkl"


def plain(index: Any) -> Any:
    """Return a sample's index as JSON knows it: numpy's numbers become Python's."""
    return index.item() if hasattr(index, "item") else index


def read_partial(path: Path) -> dict[Any, Any]:
    """Return sample → answer; nothing where there is no file, or one that was not written here.

    Such a file is moved aside, unread.
    """
    if not path.is_file():
        return {}
    try:
        return {index: answer for index, answer in json.loads(path.read_bytes())}
    except (ValueError, TypeError):
        aside = path.with_name(f"{path.name}.aside")
        path.replace(aside)
        logger.warning(f"replay: {path} is no JSON of ours, and is not read; moved to {aside}")
        return {}


def write_partial(path: Path, answers: dict[Any, Any]) -> None:
    """Keep sample → answer; the file is whole whenever it is read."""
    pairs = [[plain(index), answer] for index, answer in answers.items()]
    replace_text(path, json.dumps(pairs, ensure_ascii=False))


def keep_partial_answers_without_pickle() -> None:
    """Let upstream's inference read and write its ``….pkl`` files as JSON while one of our models
    answers, and never fetch one.

    VLMEvalKit 0.0.20 unpickles whatever stands at ``01_SET.pkl``, ``MODEL_SET_PREV.pkl`` and
    ``MODEL_SET_checkpoint.pkl``, and for MMBench a file from the web. To be dropped when it keeps
    answers in another form.
    """
    from vlmeval import inference, inference_mt, inference_video

    for module in (inference, inference_mt, inference_video):
        if not hasattr(module.load, "__wrapped__"):
            module.load, module.dump = _reading(module.load), _writing(module.dump)


def _reading(load: Any) -> Any:
    @functools.wraps(load)
    def reading(file: Any, *rest: Any, **more: Any) -> Any:
        if current() is None or not str(file).endswith(_ENDING):
            return load(file, *rest, **more)
        if "://" in str(file):
            raise ValueError(f"{file} is not fetched: reading a pickle runs the code in it")
        return read_partial(Path(file))

    return reading


def _writing(dump: Any) -> Any:
    @functools.wraps(dump)
    def writing(content: Any, file: Any, *rest: Any, **more: Any) -> Any:
        if current() is None or not str(file).endswith(_ENDING):
            return dump(content, file, *rest, **more)
        return write_partial(Path(file), content)

    return writing
