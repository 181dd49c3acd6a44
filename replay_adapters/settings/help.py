"""What ``--help`` of the two commands says of this package's options.

Made from the options' own fields, so that it lists what is read and refused and nothing else. Needs
neither torch nor a harness.
"""

import ast
import inspect
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import NoReturn

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from replay_adapters.settings.run_options import AS_TYPED, ENGINE_PREFIX, PREFIX, RunOptions
from replay_core import ReplayConfig
from replay_core.decoding.options import EngineOptions

_WIDTH = 96
_LMMS_EVAL = """
Options of this package's models, in --model_args as NAME=VALUE with commas between. A pair's
preset wins over the defaults listed here, and what is given wins over both; `activation-replay
pairs` lists the pairs. `lmms_eval eval --help` lists lmms-eval's own arguments.
"""


def asks_for_help(argv: Sequence[str]) -> bool:
    """Return whether a command line, without a subcommand in front, asks for help."""
    own = bool(argv) and (argv[0].startswith("-") or argv[0] == "eval")
    return own and not {"-h", "--help"}.isdisjoint(argv)


def print_help(harness: Callable[[], object], options: str) -> NoReturn:
    """Let a harness print its own help, which it ends with an exit, and ``options`` behind it."""
    try:
        harness()
    except SystemExit as ended:
        if ended.code:
            raise
    print(options)
    sys.exit(0)


def lmms_eval_options() -> str:
    """Return the options as they are typed in lmms-eval."""
    return _LMMS_EVAL + listed({})


def listed(notes: Mapping[str, str]) -> str:
    """Return every option with its values, default and meaning.

    ``notes``, by option without ``replay_``, stand behind the meaning.
    """
    entries = []
    every: tuple[tuple[type[BaseModel], str], ...] = (
        (RunOptions, ""),
        (ReplayConfig, PREFIX),
        (EngineOptions, ENGINE_PREFIX),
    )
    for model, prefix in every:
        meanings = meanings_of(model)
        for name, field in model.model_fields.items():
            text = f"{meanings[name]} {notes.get(name.removeprefix(PREFIX), '')}".strip()
            told = textwrap.fill(text, _WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
            entries.append(f"\n  {prefix}{name}  ({_values(name, field)})\n{told}")
    return "\n".join(entries)


def _values(name: str, field: FieldInfo) -> str:
    allowed = AS_TYPED.get(name, field.description)
    default = str(field.default).lower() if isinstance(field.default, bool) else field.default
    return str(allowed) if default is None else f"{allowed}; default {default}"


def meanings_of(model: type[BaseModel]) -> dict[str, str]:
    """Return the text that stands below each field in a model's source, as one plain line."""
    (source,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    assert isinstance(source, ast.ClassDef)
    found = {}
    for field, text in pairwise(source.body):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
        ):
            found[field.target.id] = " ".join(str(text.value.value).replace("``", "").split())
    return found
