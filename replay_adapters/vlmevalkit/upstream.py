"""VLMEvalKit as it is found: its package or a checkout, what it knows, and its run script."""

import ast
import importlib
import importlib.util
import re
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import ModuleType

from replay_core import UsageError
from replay_core.errors import did_you_mean, shown


def refuse_unknown_flags(flags: Iterable[str], ours: Iterable[str], checkout: Path | None) -> None:
    """Name a flag that the run script does not have, before it is imported to say so.

    ``ours`` are the flags that are taken beside the script's own.

    Raises:
        UsageError: with the flags that there are.
    """
    package = package_folder(checkout)
    scripts = [path for path in (package.parent / "run.py", package / "run.py") if path.is_file()]
    source = scripts[0].read_text(encoding="utf-8") if scripts else ""
    known = [*ours, *re.findall(r"add_argument\(\s*['\"](--[\w-]+)", source)]
    for flag in flags:
        if not any(name.startswith(flag) for name in known):
            hint = did_you_mean(flag, known)
            raise UsageError(
                f"{shown(flag)} is not an argument; {hint}Arguments: {', '.join(known)}"
            )


def stock_models(checkout: Path | None) -> frozenset[str]:
    """Return the names that may stand in the harness's table of models, read from its source."""
    tree = ast.parse((package_folder(checkout) / "config.py").read_text(encoding="utf-8"))
    dicts = (node for node in ast.walk(tree) if isinstance(node, ast.Dict))
    keys = (key for node in dicts for key in node.keys if isinstance(key, ast.Constant))
    return frozenset(str(key.value) for key in keys)


def stock_classes(checkout: Path | None) -> frozenset[str]:
    """Return the names that the harness's model packages import, read from their source."""
    names: set[str] = set()
    for part in ("vlm", "api"):
        source = package_folder(checkout) / part / "__init__.py"
        tree = ast.parse(source.read_text(encoding="utf-8"))
        imports = (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom))
        names |= {alias.asname or alias.name for node in imports for alias in node.names}
    return frozenset(names)


def package_folder(checkout: Path | None) -> Path:
    """Return the folder of the package ``vlmeval``, without importing it.

    Raises:
        UsageError: it is not there.
    """
    if checkout is not None:
        if not (checkout / "vlmeval" / "config.py").is_file():
            raise UsageError(
                f"--vlmevalkit {shown(checkout)} is not a checkout: it has no vlmeval/config.py"
            )
        return checkout / "vlmeval"
    found = importlib.util.find_spec("vlmeval")
    if found is None or not found.submodule_search_locations:
        raise UsageError(
            "VLMEvalKit is not installed; install it with: pip install "
            "'activation-replay[vlmevalkit]', or give --vlmevalkit DIR"
        )
    return Path(found.submodule_search_locations[0])


def harness_version() -> dict[str, str]:
    """Return the version of the harness that is running, under the name that it is installed by.

    A checkout says only what its own ``__version__`` is.
    """
    import vlmeval

    try:
        found = distribution("ms-vlmeval")
    except PackageNotFoundError:
        return {"vlmeval": str(vlmeval.__version__)}
    installed = Path(str(found.locate_file("vlmeval"))).resolve()
    if Path(str(vlmeval.__file__)).resolve().parent != installed:
        return {"vlmeval": str(vlmeval.__version__)}
    return {"ms-vlmeval": found.version}


def load_run_script(checkout: Path | None) -> ModuleType:
    """Return the harness's run script as a module: the installed one, or a checkout's.

    A checkout's ``run.py`` gets a name that does not begin with "vlmeval": upstream's loggers would
    take it for one of their own without a parent, and lose its messages.
    """
    if checkout is None:
        return importlib.import_module("vlmeval.run")
    sys.path.insert(0, str(checkout.resolve()))
    script = checkout / "run.py"
    if not script.is_file():
        return importlib.import_module("vlmeval.run")
    spec = importlib.util.spec_from_file_location("run", script.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["run"] = module
    spec.loader.exec_module(module)
    return module
