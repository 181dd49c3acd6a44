"""Where the project's tasks and configs lie, in a checkout and in an installed wheel."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def resource(name: str) -> Path:
    """Return the folder ``tasks`` or ``configs``.

    A wheel carries both inside this package; an editable install finds them beside it.
    """
    packed = _PACKAGE / "_data" / name
    return packed if packed.is_dir() else _PACKAGE.parent / name
