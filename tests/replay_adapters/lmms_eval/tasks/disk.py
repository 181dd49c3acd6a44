"""A disk that is full from the scoring on: no file may grow beyond a size."""

import resource
from typing import Any

_HARD = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (_HARD, _HARD))  # there is room again for this run


def doc_to_target(doc: dict[str, Any]) -> str:
    """Return an answer of 5,000 characters, so that samples take more room than results."""
    return f"{doc['answer']}".ljust(5000, ".")


def room_for_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Leave room for the results file and for some of the samples."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (16_384, _HARD))
    return {"even": 1.0}


def room_for_nothing(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Leave room for the beginnings of both files."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_048, _HARD))
    return {"even": 1.0}
