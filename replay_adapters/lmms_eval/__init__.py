"""The lmms-eval plugin: its entry point, which imports neither torch nor the harness by itself."""

from typing import TYPE_CHECKING

from replay_adapters.lmms_eval.names import MODEL_NAMES

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest

_MODELS = "replay_adapters.lmms_eval.models"


def manifests() -> "list[ModelManifest]":
    """Return our models for lmms-eval's registry, and make our tasks known to its task manager."""
    from lmms_eval.models.registry_v2 import ModelManifest
    from lmms_eval.tasks import TaskManager

    from replay_adapters.lmms_eval.patches import (
        find_plugin_tasks,
        mend_latex2sympy2,
        open_sessions,
    )

    find_plugin_tasks(TaskManager)
    mend_latex2sympy2()
    open_sessions()
    return [
        ModelManifest(
            model_id=name,
            chat_class_path=f"{_MODELS}.{chat}",
            simple_class_path=None if simple is None else f"{_MODELS}.{simple}",
        )
        for name, (chat, simple) in MODEL_NAMES.items()
    ]
