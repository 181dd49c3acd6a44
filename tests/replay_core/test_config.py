"""What may be asked for, and the sentence that refuses the rest."""

from typing import Any

import pytest
from pydantic import ValidationError

from replay_core import ReplayConfig, ReplayRecord, UsageError
from replay_core.config import Start
from replay_core.errors import sentence

OTHER_VALUES: dict[str, Any] = {
    "method": "none",
    "select": "high",
    "boundary": "reference",
    "top_k": "full",
    "positions": "input",
    "maximum": "image",
    "thresholds": {0: 1.5, 1: 2.0},
    "step_scaling": "tokens",
    "layers": 3,
    "threshold": 0.2,
    "step_size": 40.0,
    "steps": 0,
    "optimizer": "lbfgs",
    "tolerance": 0.01,
    "keep": "best",
    "start": Start(path="map.safetensors", digest="0123"),
    "x": "random",
    "seed": 1,
    "strict": True,
}


def refusal(**settings: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        ReplayConfig(**settings)
    return sentence(caught.value, ReplayConfig, "replay_")


def test_defaults_are_the_published_ones_but_for_the_reading_and_the_layers() -> None:
    config = ReplayConfig()
    assert (config.threshold, config.step_size, config.steps, config.top_k) == (0.4, 10, 25, 50)
    assert (config.method, config.select, config.thresholds) == ("replay", "low", "dynamic")
    assert (config.positions, config.maximum, config.keep) == ("visual", "sample", "last")
    assert (config.step_scaling, config.optimizer, config.tolerance) == ("published", "plain", 0)
    assert (config.boundary, config.layers) == ("aligned", "auto")


def test_the_docstring_names_what_is_published_and_what_is_not() -> None:
    """Every setting but the run's own, once, on the right side."""
    text = " ".join((ReplayConfig.__doc__ or "").split())
    published, _, rest = text.partition("Not published is")
    not_published = rest.partition("The loss is")[0]
    named = {name for name in ReplayConfig.model_fields if f"``{name}``" in published}
    ours = {name for name in ReplayConfig.model_fields if f'``{name}="' in not_published}
    assert ours == {"boundary", "layers"}
    assert named == ReplayConfig.model_fields.keys() - ours - {
        *("method", "seed", "strict", "checkpointing", "cuda_graphs")
    }


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("threshold", 0, "a number above 0, at most 1"),
        ("threshold", 1.5, "a number above 0, at most 1"),
        ("threshold", float("nan"), "a number above 0, at most 1"),
        ("steps", -1, "a whole number from 0 to 100,000"),
        ("steps", 2.5, "a whole number from 0 to 100,000"),
        (
            "select",
            "lo",
            "low, high, all, random, matched_low, matched_high or matched_random",
        ),
        ("maximum", "batch", "sample or image"),
        ("thresholds", "fixed", "dynamic, release, or a positive number of nats for each layer"),
        ("thresholds", {}, "dynamic, release, or a positive number of nats for each layer"),
        ("step_scaling", "size", "published or tokens"),
        ("optimizer", "adam", "plain or lbfgs"),
        ("tolerance", -0.1, "a number from 0 on, below 1"),
        ("tolerance", 1, "a number from 0 on, below 1"),
        ("tolerance", float("nan"), "a number from 0 on, below 1"),
        ("tolerance", "tight", "a number from 0 on, below 1"),
        ("x", "noise", "optimised or random"),
        ("boundary", "exact", "aligned or reference"),
        ("method", "reply", "replay, amortised, inject, none or base"),
        ("positions", "text", "visual or input"),
        ("keep", "first", "last or best"),
        ("top_k", 1, "a whole number from 2 on, or full"),
        ("top_k", "all", "a whole number from 2 on, or full"),
        ("layers", 0, "auto, a number of layers from 1 on, or distinct indices as in [0,1,2]"),
        ("step_size", 0, "a number above 0, at most 1e12"),
        ("step_size", float("inf"), "a number above 0, at most 1e12"),
        ("step_size", float("nan"), "a number above 0, at most 1e12"),
        ("seed", -1, "a whole number from 0 on, below 2**63"),
        ("strict", "maybe", "true or false"),
    ],
)
def test_a_value_outside_its_range_is_refused(name: str, value: Any, allowed: str) -> None:
    expected = f"replay_{name}={value} is not allowed (allowed: {allowed})"
    assert refusal(**{name: value}) == expected


def test_a_negative_index_is_refused_as_it_was_typed() -> None:
    assert refusal(layers=(0, -1)).startswith("replay_layers=")
    assert "distinct indices" in refusal(layers=(0, -1))


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    known = ", ".join(ReplayConfig.model_fields)
    assert refusal(treshold=0.4) == f"replay_treshold is not known (allowed: {known})"


@pytest.mark.parametrize(("layers", "shown"), [((1, 1), "[1, 1]"), ((), "[]")])
def test_layers_must_be_distinct(layers: tuple[int, ...], shown: str) -> None:
    assert refusal(layers=layers) == f"replay_layers={shown} must be distinct indices, at least one"


