"""Whatever stands behind an option: a valid configuration, or one sentence; nothing else."""

import string
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replay_adapters.lmms_eval.arguments import check_arguments, parse_generation, parse_model_args
from replay_adapters.lmms_eval.flags import Flags, check_flags
from replay_adapters.settings.harness_options import ClassArguments, Decoding, checked_arguments
from replay_adapters.settings.options import Settings, resolve
from replay_adapters.settings.run_options import METHOD_OPTIONS, REPLAY_OPTIONS
from replay_adapters.vlmevalkit.arguments import parse_options
from replay_adapters.vlmevalkit.flags import Flags as VlmevalkitFlags
from replay_adapters.vlmevalkit.flags import check_flags as check_vlmevalkit_flags
from replay_core import ReplayConfig, UsageError

NUMBERS = st.one_of(
    st.integers(-3, 30),
    st.integers(),
    st.floats(),
    st.sampled_from([0.4, 1.0, 1e300, -1.0, 10**400, 2**63]),
)
WORDS = st.one_of(
    st.text(max_size=12),
    st.text(min_size=90, max_size=120),
    st.sampled_from(["auto", "full", "[0,1]", "[0", "release", "nan", "true", "cpu", "cuda:1"]),
    st.sampled_from(sorted({word for f in ReplayConfig.model_fields for word in f.split("_")})),
)
PLAIN = st.one_of(NUMBERS, WORDS, st.booleans(), st.none())
VALUES = st.one_of(PLAIN, st.lists(PLAIN, max_size=3), st.dictionaries(WORDS, PLAIN, max_size=2))
TYPED = st.one_of(NUMBERS.map(str), WORDS, st.sampled_from(["true", "false", "None", "²", "[1,2]"]))
MANY = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def sentence_or(made: Any, most: int = 400) -> Any:
    """Return what a call returns; None where it refuses, in one line of ``most`` characters."""
    try:
        return made()
    except UsageError as refused:
        told = str(refused)
        assert told
        assert "\n" not in told
        assert len(told) <= most
        return None


# Names are refused with a list of those there are; here it is about values.
QUIET = sorted(set(REPLAY_OPTIONS) - {"replay_journal"})


@pytest.mark.parametrize("name", QUIET)
@MANY
@given(value=VALUES)
def test_a_value_of_an_option(name, value):
    found = sentence_or(lambda: resolve({"pair": "demo", name: value}))
    assert found is None or isinstance(found, Settings)


@pytest.mark.parametrize("name", sorted({*ClassArguments.model_fields}))
@MANY
@given(value=VALUES)
def test_a_value_of_a_class_argument(name, value):
    found = sentence_or(lambda: checked_arguments({name: value}))
    assert found is None or set(found) == {name}


@MANY
@given(options=st.dictionaries(st.sampled_from(METHOD_OPTIONS), VALUES, max_size=5))
def test_options_together(options):
    found = sentence_or(lambda: resolve({"pair": "demo", **options}), most=600)
    if found is not None:
        again = ReplayConfig(**found.config.model_dump())
        assert again == found.config
        given_names = {name.removeprefix("replay_") for name, v in options.items() if v is not None}
        assert not given_names & found.config.unread.keys()


@pytest.mark.parametrize("name", sorted(Decoding.model_fields))
@MANY
@given(text=TYPED)
def test_a_typed_setting_of_decoding(name, text):
    sentence_or(lambda: check_arguments("qwen2_vl_replay", "1", f"{name}={text}"))


@pytest.mark.parametrize("name", [*QUIET, "max_pixels", "fps", "use_cache", "device"])
@MANY
@given(text=TYPED)
def test_a_typed_model_argument(name, text):
    sentence_or(lambda: resolve(parse_model_args(f"pair=demo,{name}={text}")))


@MANY
@given(text=st.text(string.printable, max_size=60))
def test_any_text_of_arguments(text):
    for parse in (parse_model_args, parse_generation, parse_options):
        found = sentence_or(lambda parse=parse: parse(text), most=1000)
        assert found is None or isinstance(found, dict)


@pytest.mark.parametrize("name", sorted(set(Flags.model_fields) - {"include_path", "baseline"}))
@MANY
@given(value=VALUES)
def test_a_flag_of_lmms_eval(name, value):
    given_flags = {"model": "qwen2_vl_replay", "tasks": "replay_demo", name: value}
    found = sentence_or(lambda: check_flags(given_flags))
    assert found is None or isinstance(found, Flags)


@pytest.mark.parametrize("name", sorted(VlmevalkitFlags.model_fields))
@MANY
@given(text=TYPED)
def test_a_flag_of_vlmevalkit(name, text):
    sentence_or(lambda: check_vlmevalkit_flags([f"--{name.replace('_', '-')}={text}"]))
