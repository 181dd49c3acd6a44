"""Where the project's tasks and configs lie, in a checkout and in an installed wheel."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def resource(name: str) -> Path:
    """Return the folder ``tasks`` or ``configs``.

    A wheel carries both inside this package; an editable install finds them beside it.
    """
    packed = _PACKAGE / "_data" / name
    return packed if packed.is_dir() else _PACKAGE.parent / name


def expanded(path: str | Path) -> Path:
    """Return a path with a ``~`` in front of it read as the user's folder, where there is one."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # of a user whom there is not
        return Path(path)


def is_file(path: Path) -> bool:
    """Return whether a path is a file; one that is too long or cannot be looked at is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """Return whether a path is a folder; one that is too long or cannot be looked at is none."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False
