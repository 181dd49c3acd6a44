"""From a model's arguments in VLMEvalKit to the resolved settings, without the harness."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from typing import Any

from replay_adapters.settings.checkpoints import check_checkpoints
from replay_adapters.settings.options import Settings, resolve
from replay_adapters.settings.processors import processor_revision
from replay_adapters.vlmevalkit.arguments import (
    CLASS_ARGUMENTS,
    CLASSES,
    OUR_ARGUMENTS,
    refuse_unknown,
)
from replay_adapters.vlmevalkit.upstream import harness_version
from replay_core import UsageError
from replay_core.errors import shown
from replay_core.pair.identity import checkpoint_revision
from replay_core.pair.lora import adapted_base
from replay_core.record import library_versions

_DECODING = ("max_new_tokens", "top_p", "top_k", "temperature", "repetition_penalty")


@dataclass(frozen=True)
class Planned:
    """One model of a run, checked and resolved.

    ``arguments`` are what it was planned from, ``harness`` the arguments of the harness's class;
    ``greedy``, whether its own sampling is replaced by plain argmax; ``revisions``, what is known
    of the files of all checkpoints; ``fingerprint``, 16 digits that change with settings, weights
    and versions.
    """

    arguments: dict[str, Any]
    class_name: str
    settings: Settings
    samples: int
    greedy: bool
    device: str | None
    attn_implementation: str | None
    harness: dict[str, Any]
    revisions: dict[str, str]
    fingerprint: str

    def summary(self) -> dict[str, Any]:
        """Return the settings as they are logged, with what an answer depends on beside them, and
        the arguments as they were given."""
        kinds = str | int | float | bool | list | None
        given = {k: v if isinstance(v, kinds) else str(v) for k, v in self.arguments.items()}
        versions = {**library_versions(), **harness_version()}
        return {
            **self.settings.summary(),
            **self.revisions,
            "versions": versions,
            "arguments": given,
        }


def plan(arguments: Mapping[str, Any], class_name: str | None = None) -> Planned:
    """Return what a model with these arguments does; ``class_name`` None reads the checkpoint.

    Reads no weights into memory. Arguments are those of ``resolve``, of the harness's class, and
    ``samples``, ``processor`` (where the processor is loaded from), ``device`` and
    ``attn_implementation``; ``model_path`` is another name of ``pretrained``, as the harness calls
    it.

    Raises:
        UsageError: one sentence that quotes what was given and what is allowed.
    """
    given = {key: value for key, value in arguments.items() if value is not None}
    if given.pop("use_vllm", False) or given.pop("use_lmdeploy", False):
        raise UsageError(
            "use_vllm and use_lmdeploy are not possible: replay needs the model itself; "
            "replay_decode=vllm lets vLLM write the answers"
        )
    if "model_path" in given:
        if "pretrained" in given:
            raise UsageError(
                f"model_path={shown(given['model_path'])} and pretrained="
                f"{shown(given['pretrained'])} are the same argument (allowed: one of the two)"
            )
        given["pretrained"] = given.pop("model_path")
    settings = resolve(given)
    if "processor" in settings.rest:
        pair = settings.pair.model_copy(update={"processor": settings.rest["processor"]})
        settings = replace(settings, pair=pair)
    if settings.journal is not None:
        raise UsageError(
            "replay_journal is for lmms-eval only: in VLMEvalKit every sample is kept anyway, and "
            "a run that is started again goes on behind the last one"
        )
    config = check_checkpoints(settings)
    fitting = [name for name, (_, types) in CLASSES.items() if config.model_type in types]
    if not fitting or class_name not in (None, *fitting):
        wanted = CLASSES if class_name is None else [class_name]
        allowed = ", ".join(kind for name in wanted for kind in CLASSES[name][1])
        raise UsageError(
            f"{shown(settings.pair.policy)} is a {config.model_type} checkpoint, which "
            f"{' and '.join(wanted)} cannot answer (allowed: {allowed})"
        )
    chosen = fitting[0]
    refuse_unknown(settings.rest, chosen)
    samples = settings.rest.get("samples", 1)
    harness, greedy = _harness_arguments(settings, chosen, samples)
    revisions = _revisions(settings)
    return Planned(
        arguments=dict(arguments),
        class_name=chosen,
        settings=settings,
        samples=samples,
        greedy=greedy,
        device=settings.rest.get("device"),
        attn_implementation=settings.rest.get("attn_implementation"),
        harness=harness,
        revisions=revisions,
        fingerprint=_fingerprint(settings, chosen, list(revisions.values())),
    )


class Build:
    """What stands under a name in the harness's table: builds the class that fits the checkpoint.

    ``given`` are the model's arguments, or what they were planned to be.
    """

    def __init__(self, given: Mapping[str, Any] | Planned) -> None:
        self._given = given

    @cached_property
    def planned(self) -> Planned:
        """The model, checked and resolved once."""
        return self._given if isinstance(self._given, Planned) else plan(self._given)

    def __call__(self, **more: Any) -> Any:
        """Return the model; ``more`` is what the harness adds for some names, use_vllm=False."""
        import vlmeval.vlm

        planned = self.planned
        if any(more.values()):
            planned = plan({**planned.arguments, **more})
        return getattr(vlmeval.vlm, planned.class_name)(planned=planned)


def _harness_arguments(
    settings: Settings, class_name: str, samples: int
) -> tuple[dict[str, Any], bool]:
    """Return the arguments of the harness's class, and whether it decodes greedily.

    The pair's decoding stands behind what was given. A temperature of 0 means argmax, which the
    classes cannot be told. Several samples need a temperature above 0, and are drawn from the whole
    distribution where neither top_p nor top_k was given: the classes' own top_k of 1 would make
    them all equal.
    """
    values = {k: v for k, v in settings.rest.items() if k not in OUR_ARGUMENTS}
    if "max_num_frames" in values:
        frames = values.pop("max_num_frames")
        values.setdefault("nframe", frames)
    ours = {k: v for k, v in settings.protocol.generation.items() if k in _DECODING}
    if samples > 1:
        ours.pop("temperature", None)
    values = {"use_custom_prompt": False, **ours, **values}
    if settings.protocol.system_prompt is not None:
        values.setdefault("system_prompt", settings.protocol.system_prompt)
    temperature = values.get("temperature")
    greedy = values.get("do_sample") is False or temperature == 0
    if samples > 1:
        if greedy or temperature is None:
            raise UsageError(
                f"samples={samples} needs a temperature above 0, or all samples would be equal; "
                "give temperature=1.0, as in --replay temperature=1.0"
            )
        values = {"top_p": 1.0, "top_k": 0, **values}
        if "do_sample" in CLASS_ARGUMENTS[class_name]:
            values["do_sample"] = True
    if temperature == 0:
        del values["temperature"]
    return values, greedy


def _revisions(settings: Settings) -> dict[str, str]:
    """Return what is known of the files of each checkpoint that an answer depends on."""
    method, pair = settings.config.method, settings.pair
    onto = pair.base if adapted_base(pair.policy) is not None else None
    found = {
        "policy_revision": checkpoint_revision(pair.policy, onto=onto),
        "processor_revision": processor_revision(settings),
    }
    if method != "none":
        found["base_revision"] = checkpoint_revision(pair.base)
    return found


def _fingerprint(settings: Settings, chosen: str, revisions: list[str]) -> str:
    """Return 16 digits of everything an answer depends on; devices are left out."""
    anywhere = {name: value for name, value in settings.rest.items() if name != "device"}
    made = replace(settings, rest=anywhere)
    return made.fingerprint(chosen, version("activation-replay"), revisions=revisions)
