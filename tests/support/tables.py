"""Markdown tables read back by their headings, so that a test need not know a column's place."""

import re

Line = dict[str, str]


def tables(text: str) -> list[list[Line]]:
    """Return every Markdown table of a text, each as heading → cell of its lines, in order."""
    found: list[list[list[str]]] = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            found[-1].append([cell.strip() for cell in line.strip().strip("|").split("|")])
        elif found[-1]:
            found.append([])
    return [_read(lines) for lines in found if lines]


def _read(lines: list[list[str]]) -> list[Line]:
    headings, rule, *body = lines
    assert set("".join(rule)) == {"-"}, rule
    assert len(set(headings)) == len(headings), f"two columns have one heading: {headings}"
    return [dict(zip(headings, cells, strict=True)) for cells in body]


def section(text: str, heading: str) -> str:
    """Return what stands below a heading, up to the next one."""
    (found,) = re.findall(rf"^#+ {re.escape(heading)}$\n(.*?)(?=^#|\Z)", text, re.M | re.S)
    return found


def by(column: str, lines: list[Line]) -> dict[str, Line]:
    """Return lines by what stands in a column, which names each line."""
    found = {line[column]: line for line in lines}
    assert len(found) == len(lines), f"{column} does not tell the lines apart"
    return found
