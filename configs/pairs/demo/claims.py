"""The paper's claims, and what each pair's studies say to them."""

from collections.abc import Callable, Mapping

from findings import Studies
from tables import Column, ends, points, table

from replay_core.studies.trial import ArmResult

Claim = Callable[[Studies], str]


def claims_table(pairs: Mapping[str, Studies]) -> str:
    """Return one table of all claims; ``pairs`` is what each pair's studies wrote."""
    columns: list[Column] = [("claim", lambda row: row[0])]
    columns += [(f"`{pair}`", _cell(found)) for pair, found in pairs.items()]
    return table(columns, _claims())


def _cell(found: Studies) -> Callable[[tuple[str, Claim]], str]:
    return lambda row: row[1](found)


def _claims() -> tuple[tuple[str, Claim], ...]:
    return (
        ("RLVR made the policy better than its base", _policy),
        ("low-entropy activations drift more (visual positions)", _drift("visual")),
        ("low-entropy activations drift more (text positions)", _drift("text")),
        ("… more than under weight noise of the same norm (visual)", _null("weight noise")),
        ("… more than in an SFT twin (visual)", _null("sft twin")),
        ("less low-entropy drift, lower perplexity of right answers", _rho("right", positive=True)),
        (
            "less low-entropy drift, higher perplexity of wrong answers",
            _rho("wrong", positive=False),
        ),
        (
            "injecting low-entropy base activations helps or keeps",
            _arm("intervention", "aligned visual low"),
        ),
        ("injecting high-entropy ones hurts", _arm("intervention", "aligned visual high")),
        ("replay improves accuracy (the pair's preset)", _arm("chosen", "the pair's preset")),
        ("its control: random x of the same norms", _arm("controls", "random x")),
        (
            "its control: a random mask as large as the low-entropy one",
            _arm("controls", "random mask"),
        ),
        ("replay improves Pass@8", _pass(8)),
    )


def verdict(low: float, high: float, *, null: float = 0.0, above: bool = True) -> str:
    """Return whether the interval [low, high] lies beyond ``null``, and on the claimed side.

    ``above``: the claim is that the value is larger than ``null``; else that it is smaller.
    """
    if low > null:
        return "**yes**" if above else "**the reverse**"
    if high < null:
        return "**the reverse**" if above else "**yes**"
    return "not shown"


def told(row: ArmResult) -> str:
    """Return an arm's difference in points with everything that a reader needs beside it."""
    return _told(row, row.difference, (row.low, row.high), f"{row.fixed}/{row.broken}")


def _policy(found: Studies) -> str:
    """Return what the policy gained on its base: the row of the base, read backwards."""
    row = found.controls.result.arms["base"]
    return _told(row, -row.difference, (-row.high, -row.low), f"{row.broken}/{row.fixed}")


def _told(row: ArmResult, difference: float, interval: tuple[float, float], items: str) -> str:
    clear = row.p < 0.05
    word = ("**gain**" if difference > 0 else "**loss**") if clear else "no difference shown"
    parts = [
        f"{word}: {points(difference, *interval, ' points')}",
        items,
        f"p = {row.p:.2g}",
        *([] if clear else [f"MDE {100 * row.minimum_detectable:.1f}"]),
        f"n = {row.n}",
    ]
    return ", ".join(parts)


def _drift(kind: str) -> Claim:
    def claim(found: Studies) -> str:
        entry = getattr(found.drift.result, kind)["policy"]
        ratio, (low, high) = entry.low_over_high, entry.low_over_high_interval
        if ratio is None or low is None:
            return "undefined: no drift at high entropy"
        return f"{verdict(low, high, null=1)}: low/high {ratio:.2g} {ends((low, high))}"

    return claim


def _null(null: str) -> Claim:
    def claim(found: Studies) -> str:
        entry = found.drift.result.visual.get(null)
        if entry is None:
            return "no such twin was given"
        value, (low, high) = entry.log_ratio_of_policy_to_this, entry.log_ratio_interval
        if value is None or low is None:
            return "undefined: one of them does not drift"
        return f"{verdict(low, high)}: log ratio {value:+.2g} {ends((low, high), '+.2g')}"

    return claim


def _rho(outcome: str, *, positive: bool) -> Claim:
    def claim(found: Studies) -> str:
        entry = getattr(found.perturbation.result, outcome)["low given high"]
        rho, (low, high) = entry.rho, entry.interval
        if rho is None:
            return "undefined"
        word = verdict(low, high, above=positive)
        return f"{word}: partial ρ {rho:+.2f} {ends((low, high), '+.2f')}, n = {entry.n}"

    return claim


def _arm(study: str, arm: str) -> Claim:
    return lambda found: told(getattr(found, study).result.arms[arm])


def _pass(k: int) -> Claim:
    def claim(found: Studies) -> str:
        row = found.passk.result.arms["policy + replay"].get(k)
        if row is None:
            return "too few samples"
        low, high = row.difference_low, row.difference_high
        gap = points(row.difference, low, high, " points")
        return f"{verdict(low, high)}: {gap}, n = {row.n}"

    return claim
