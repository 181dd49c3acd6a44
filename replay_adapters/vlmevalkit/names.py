"""Model names: which pair and which arm a name of VLMEvalKit's ``--model`` stands for."""

from pathlib import Path

from replay_adapters.settings.pairs import PairFile, pair_names, read_pair
from replay_core import UsageError
from replay_core.errors import did_you_mean, shown

# Ending of a model's name → replay_method.
ARMS = {"replay": "replay", "none": "none", "base": "base", "inject": "inject"}


def display_name(name: str, pair: PairFile) -> str:
    """Return how a pair is called in model names: its policy's own name.

    The pair file's ``display`` where it has one; for a folder on disk the pair's name.
    """
    return pair.display or (name if Path(pair.policy).is_dir() else Path(pair.policy).name)


def model_names() -> dict[str, dict[str, str]]:
    """Return model name → arguments of its model, for every shipped pair and every arm."""
    names = {}
    for pair in pair_names():
        title = display_name(pair, read_pair(pair))
        for ending, method in ARMS.items():
            names[f"{title}-{ending}"] = {"pair": pair, "replay_method": method}
    return names


def arguments_of(name: str, stock: frozenset[str]) -> dict[str, str] | None:
    """Return the arguments of one of our model names; None for one of the harness's ``stock``.

    Raises:
        UsageError: it is neither.
    """
    ours = model_names()
    if name in ours:
        return dict(ours[name])
    if name in stock:
        return None
    hint = did_you_mean(name, [*ours, *stock])
    titles = sorted({known.rpartition("-")[0] for known in ours})
    raise UsageError(
        f"--model {shown(name)} is not a model of VLMEvalKit or of this package; {hint}"
        f"This package's models: one of {', '.join(titles)}, followed by -{', -'.join(ARMS)}"
    )
