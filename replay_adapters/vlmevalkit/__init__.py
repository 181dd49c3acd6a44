"""VLMEvalKit with replay: model names, model classes, and the harness's own run script.

People with a run script of their own call :func:`register` before it starts::

    from replay_adapters.vlmevalkit import register

    register()
    import vlmeval.run

    vlmeval.run.main()  # --model MM-Eureka-Qwen-7B-replay --data MathVista_MINI

Importing this package imports neither torch nor the harness.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from replay_adapters.vlmevalkit.planned import Planned


def register(models: "Mapping[str, Mapping[str, Any] | Planned] | None" = None) -> list[str]:
    """Make our classes, model names and patches known to the harness; return the names.

    ``models`` is name → arguments of the model, or what they were planned to be; without it, every
    shipped pair with every arm. Call it once, in every process, before the harness's ``main``.
    """
    import vlmeval.vlm
    from vlmeval.config import supported_VLM

    from replay_adapters.vlmevalkit import models as classes
    from replay_adapters.vlmevalkit import patches
    from replay_adapters.vlmevalkit.arguments import CLASSES
    from replay_adapters.vlmevalkit.names import model_names
    from replay_adapters.vlmevalkit.planned import Build

    for name in CLASSES:
        setattr(vlmeval.vlm, name, getattr(classes, name))
    entries = {**(model_names() if models is None else models)}
    for name, given in entries.items():
        supported_VLM[name] = Build(given)
    patches.install()
    return list(entries)
