"""Where an answer ends whose decoding stopped at a text, by ``stop_strings`` of ``generate``."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def stops_of(new_ids: Tensor, generation: Mapping[str, Any]) -> dict[int, int]:
    """Return row → length in tokens, the stop included, of the answers that end at a stop string.

    ``new_ids`` (batch, t) are what ``generate`` returned behind the prompts, given ``generation``
    with ``stop_strings`` and their ``tokenizer``; without them no row ends there. A row that stops
    while others go on is padded, which is no end token and would count as the answer's own.
    """
    stops = generation.get("stop_strings")
    if not stops:
        return {}
    tokenizer, pad = generation["tokenizer"], generation.get("pad_token_id")
    stops = [stops] if isinstance(stops, str) else stops
    found = {}
    for number, row in enumerate(new_ids.tolist()):
        while row and row[-1] == pad:
            row.pop()
        # A token is a byte at least, so that the last ones hold the stop string if any do.
        tail = tokenizer.decode(row[-max(len(stop.encode()) for stop in stops) :])
        if any(stop in tail for stop in stops):
            found[number] = len(row)
    return found
