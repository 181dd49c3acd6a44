"""What the results of studies are made of: frozen numbers, as the studies' files hold them."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from replay_core.studies.stats.resampling import Interval


class Result(BaseModel):
    """Numbers under the names that they have in a study's JSON, so that either gives the other."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def findings(self) -> dict[str, Any]:
        """Return what the JSON holds under ``findings``: the fields that were given."""
        return self.model_dump(exclude_unset=True)

    @classmethod
    def read(cls, findings: Mapping[str, Any]) -> Self:
        """Return the result that a study's JSON holds under ``findings``."""
        return cls.model_validate(findings)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _ends(value: Any) -> Any:
    return value.ends if isinstance(value, Interval) else value


Number = Annotated[float | None, BeforeValidator(_finite)]
"""None where the data gave no finite number: JSON has none either."""
Ends = Annotated[
    tuple[Number, Number],
    BeforeValidator(_ends),
    Field(description="both ends of the 95% interval, by a bootstrap over items"),
]


def shown(value: float | None) -> float:
    """Return a number as a format takes it: NaN in place of None."""
    return math.nan if value is None else value
