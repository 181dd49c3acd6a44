"""What a run may be asked for beside the method's own settings: which pair, and how it is held.

Together with :class:`~replay_core.config.ReplayConfig` these are all the options of both harnesses;
what reads, refuses or lists options takes them from here. As there, a field's ``description`` says
what is allowed, and the text below it what it does. Needs neither torch nor a harness.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from replay_core import ReplayConfig
from replay_core.config import Number, not_a_truth_value
from replay_core.decoding.options import EngineOptions

PREFIX, ENGINE_PREFIX = "replay_", "vllm_"
# What is typed, where the method's setting itself is more than a text.
AS_TYPED = {"thresholds": "dynamic, release, or a file that `activation-replay thresholds` wrote"}


class RunOptions(BaseModel):
    """The options of a run, under the names that are typed.

    What else was given is in ``model_extra``: the method's settings and the harness's arguments.
    """

    model_config = ConfigDict(frozen=True, extra="allow", coerce_numbers_to_str=True)

    pair: str | None = Field(None, description="a name of `activation-replay pairs`, or a file")
    """Policy, base, prompt and presets in one; the embedded pair where nothing is named."""

    pretrained: str | None = Field(None, description="a hub id or a folder")
    """The policy, when not the pair's. Give ``replay_base`` with it, unless it is a LoRA adapter,
    which names its base itself."""

    dtype: Literal["auto", "bfloat16", "float16", "float32"] | None = Field(
        None, description="auto, bfloat16, float16 or float32"
    )
    """What the models are loaded in. Where not given, the pair's choice, else the harness's."""

    replay_base: str | None = Field(None, description="a hub id or a folder")
    """The checkpoint before RLVR, when not the pair's."""

    replay_preset: str | None = Field(None, description="a name under `presets` in the pair's file")
    """Settings that a published number was made with, by name. They win over the pair's own preset,
    and what is given beside them wins over both."""

    replay_protocol: Literal["pair", "task"] | None = Field(None, description="pair or task")
    """``pair``: the pair's own prompt, pixels and decoding, the default where it has any; ``task``:
    the task's."""

    replay_base_device: Annotated[str | int, BeforeValidator(not_a_truth_value)] | None = Field(
        None, description="cpu, cuda, cuda:1 and the like"
    )
    """Where the base is held, when not beside the policy."""

    replay_base_quantization: Literal["8bit", "4bit"] | None = Field(
        None, description="8bit or 4bit"
    )
    """In how many bits the base's decoder is held, with bitsandbytes."""

    replay_turns: Literal["again", "reuse"] = Field("again", description="again or reuse")
    """In a conversation, x is found ``again`` at each turn; or ``reuse``: what was found for the
    pictures of earlier turns is kept, and only that of new ones is found."""

    replay_boxes: Literal["mapped", "published"] = Field(
        "mapped", description="mapped or published"
    )
    """Where a zoom tool crops: ``mapped`` from the image as the model saw it to the original; or
    ``published``, as DeepEyes' scripts do, which take the numbers for pixels of the original."""

    replay_decode: Literal["transformers", "vllm"] = Field(
        "transformers", description="transformers or vllm"
    )
    """What writes the answers: the policy's own ``generate``, or vLLM's engine, which is several
    times as fast where many answers are written at once, and takes the options ``vllm_…``."""

    replay_journal: str | None = Field(None, description="a file")
    """Answers are kept there batch by batch; the same command, started again, goes on."""

    replay_store: str | None = Field(None, description="a folder")
    """What the base reads of a prompt is kept there, and x, for every later run of the same pair or
    the same base: other γ and α need no pass of the base, nor its weights in memory, and more
    answers to a prompt need no descent. Several runs may share it."""

    replay_store_gb: Number = Field(
        50.0, gt=0, allow_inf_nan=False, description="a finite number above 0"
    )
    """How many GB the store may take; what was used longest ago makes room."""


METHOD_OPTIONS = [PREFIX + name for name in ReplayConfig.model_fields]
# Names of what is typed with ``replay_`` in front, and without.
REPLAY_OPTIONS = [*METHOD_OPTIONS, *(n for n in RunOptions.model_fields if n.startswith(PREFIX))]
ENGINE_OPTIONS = [ENGINE_PREFIX + name for name in EngineOptions.model_fields]
PAIR_OPTIONS = [name for name in RunOptions.model_fields if not name.startswith(PREFIX)]
