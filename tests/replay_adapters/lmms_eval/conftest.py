"""Real clips, and each class's way with them, for the tests that read what reaches the model."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.replay_adapters.lmms_eval.clip_reading import (
    ARGUMENTS,
    CLASSES,
    CLIPS,
    Request,
    Stopped,
    shaded,
)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    made = {
        name: shaded(folder / f"{name}.mp4", *facts)
        for name, facts in CLIPS.items()
        if name != "uneven"
    }
    # 12 frames, the first 7 of them a tenth of a second apart and the rest half a second: 3.2 s.
    return {**made, "uneven": shaded(folder / "uneven.mp4", 12, 10, slower=6)}


@pytest.fixture(scope="module")
def asked(tiny_pairs):
    """Return what ``generate`` is given for a batch of clips or pictures; a class is built once."""
    built: dict[tuple[str, Path | None], Any] = {}

    def ask(name: str, paths: list[Path], pair: Path | None = None) -> tuple[Any, dict[str, Any]]:
        family, kind = CLASSES[name]
        if (name, pair) not in built:
            which = f"pretrained={tiny_pairs[family].policy}" if pair is None else f"pair={pair}"
            given = f"{which},{ARGUMENTS}"
            built[name, pair] = kind.create_from_arg_string(
                given, {"device": "cpu", "batch_size": 9}
            )
        model = built[name, pair]
        seen = []

        def stop(session, rows, inputs, generation, **more):
            seen.append({**inputs, **generation})
            raise Stopped

        model.answerer.answer = stop
        model.task_dict = {"task": {"test": [{"file": str(path)} for path in paths]}}
        settings = {"max_new_tokens": 1, "temperature": 0}

        def shown(doc):
            """Return the document's picture, or the path of its clip."""
            still = doc["file"].endswith(".png")
            return Image.open(doc["file"]).convert("RGB") if still else doc["file"]

        def messages(doc):
            kind = "image" if doc["file"].endswith(".png") else "video"
            content = [{"type": kind, "url": shown(doc)}, {"type": "text", "text": "What?"}]
            return [{"role": "user", "content": content}]

        requests = []
        for number in range(len(paths)):
            simple = ("What?", dict(settings), lambda doc: [shown(doc)], number, "task", "test")
            chat = (f"{number}", messages, dict(settings), number, "task", "test")
            requests.append(Request(number, simple if kind.is_simple else chat))
        with pytest.raises(Stopped):
            model.generate_until(requests)
        return model, seen[0]

    return ask
