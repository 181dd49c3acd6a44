"""Is a gain replay's own? Everything that replay must be compared with before it is called so.

Zero steps and a pair of the policy with itself must change nothing; a random mask of the same size,
the high-entropy mask, another picture's targets and random x of the same norms tell what the gain
comes from; and votes of plain answers tell what the same seconds buy without replay.
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from replay_core.config import ReplayConfig
from replay_core.studies import trial
from replay_core.studies.answers import by_arm, run_arms
from replay_core.studies.arms import Arm, baseline
from replay_core.studies.bench import Bench
from replay_core.studies.trial import TrialResult

MOST_VOTES = 64


def run(
    bench: Bench,
    folder: Path,
    n: int | None,
    *,
    votes: int | None = None,
    metric: str | None = None,
    seed: int = 0,
) -> TrialResult:
    """Answer ``n`` documents under every control and write the ``controls`` files.

    Self-consistency has as many ``votes`` as replay's seconds buy where None.
    """
    if votes is None:
        votes = _affordable(bench, folder, bench.documents(n), metric)
    arms = arms_of(bench.config, votes, len(bench.pair.policy.layers))
    return trial.run(bench, folder, "controls", arms, n, metric=metric, seed=seed)


def arms_of(config: ReplayConfig, votes: int, n_layers: int) -> list[Arm]:
    """Return the baseline, replay as ``config`` has it, and the controls around it.

    Where ``config`` matches everything, the paper's mask stands beside it. The reference reading
    cannot match the last of ``n_layers`` layers: its arm does without it.
    """
    config = config.changed(method="replay")
    aligned = config.changed(boundary="aligned")
    inner = tuple(layer for layer in aligned.layer_indices(n_layers) if layer < n_layers - 1)
    before = config.changed(boundary="reference", layers=inner)
    low = [Arm("low-entropy mask", config.changed(select="low"))]
    return [
        baseline(config),
        Arm("base", config.changed(method="base")),
        Arm("replay", config),
        *(low if config.select == "all" else []),
        Arm("zero steps", config.changed(steps=0)),
        Arm("self-pair, aligned", aligned, "self_pair"),
        Arm("self-pair, reference", before, "self_pair"),
        Arm("random mask", config.changed(select="random")),
        Arm("high-entropy mask", config.changed(select="high")),
        Arm("shuffled base", config, "shuffled"),
        Arm("random x", config.changed(x="random")),
        Arm(f"self-consistency, {votes} votes", config.changed(method="none"), "votes", votes),
    ]


def _affordable(bench: Bench, folder: Path, documents: Sequence[int], metric: str | None) -> int:
    """Return how many plain answers cost as much as a replayed one, on the first documents.

    The seconds are those of the kept answers, so that a resumed study comes to the same number.
    """
    first = documents[: max(bench.batch_size, 16)]
    arms = [baseline(bench.config), Arm("replay", bench.config.changed(method="replay"))]
    answers = by_arm(run_arms(bench, folder, arms, first, metric=metric, label="timing"))
    seconds = {name: fmean(one.seconds for one in mine) for name, mine in answers.items()}
    return affordable_votes(seconds["replay"], seconds["none"])


def affordable_votes(replay_seconds: float, plain_seconds: float, most: int = MOST_VOTES) -> int:
    """Return how many plain answers cost as much as one replayed one, from 1 to ``most``.

    Both are seconds per sample, measured on the same machine in the same batches; the replayed
    answer's include the base's pass and the loop.
    """
    return max(1, min(most, round(replay_seconds / plain_seconds))) if plain_seconds > 0 else 1
