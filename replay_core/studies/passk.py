"""Does replay raise Pass@K, the share of items that one of K answers solves? See Figure 6."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import ConfigDict, Field

from replay_core.config import ReplayConfig
from replay_core.studies.answers import run_arms
from replay_core.studies.arms import Arm
from replay_core.studies.bench import Bench
from replay_core.studies.figures import PALETTE, canvas, literal, save
from replay_core.studies.report import write_study
from replay_core.studies.result import Result
from replay_core.studies.stats.passk import Curve, Samples, curve, difference
from replay_core.studies.trial import settings_of

POLICY = "policy"
TOLD = (1, 2, 4, 8, 16)


class PassAt(Result):
    """One arm's Pass@k with its 95% bootstrap interval over items, all shares."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    arm: str = Field(description="the arm's name")
    k: int = Field(description="number of answers of which one must be right")
    n: int = Field(description="number of items")
    samples: int = Field(description="answers per item, the smallest over items")
    share: float = Field(alias="pass", description="unbiased estimate (Chen et al. 2021)")
    low: float = Field(description="lower end of its interval")
    high: float = Field(description="upper end of it")
    difference: float | None = Field(None, description="from the baseline's; not given for itself")
    difference_low: float | None = Field(None, description="lower end of its interval")
    difference_high: float | None = Field(None, description="upper end of it")

    def findings(self) -> dict[str, Any]:
        """Return the numbers under the names of the JSON, in which ``share`` is ``pass``."""
        return self.model_dump(exclude_unset=True, by_alias=True)


class PassKResult(Result):
    """Pass@K of every arm."""

    arms: dict[str, dict[int, PassAt]] = Field(description="arm → k → Pass@k")

    def findings(self) -> dict[str, Any]:
        """Return arm → k → numbers, as the JSON holds them."""
        return {
            arm: {str(k): at.findings() for k, at in rows.items()}
            for arm, rows in self.arms.items()
        }

    @classmethod
    def read(cls, findings: Mapping[str, Any]) -> Self:
        """Return the result that a study's JSON holds under ``findings``."""
        return cls.model_validate({"arms": findings})

    def told(self) -> str:
        """Return one line per arm, for people."""
        lines = []
        for arm, rows in self.arms.items():
            shown = [rows[k] for k in TOLD if k in rows]
            cells = [f"@{at.k} {at.share:.3f} [{at.low:.3f}, {at.high:.3f}]" for at in shown]
            lines.append(f"  {arm:<18}{'  '.join(cells)}")
        return "\n".join(lines)


def run(
    bench: Bench,
    folder: Path,
    n: int | None,
    *,
    samples: int = 16,
    temperature: float = 1.0,
    metric: str | None = None,
    seed: int = 0,
) -> PassKResult:
    """Sample every arm's answers to ``n`` documents and write the ``passk`` files."""
    documents, arms = bench.documents(n), arms_of(bench.config)
    answers = run_arms(
        bench,
        folder,
        arms,
        documents,
        metric=metric,
        repeats=samples,
        sampling={"temperature": temperature},
        label="passk",
    )
    logged: dict[str, dict[Any, list[float]]] = {arm.name: defaultdict(list) for arm in arms}
    for one in answers:
        logged[one.arm][one.document].append(one.correct)
    asked = {"samples": samples, "temperature": temperature}
    settings = settings_of(bench, arms, len(documents), metric, **asked)
    return report(folder, logged, settings, baseline=POLICY, seed=seed)


def arms_of(config: ReplayConfig) -> list[Arm]:
    """Return the four arms of the paper's Figure 6, with direct injection beside them."""
    methods = {
        "base": "base",
        POLICY: "none",
        f"{POLICY} + replay": "replay",
        f"{POLICY} + inject": "inject",
    }
    return [Arm(name, config.changed(method=method)) for name, method in methods.items()]


def report(
    folder: Path,
    logged: Mapping[str, Samples],
    settings: Mapping[str, Any],
    *,
    baseline: str,
    seed: int = 0,
) -> PassKResult:
    """Write curves, differences from ``baseline`` and the figure of logged samples.

    Raises:
        ValueError: the arms do not hold the same items, or there are none.
        UsageError: a score is neither 0 nor 1.
    """
    curves = {name: curve(samples, seed=seed) for name, samples in logged.items()}
    gaps = {
        name: difference(logged[baseline], samples, seed=seed)
        for name, samples in logged.items()
        if name != baseline
    }
    result = PassKResult(
        arms={
            name: {k: _at(name, k, arm, gaps.get(name)) for k in arm.ks}
            for name, arm in curves.items()
        }
    )
    write_study(
        folder,
        "passk",
        settings={**settings, "baseline": baseline},
        table=[at.findings() for rows in result.arms.values() for at in rows.values()],
        findings=result.findings(),
        seed=seed,
    )
    first = curves[baseline]
    title = f"Pass@K, n = {first.n} items, {first.samples} samples each, 95% item bootstrap"
    draw(folder / "passk.png", curves, title)
    return result


def _at(name: str, k: int, arm: Curve, gap: Curve | None) -> PassAt:
    index = arm.ks.index(k)
    given: dict[str, Any] = {"arm": name, "k": k, "n": arm.n, "samples": arm.samples}
    given |= {"share": arm.estimate[index], "low": arm.low[index], "high": arm.high[index]}
    if gap is not None and k in gap.ks:
        index = gap.ks.index(k)
        ends = {"difference_low": gap.low[index], "difference_high": gap.high[index]}
        given |= {"difference": gap.estimate[index], **ends}
    return PassAt(**given)


def draw(path: Path, curves: Mapping[str, Curve], title: str) -> None:
    """Draw the arms' curves with their bands (the form of Xing et al. 2025, Figure 6)."""
    figure, (axes,) = canvas(6.2, 4.2)
    lines = ("-", "-", "--", ":")
    for number, (name, arm) in enumerate(curves.items()):
        colour, line = PALETTE[number % len(PALETTE)], lines[number % len(lines)]
        axes.plot(
            arm.ks,
            arm.estimate,
            line,
            marker="o",
            markersize=3.5,
            color=colour,
            label=literal(name),
        )
        axes.fill_between(arm.ks, arm.low, arm.high, color=colour, alpha=0.12, linewidth=0)
    axes.set(xlabel="K", ylabel="Pass@K", title=literal(title), xscale="log")
    ks = max((arm.ks for arm in curves.values()), key=len)
    ticks = [k for k in TOLD if k <= ks[-1]]
    axes.set_xticks(ticks, [str(k) for k in ticks])
    axes.minorticks_off()
    axes.legend(frameon=False, loc="lower right")
    save(figure, path)
