"""Another optimiser through the harness's own class, with an embedded pair at its preset."""

from replay_adapters.lmms_eval.bench import LmmsEvalBench
from replay_core.studies.answers import by_arm, run_arms
from replay_core.studies.arms import Arm


def test_fewer_steps_reach_the_presets_loss_and_samples_leave_when_they_have_converged(tmp_path):
    """The preset selects all positions, beside which thresholds are not read."""
    given = "pair=demo_drifted,replay_optimizer=lbfgs,replay_steps=18"
    bench = LmmsEvalBench(given, "replay_demo_dev", device="cpu", batch_size=4)
    few = bench.config
    assert (few.optimizer, few.steps, few.select) == ("lbfgs", 18, "all")
    stops = few.changed(steps=25, tolerance=0.01)
    arms = [
        Arm("preset", few.changed(optimizer="plain", steps=25)),
        Arm("few", few),
        Arm("stops", stops),
    ]
    found = by_arm(run_arms(bench, tmp_path, arms, bench.documents(4)))
    preset, few, stops = ([one.record for one in found[arm.name]] for arm in arms)
    assert [record.steps for record in (*preset, *few)] == [25] * 4 + [18] * 4
    for one, other in zip(preset, few, strict=True):
        assert other.loss_after < one.loss_after
    steps = [record.steps for record in stops]
    assert max(steps) < 25
    assert len(set(steps)) > 1  # each its own
    assert [len(one.losses) - 1 for one in found["stops"]] == steps
