"""Imports of the core point one way, and never out of it."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import replay_core

ROOT = Path(replay_core.__file__).parent
OUTSIDE = {"replay_adapters", "lmms_eval", "vlmeval", "tests"}


def modules_of(tree: ast.AST) -> set[str]:
    """Return what a module imports, also inside functions, but not what only type checkers read."""
    found: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            found |= {str(node.module), *(f"{node.module}.{name.name}" for name in node.names)}
        else:
            found |= modules_of(node)
    return found


def imports() -> dict[str, set[str]]:
    """Return module of the core → what it imports."""
    graph = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        name = ".".join(parts).removesuffix(".__init__")
        graph[name] = modules_of(ast.parse(path.read_text(encoding="utf-8"))) - {name}
    return graph


def test_imports_make_no_circle() -> None:
    graph = imports()
    assert {"replay_core.steered", "replay_core.pair.lora"} <= graph.keys()
    assert "replay_core.model.doors" in graph["replay_core.pair.lora"]  # the reader sees some
    inside = {name: targets & graph.keys() for name, targets in graph.items()}
    list(TopologicalSorter(inside).static_order())  # raises CycleError, which names the circle


def test_the_core_knows_no_harness() -> None:
    for name, targets in imports().items():
        assert not {target.split(".")[0] for target in targets} & OUTSIDE, name


def test_rooms_import_from_rooms_below() -> None:
    for name, targets in imports().items():
        if name.startswith("replay_core.model"):
            above = {"pair", "studies", "steered", "descent", "targets", "candidates", "lens"}
        elif name.startswith("replay_core.pair"):
            above = {"studies", "steered", "descent", "targets", "candidates", "lens"}
        elif not name.startswith("replay_core.studies"):
            above = {"studies"}
        else:
            continue
        rooms = {t.split(".")[1] for t in targets if t.startswith("replay_core.")}
        assert not rooms & above, name
