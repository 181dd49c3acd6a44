"""A learned map from the policy's features to x: alone, and as the beginning of the loop."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from replay_core import Pair, ReplayConfig, Steered, UsageError
from replay_core.amortised import Amortised, Provenance, learn
from replay_core.answer import answer
from replay_core.config import START_FORMAT, Start
from replay_core.descent import descend, describe
from replay_core.errors import sentence
from replay_core.outcome import Outcome
from replay_core.pair.pair import frozen
from replay_core.record import library_versions
from tests.replay_core.helpers import Loaded, counted, outcomes, run, same_answer, stable, told, toy

Save = Callable[..., str]


def provenance(pair: Pair, **changes: Any) -> Provenance:
    known = {"policy_revision": pair.policy_revision, "base_revision": pair.base_revision}
    how = {"width": 4, "epochs": 1, "learning_rate": 0.1, "seed": 0, "losses": (1.0,)}
    what = {"pair": "tiny", "dtype": "float32", "task": "t", "documents": (0, 3), "n": 4}
    more = {"config": {}, "versions": library_versions()}
    return Provenance(**{**known, **how, **what, **more, **changes})


def drawn(pair: Pair, size: float = 0.02) -> Amortised:
    """Return a map of small random weights."""
    made = Amortised(pair.policy.head.in_features, 4)
    generator = torch.Generator().manual_seed(7)
    for parameter in made.parameters():
        parameter.data = size * torch.randn(parameter.shape, generator=generator)
    made.mean = torch.randn(made.mean.shape, generator=generator)
    made.deviation = torch.tensor(1.5)
    return made.requires_grad_(False)


@pytest.fixture
def save(one: Loaded, tmp_path: Path) -> Save:
    def write(amortised: Amortised | None = None, **changes: Any) -> str:
        path = tmp_path / "map.safetensors"
        (amortised or drawn(one.pair)).save(path, provenance(one.pair, **changes))
        return str(path)

    return write


def losses_at(one: Loaded, config: ReplayConfig, inputs: Any, x: Tensor) -> Tensor:
    return Steered(one.pair, config.changed(start=None)).problem(inputs).losses(x)


def learned(one: Loaded) -> tuple[Amortised, tuple[float, ...]]:
    """Return a map that was learned on one batch, and the mean losses."""
    with frozen(one.policy):
        problem = Steered(one.pair, stable()).problem(one.batch("mixed"))
        return learn([problem], width=8, epochs=30, learning_rate=1e-2, seed=3)


def test_a_fresh_map_is_zero_and_any_map_the_formula() -> None:
    features = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    assert not Amortised(6, 3)(features).any()
    made = Amortised(6, 3)
    made.mean, made.deviation = torch.arange(6.0), torch.tensor(2.0)
    made.down.weight.data.normal_(generator=torch.Generator().manual_seed(1))
    made.down.bias.data.fill_(0.5)
    seen = (features - made.mean) / 2
    inner = functional.silu(seen @ made.up.weight.T + made.up.bias)
    expected = 2 * (inner @ made.down.weight.T + 0.5)
    torch.testing.assert_close(made(features), expected)
    assert made(features.bfloat16()).dtype == torch.float32


def test_learning_lowers_the_loss_and_only_the_maps_weights_move(one: Loaded) -> None:
    weights = [value.clone() for value in one.policy.state_dict().values()]
    amortised, means = learned(one)
    assert len(means) == 30
    assert means[-1] < 0.8 * means[0]
    inputs, config = one.batch("mixed"), stable()
    features = Steered(one.pair, config).problem(inputs).features.flat
    before = losses_at(one, config, inputs, torch.zeros_like(features))
    assert means[0] == pytest.approx(float(before.mean()), rel=1e-5)
    after = losses_at(one, config, inputs, amortised(features))
    assert (after[::2] < before[::2]).all()
    again, same = learned(one)
    assert same == means
    assert torch.equal(again.up.weight, amortised.up.weight)
    assert not any(parameter.requires_grad for parameter in amortised.parameters())
    assert all(map(torch.equal, weights, one.policy.state_dict().values()))


def test_a_batch_without_a_finite_gradient_teaches_nothing(one: Loaded) -> None:
    good = Steered(one.pair, stable()).problem(one.batch("one_image"))
    flat = torch.full_like(good.features.flat, float("nan"))
    broken = replace(good, features=replace(good.features, flat=flat))
    amortised, means = learn([broken], width=4, epochs=2, learning_rate=0.1)
    assert not amortised.down.weight.any()
    assert all(value != value for value in means)


def test_a_file_gives_back_the_map_and_its_provenance(one: Loaded, save: Save) -> None:
    start = Start.model_validate(save(n=77))
    found, told_of = Amortised.load(start)
    features = torch.ones(3, one.pair.policy.head.in_features)
    assert torch.equal(found(features), drawn(one.pair)(features))
    assert told_of == provenance(one.pair, n=77)
    assert all(field.description for field in Provenance.model_fields.values())


def test_the_loop_begins_where_the_map_says(one: Loaded, save: Save) -> None:
    inputs, config = one.batch("mixed"), stable(steps=0)
    amortised, _ = learned(one)
    path = save(amortised)
    plain = run(one, inputs, config.changed(steps=4))
    found = run(one, inputs, config.changed(start=path))
    features = found.features.flat
    assert torch.equal(found.delta, amortised(features))
    expected = losses_at(one, config, inputs, amortised(features))
    assert outcomes(found) == ["applied", "no_visual_tokens", "applied"]
    for row in (0, 2):
        sample = found.samples[row]
        assert sample.loss_before == pytest.approx(plain.samples[row].loss_before, rel=1e-6)
        assert sample.loss_after == sample.loss_start == pytest.approx(float(expected[row]))
        assert sample.loss_after < sample.loss_before
        assert (sample.steps, sample.rose) == (0, False)
    further = run(one, inputs, config.changed(start=path, steps=4))
    for row in (0, 2):
        assert further.samples[row].losses[0] == found.samples[row].loss_after
        assert further.samples[row].loss_after < found.samples[row].loss_after
        assert further.samples[row].steps == 4
    assert plain.samples[0].loss_start is None
    assert not torch.equal(further.delta, plain.delta)


def test_where_the_map_does_harm_the_loop_begins_at_zero(one: Loaded, save: Save) -> None:
    inputs, config = one.batch("two_images"), stable(steps=3)
    plain = run(one, inputs, config)
    found = run(one, inputs, config.changed(start=save(drawn(one.pair, size=5.0))))
    assert torch.equal(found.delta, plain.delta)
    for sample, other in zip(found.samples, plain.samples, strict=True):
        assert sample.losses == other.losses
        assert sample.loss_start == sample.loss_before == other.loss_before


def test_outcomes_compare_with_no_x_wherever_the_loop_begins() -> None:
    """The start is the minimum, 0; there is nothing to be found; the start does harm."""
    config = ReplayConfig(steps=3, step_size=1e-3)
    problem = toy(config, curve=[2.0, 2.0, 2.0], slope=[-1.0, 0.0, -1.0], start=[0.5, 0.0, 0.5])
    begun = problem.begun_at(torch.tensor([[0.5, 0.5], [0.5, 0.5], [9.0, 9.0]]))
    found = descend(begun)
    assert found.outcomes == (Outcome.APPLIED, Outcome.NO_DRIFT, Outcome.APPLIED)
    assert found.losses[0, 0] == 0  # at once, and below every rounding floor
    assert torch.equal(found.delta[0], torch.tensor([0.5, 0.5]))
    assert not found.delta[1].any()
    assert found.losses[2, 0] == 0.5  # it began at 0
    samples = describe(begun, found)
    assert [sample.loss_before for sample in samples] == [0.5, 0.0, 0.5]
    assert [sample.loss_start for sample in samples] == [0.0, 0.0, 0.5]


def test_a_sample_that_diverges_from_the_start_is_left_without_it() -> None:
    config = ReplayConfig(steps=4, step_size=10.0)
    problem = toy(config, curve=[2.0], slope=[-1.0], start=[1.0])
    begun = problem.begun_at(torch.tensor([[0.4, 0.4]]))
    found = descend(begun)
    assert found.outcomes == (Outcome.DIVERGED,)
    assert not found.delta.any()
    (sample,) = describe(begun, found)
    assert sample.loss_before == 1
    assert sample.rose


def test_above_its_start_but_below_no_x_is_no_divergence() -> None:
    config = ReplayConfig(steps=1, step_size=1.05)
    problem = toy(config, curve=[2.0], slope=[-1.0], start=[1.0])
    begun = problem.begun_at(torch.tensor([[0.49, 0.52]]))
    found = descend(begun)
    (sample,) = describe(begun, found)
    assert sample.outcome is Outcome.APPLIED
    assert sample.loss_start < sample.loss_after < sample.loss_before
    assert not sample.rose


def test_what_is_kept_of_an_earlier_x_is_not_begun_anew(one: Loaded, save: Save) -> None:
    inputs, config = one.batch("one_image"), stable(steps=2)
    amortised, _ = learned(one)
    config = config.changed(start=save(amortised))
    kept = [torch.full((3, one.pair.policy.head.in_features), 0.001)]
    found = Steered(one.pair, config.changed(steps=0)).optimise(inputs, kept=kept)
    assert torch.equal(found.delta[:3], kept[0])
    assert torch.equal(found.delta[3:], amortised(found.features.flat)[3:])


def test_the_map_alone_asks_no_base_and_takes_no_step(one: Loaded, save: Save) -> None:
    inputs = one.batch("mixed")
    config = stable(method="amortised", start=save(drawn(one.pair), base_revision="another"))
    with counted(base=one.pair.base.decoder, policy=one.pair.policy.decoder) as calls:
        steered = Steered(one.pair, config)
        found = steered.optimise(inputs)
    assert calls == {"base": [], "policy": []}
    assert outcomes(found) == ["applied", "no_visual_tokens", "applied"]
    assert torch.equal(found.delta, drawn(one.pair)(found.features.flat))
    assert [sample.visual_tokens for sample in found.samples][1] == 0
    assert found.samples[0].delta_norm == pytest.approx(
        float(found.of(0).norm(dim=-1).mean()), rel=1e-5
    )
    assert found.samples[0].changed_fraction > 0.9
    begun = run(one, inputs, stable(steps=0))
    by_hand = replace(begun, delta=found.delta)
    ids = steered.decode(inputs, found, **told())
    assert same_answer(ids, Steered(one.pair, stable()).decode(inputs, by_hand, **told()))
    assert not same_answer(ids, steered.decode(inputs, begun, **told()))
    made = answer(steered, inputs, {"max_new_tokens": 2})
    record = made.records[0]
    assert (record.method, record.loss_before, record.steps) == ("amortised", None, 0)


def test_a_map_that_gives_no_numbers_leaves_the_sample_alone(one: Loaded, save: Save) -> None:
    made = drawn(one.pair)
    made.down.bias.data[0] = float("inf")
    found = run(one, one.batch("one_image"), stable(method="amortised", start=save(made)))
    assert outcomes(found) == ["non_finite"]
    assert not found.delta.any()
    nothing = Amortised(one.pair.policy.head.in_features, 2)
    found = run(one, one.batch("one_image"), stable(method="amortised", start=save(nothing)))
    assert outcomes(found) == ["no_effect"]


def test_a_map_of_other_checkpoints_is_refused(one: Loaded, save: Save) -> None:
    for role, config in (
        ("policy", stable(start=save(policy_revision="sha256:x"))),
        ("policy", stable(method="amortised", start=save(policy_revision="sha256:x"))),
        ("base", stable(start=save(policy_revision=one.pair.policy_revision, base_revision="b"))),
    ):
        save(**{f"{role}_revision": "sha256:x"})
        config = config.changed(start=config.start.path)
        with pytest.raises(UsageError, match=f"was learned for another {role} "):
            Steered(one.pair, config)
    Steered(one.pair, config.changed(method="none"))


def test_a_file_that_was_written_anew_or_is_damaged_is_refused(one: Loaded, save: Save) -> None:
    config = stable(start=save())
    save(n=5)
    with pytest.raises(UsageError, match="written anew since"):
        Steered(one.pair, config)
    path = Path(save())
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(UsageError, match=r"start=.* cannot be used"):
        Steered(one.pair, stable(start=str(path)))


@pytest.mark.parametrize("what", ["missing", "text", "folder", "weights"])
def test_what_is_no_map_is_refused_when_it_is_named(one: Loaded, tmp_path: Path, what: str) -> None:
    path = tmp_path / "file"
    if what == "text":
        path.write_text("no map at all")
    elif what == "folder":
        path.mkdir()
    elif what == "weights":
        path = Path(one.folders.policy) / "model.safetensors"
    with pytest.raises(ValueError, match="start") as refused:
        ReplayConfig(start=str(path))
    told_so = sentence(refused.value, ReplayConfig, "replay_")  # type: ignore[arg-type]
    assert told_so == (
        f"replay_start={path} is not allowed (allowed: none, or a file that "
        "`activation-replay amortise` wrote)"
    )


def test_settings_know_a_map_by_its_content(save: Save) -> None:
    first = stable(start=save())
    assert first.changed(steps=3).start == first.start
    assert ReplayConfig(**first.model_dump(mode="json")) == first
    other = stable(start=save(n=5))
    assert other.start.path == first.start.path
    assert other.fingerprint() != first.fingerprint()
    assert ReplayConfig(start="none").start is None
    assert START_FORMAT.encode() in Path(first.start.path).read_bytes()
    with pytest.raises(ValueError, match="method=amortised needs start=FILE"):
        ReplayConfig(method="amortised")
