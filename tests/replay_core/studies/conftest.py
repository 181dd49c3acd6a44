"""Studies on planted answers, and the figures that they draw."""

from tests.replay_adapters.studies.conftest import drawn, planted_answers  # noqa: F401