def test_several_faults_are_one_sentence() -> None:
    text = refusal(threshold=2, steps=-1)
    assert text.split("; ") == [refusal(threshold=2), refusal(steps=-1)]


def test_a_missing_field_is_named() -> None:
    with pytest.raises(ValidationError) as caught:
        ReplayRecord()
    assert sentence(caught.value, ReplayRecord).startswith("pair is missing; ")


@pytest.mark.parametrize(("value", "name"), OTHER_VALUES.items())
def test_every_other_value_is_allowed(value: str, name: Any) -> None:
    assert getattr(ReplayConfig(**{value: name}), value) == name


def test_the_ends_of_the_ranges_are_allowed() -> None:
    ReplayConfig(threshold=1, top_k=2, layers=1, steps=0)
    assert ReplayConfig(layers=[0, 2]).layers == (0, 2)


@pytest.mark.parametrize(
    ("layers", "n_layers", "expected"),
    [
        ("auto", 28, range(16)),
        ("auto", 36, range(20)),
        ("auto", 5, range(2)),
        ("auto", 1, range(1)),
        (3, 5, range(3)),
        (5, 5, range(5)),
        ((4, 0, 2), 5, (0, 2, 4)),
    ],
)
def test_layer_indices(layers: Any, n_layers: int, expected: Any) -> None:
    assert ReplayConfig(layers=layers).layer_indices(n_layers) == tuple(expected)


@pytest.mark.parametrize(("layers", "shown"), [(99, "99"), (6, "6"), ((1, 5), "[1, 5]")])
def test_layers_beyond_the_decoder_are_refused(layers: Any, shown: str) -> None:
    with pytest.raises(UsageError) as caught:
        ReplayConfig(layers=layers).layer_indices(5)
    assert str(caught.value) == (
        f"layers={shown} is not possible: the text decoder has 5 layers "
        "(allowed: at most 5, or indices 0 to 4)"
    )


@pytest.mark.parametrize(("layers", "shown"), [(5, "5"), ((4,), "[4]")])
def test_reference_refuses_the_last_layer(layers: Any, shown: str) -> None:
    assert ReplayConfig(layers=layers).layer_indices(5)[-1] == 4
    with pytest.raises(UsageError) as caught:
        ReplayConfig(layers=layers, boundary="reference").layer_indices(5)
    assert str(caught.value) == (
        f"layers={shown} includes the last of 5 layers, which boundary=reference cannot match "
        "(allowed: the layers before it, or boundary=aligned)"
    )
    assert ReplayConfig(layers=4, boundary="reference").layer_indices(5) == (0, 1, 2, 3)


def test_fingerprint_changes_with_every_field() -> None:
    assert OTHER_VALUES.keys() == ReplayConfig.model_fields.keys() - {
        "checkpointing",
        "cuda_graphs",
    }
    prints = [ReplayConfig(**{name: value}).fingerprint() for name, value in OTHER_VALUES.items()]
    prints.append(ReplayConfig().fingerprint())
    assert len(set(prints)) == len(prints)
    assert all(len(text) == 12 and int(text, 16) >= 0 for text in prints)


def test_fingerprint_of_equal_settings_is_equal() -> None:
    assert ReplayConfig(step_size=10).fingerprint() == ReplayConfig().fingerprint()


def test_an_optimiser_that_takes_the_best_x_does_not_read_which_is_kept() -> None:
    assert "keep" not in ReplayConfig().unread
    assert ReplayConfig(optimizer="lbfgs").unread == {"keep": "optimizer=lbfgs"}
    for method in ("none", "inject"):
        unread = ReplayConfig(method=method, optimizer="lbfgs", tolerance=0.1).unread
        assert {unread[name] for name in ("keep", "optimizer", "tolerance")} == {f"method={method}"}


def test_a_config_cannot_be_changed() -> None:
    config = ReplayConfig()
    with pytest.raises(ValidationError, match="frozen"):
        config.steps = 3


def test_fixed_thresholds_of_the_release_are_its_digits() -> None:
    """Typed here once more from the description of the release, layer by layer, in nats."""
    released = {
        **{0: 4.812, 1: 4.781, 2: 3.734, 3: 3.297, 4: 3.328, 5: 3.812, 6: 4.312},
        **{7: 5.125, 8: 4.938, 9: 5.0, 10: 4.719, 11: 4.656, 12: 4.656, 13: 4.812},
    }
    assert ReplayConfig(thresholds="release").fixed_thresholds == released
    injecting = ReplayConfig(method="inject", boundary="reference")
    assert injecting.fixed_thresholds == released
    assert injecting.layer_indices(28) == (0, 1, 2, 3, 4, 5, 6)
    assert injecting.positions == "input"


def test_changed_settings_are_validated_as_the_first_ones_were():
    changed = ReplayConfig(threshold=0.2).changed(step_size=40, method="none")
    assert changed == ReplayConfig(threshold=0.2, step_size=40, method="none")
    with pytest.raises(ValidationError, match="threshold"):
        changed.changed(threshold=2)
