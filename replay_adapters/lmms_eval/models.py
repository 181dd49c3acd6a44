"""The replaying model classes: lmms-eval's own, with :class:`ReplayMixin` in front."""

from typing import Any

from lmms_eval.models.chat.internvl_hf import InternVLHf as InternVLChat
from lmms_eval.models.chat.llava_hf import LlavaHf as LlavaChat
from lmms_eval.models.chat.qwen2_5_vl import Qwen2_5_VL as Qwen25VLChat
from lmms_eval.models.chat.qwen3_vl import Qwen3_VL as Qwen3VLChat
from lmms_eval.models.simple.llava_hf import LlavaHf as LlavaSimple
from lmms_eval.models.simple.qwen2_5_vl import Qwen2_5_VL as Qwen25VLSimple
from lmms_eval.models.simple.qwen2_vl import Qwen2_VL as Qwen2VLSimple
from lmms_eval.models.simple.qwen3_vl import Qwen3_VL as Qwen3VLSimple
from loguru import logger

from replay_adapters.lmms_eval.arguments import check_architecture
from replay_adapters.lmms_eval.mixin import ReplayMixin
from replay_adapters.lmms_eval.reading import Rated
from replay_adapters.session.session import joined


class Qwen25VLReplay(ReplayMixin, Qwen25VLChat):
    """Qwen2.5-VL through the harness's chat class."""

    is_simple = False
    parent_name, model_types, default_dtype = "qwen2_5_vl", ("qwen2_5_vl",), "bfloat16"


class Qwen25VLReplaySimple(ReplayMixin, Qwen25VLSimple):
    """Qwen2.5-VL through the harness's simple class (``--force_simple``)."""

    parent_name, model_types, default_dtype = "qwen2_5_vl", ("qwen2_5_vl",), "bfloat16"

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.processor = Rated(self.processor)


class Qwen2VLOnlyReplay(ReplayMixin, Qwen2VLSimple):
    """Qwen2-VL, for which the harness has a simple class only."""

    parent_name, model_types = "qwen2_vl", ("qwen2_vl",)


class Qwen3VLReplay(ReplayMixin, Qwen3VLChat):
    """Qwen3-VL through the harness's chat class."""

    is_simple = False
    parent_name, model_types, default_dtype = "qwen3_vl", ("qwen3_vl",), "bfloat16"
    writes_system_prompt = True


class Qwen3VLReplaySimple(ReplayMixin, Qwen3VLSimple):
    """Qwen3-VL through the harness's simple class (``--force_simple``)."""

    parent_name, model_types, default_dtype = "qwen3_vl", ("qwen3_vl",), "bfloat16"


class InternVLHfReplay(ReplayMixin, InternVLChat):
    """InternVL3 and 3.5 (HF), for which the harness has a chat class only."""

    is_simple = False
    parent_name, model_types, default_dtype = "internvl_hf", ("internvl",), "bfloat16"
    frames_argument = "num_frames"


class LlavaHfReplay(ReplayMixin, LlavaChat):
    """LLaVA and LLaVA-OneVision (HF) through the harness's chat class."""

    is_simple = False
    parent_name, model_types = "llava_hf", ("llava", "llava_onevision")
    frames_argument = "max_frames_num"


class LlavaHfReplaySimple(ReplayMixin, LlavaSimple):
    """LLaVA and LLaVA-OneVision (HF) through the harness's simple class (``--force_simple``)."""

    parent_name, model_types = "llava_hf", ("llava", "llava_onevision")
    frames_argument = "max_frames_num"


class _ByArchitecture:
    """Builds the class that fits the checkpoint's architecture, and says which."""

    kinds: dict[str, Any]

    def __new__(cls, **arguments: Any) -> Any:
        """Return a model of the class that takes the checkpoint."""
        with joined() as session:
            settings = session.resolved.settings(arguments)
            model_type = session.resolved.checkpoint(settings).model_type
            check_architecture(settings, model_type, cls.kinds)
            kind = cls.kinds[model_type]
            form = "simple" if kind.is_simple else "chat"
            logger.info(f"replay: {model_type} checkpoint, answered by lmms-eval's {form} class")
            return kind(**arguments)


class Qwen2VLReplay(_ByArchitecture, Qwen25VLChat):
    """``qwen2_vl_replay``: chat class for Qwen2.5-VL, simple class for Qwen2-VL."""

    is_simple = False
    kinds = {"qwen2_5_vl": Qwen25VLReplay, "qwen2_vl": Qwen2VLOnlyReplay}  # noqa: RUF012


class Qwen2VLReplaySimple(_ByArchitecture, Qwen2VLSimple):
    """``qwen2_vl_replay --force_simple``."""

    kinds = {"qwen2_5_vl": Qwen25VLReplaySimple, "qwen2_vl": Qwen2VLOnlyReplay}  # noqa: RUF012
