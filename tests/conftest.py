"""Tiny pairs, made once per session in a temporary folder and loaded once."""

import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: no test asks a hub
# Processes that a test starts in another folder find this package `tests`, not one of a library.
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
)

import pytest
import torch
import transformers
from PIL import Image, ImageFile

from replay_core import load_pair
from tests.replay_core.helpers import Loaded
from tests.support import tiny

transformers.utils.logging.disable_progress_bar()
torch.set_num_threads(1)

Load = Callable[..., Loaded]


@pytest.fixture(autouse=True)
def gradients_on() -> Iterator[None]:
    """Gradients are on in every test, whatever ran before it in this process.

    Importing vlmeval.vlm switches them off for everybody.
    """
    torch.set_grad_enabled(True)
    yield
    torch.set_grad_enabled(True)


@pytest.fixture(autouse=True)
def pillow_as_released(monkeypatch: pytest.MonkeyPatch) -> None:
    """PIL has its own limits in every test, whatever ran before it in this process.

    Importing lmms_eval.api.task lets cut pictures pass, importing vlmeval or some of lmms-eval's
    tasks lets enormous ones.
    """
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1024**3 // 4 // 3)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", False)


@pytest.fixture(scope="session")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    """Return a loader: family, dtype and further arguments of ``tiny.make_pair`` → Loaded."""

    @cache
    def loader(
        family: str = "qwen2_5_vl", dtype: torch.dtype = torch.float32, **how: int
    ) -> Loaded:
        folders = tiny.make_pair(tmp_path_factory.mktemp(family), family, dtype=dtype, **how)
        pair = load_pair(folders.policy, folders.base)
        for model in (pair.policy.model, pair.base.model):
            model.requires_grad_(False)
        return Loaded(pair, tiny.load_processor(folders.policy), folders)

    return loader


@pytest.fixture(params=tiny.FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def loaded(load: Load, family: str) -> Loaded:
    """A pair in float32, once per family."""
    return load(family)


@pytest.fixture
def loaded16(load: Load, family: str) -> Loaded:
    """A pair in bfloat16, once per family."""
    return load(family, torch.bfloat16)


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def either(load: Load, family: str, request: pytest.FixtureRequest) -> Loaded:
    """A pair, once per family and dtype."""
    return load(family, request.param)


@pytest.fixture
def one(load: Load) -> Loaded:
    """One pair in float32, for what does not depend on the family."""
    return load()


@pytest.fixture
def one16(load: Load) -> Loaded:
    """One pair in bfloat16."""
    return load(dtype=torch.bfloat16)
