"""Studies on planted answers, and the figures that they draw."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from replay_core.studies import answers as answering
from tests.replay_core.studies.bench import Answerer


@pytest.fixture(scope="module")
def drawn():
    """Collect figures by the stem of the file that they would have been written to."""
    seen: dict[str, Figure] = {}

    def keep(figure, path, **how):
        seen[Path(path).stem] = figure

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", keep)
        yield seen


@pytest.fixture(scope="module")
def planted_answers():
    """Let arms give the answers of the bench's plans, where a model would be asked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answering, "Answerer", Answerer)
        yield
