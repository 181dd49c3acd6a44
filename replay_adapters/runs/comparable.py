"""Whether two runs asked, answered and scored the same way, but for the replay itself."""

from replay_adapters.runs.run import ASPECTS, RunLog
from replay_core import UsageError


def check_comparable(a: RunLog, b: RunLog) -> None:
    """Raise UsageError, with the difference, unless two runs asked and scored the same way."""
    where = f"the two runs on {a.task} are not comparable"
    if a.harness != b.harness:
        raise UsageError(f"{where}: one is of {a.harness}, the other of {b.harness}")
    if a.metric != b.metric:
        raise UsageError(f"{where}: they are scored by {a.metric} and by {b.metric}")
    if a.items.keys() != b.items.keys():
        first, second = a.items.keys() - b.items.keys(), b.items.keys() - a.items.keys()
        example = min(first or second, key=str)
        raise UsageError(
            f"{where}: their documents differ ({len(first)} only in the first, {len(second)} only "
            f"in the second, as {example})"
        )
    for document, item in a.items.items():
        other = b.items[document]
        if item.target != other.target:
            raise UsageError(
                f"{where}: their documents differ (document {document} has the target "
                f"{item.target!r} in one and {other.target!r} in the other)"
            )
        if item.asked != other.asked:
            raise UsageError(f"{where}: their prompt differs at document {document}")
    for aspect in ASPECTS:
        mine, its = a.facts.get(aspect, {}), b.facts.get(aspect, {})
        for name in sorted(mine.keys() | its.keys()):
            if mine.get(name) != its.get(name):
                raise UsageError(
                    f"{where}: their {aspect} differs ({name} is {mine.get(name)} in one and "
                    f"{its.get(name)} in the other)"
                )
