"""YAML files that people write: read within limits, so that no file can fill the memory."""

from pathlib import Path
from typing import Any

import yaml

from replay_core import UsageError
from replay_core.errors import shown

_BYTES, _DEPTH, _QUOTED = 64 * 1024, 16, 80


class _Plain(yaml.SafeLoader):
    """Reads plain data: no aliases, by which a short file means a long one, and no key twice."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Return a node, unless it is an alias or lies too deep."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            raise _refused(event, f"*{event.anchor} is an alias (allowed: values written out)")
        if self.depth == _DEPTH:
            raise _refused(event, f"values are nested deeper than {_DEPTH} levels")
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping, none of whose keys stands twice."""
        seen: set[Any] = set()
        for key, _ in node.value:
            if key.value in seen and isinstance(key, yaml.ScalarNode):
                raise _refused(key, f"{key.value[:_QUOTED]} stands twice")
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
        return super().construct_mapping(node, deep=deep)


def _refused(where: Any, why: str) -> yaml.YAMLError:
    return yaml.MarkedYAMLError(problem=why, problem_mark=where.start_mark)


def read_yaml(path: Path, what: str) -> Any:
    """Return what stands in a YAML file; ``what`` the file is.

    Raises:
        UsageError: it cannot be read, is larger than 64 KiB, or holds an alias, a key twice or
            values nested deeper than 16 levels.
    """
    named = f"{what} {shown(path)}"
    try:
        with path.open("rb") as file:
            data = file.read(_BYTES + 1)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UsageError(f"{named} cannot be read: {why}") from error
    if len(data) > _BYTES:
        raise UsageError(f"{named} has {path.stat().st_size} bytes (allowed: at most {_BYTES})")
    try:
        return yaml.load(data.decode("utf-8"), Loader=_Plain)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise UsageError(f"{named} is not YAML: {_reason(error)}") from error


def read_mapping(path: Path, what: str, wanted: str) -> dict[str, Any]:
    """Return the mapping in a YAML file; ``what`` the file is, and the mapping ``wanted`` there.

    Raises:
        UsageError: as :func:`read_yaml`, or it holds something else.
    """
    content = read_yaml(path, what)
    if not isinstance(content, dict):
        raise UsageError(
            f"{what} {shown(path)} holds {type(content).__name__}, not a mapping with {wanted}"
        )
    return {str(key): value for key, value in content.items()}


def _reason(error: Exception) -> str:
    """Return what is wrong and where, on one line."""
    mark = getattr(error, "problem_mark", None)
    why = getattr(error, "problem", None) or str(error)
    where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return " ".join(str(why).split())[: 2 * _QUOTED] + where
