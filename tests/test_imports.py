"""Imports point one way: between the packages, between their rooms, and from file to file."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("replay_core", "replay_adapters")
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in PACKAGES
    for path in (ROOT / package).rglob("*.py")
}
Graph = dict[str, set[str]]


def imported(path: Path) -> Iterator[str]:
    """Yield the full name of all that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def file_of(name: str) -> str | None:
    """Return the module of ours that an imported name stands in."""
    while name and name not in FILES:
        name = name.rpartition(".")[0]
    return name or None


def files() -> Graph:
    """Return module → modules that it imports; the lazy root stands for none of its names."""
    graph: Graph = {}
    for module, path in FILES.items():
        found = {file_of(name) for name in imported(path)}
        graph[module] = {f for f in found if f} - {module, *PACKAGES}
    graph["replay_core"] = set()
    return graph


def rooms(package: str) -> Graph:
    """Return room → rooms that it imports; a file beside the rooms is one of its own."""

    def room(module: str) -> str:
        parts = module.split(".")[:2]
        return ".".join(parts)

    graph: Graph = {}
    for module, others in files().items():
        if module.startswith(f"{package}."):
            mine = graph.setdefault(room(module), set())
            mine |= {room(o) for o in others if o.startswith(f"{package}.")} - {room(module)}
    return graph


def check(graph: Graph) -> None:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_no_file_imports_itself_through_others():
    graph = files()
    assert graph["replay_core.steered"] >= {"replay_core.config", "replay_core.targets"}
    check(graph)


def test_rooms_of_the_adapters_import_one_way():
    graph = rooms("replay_adapters")
    assert "replay_adapters.settings" in graph["replay_adapters.session"]
    check(graph)


def test_the_core_knows_neither_adapters_nor_harnesses():
    for module, path in FILES.items():
        if module.startswith("replay_core"):
            names = {name.partition(".")[0] for name in imported(path)}
            assert not names & {"replay_adapters", "lmms_eval", "vlmeval", "loguru"}, module


@pytest.mark.parametrize(
    ("harness", "room"), [("lmms_eval", "lmms_eval"), ("vlmeval", "vlmevalkit")]
)
def test_a_harness_is_imported_in_its_own_room_only(harness: str, room: str):
    users = [
        module
        for module, path in FILES.items()
        if any(name.partition(".")[0] == harness for name in imported(path))
    ]
    assert users
    outside = [one for one in users if not one.startswith(f"replay_adapters.{room}")]
    assert not outside
