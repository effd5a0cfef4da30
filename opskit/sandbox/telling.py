"""What all happenings have in common: the forms in which a scenario tells them."""

from __future__ import annotations

import random
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from opskit.sandbox import moments

Tier = Literal["hobbyist", "professional", "studio"]
Count = Annotated[int, Field(ge=1, le=100_000)]


def counted(count: int | tuple[int, int], rng: random.Random) -> int:
    """A count, or one between a lowest and a highest."""
    return count if isinstance(count, int) else rng.randint(*count)


class Telling(BaseModel):
    """`when` is a moment ("90 minutes ago", "now") or a range ("90 minutes ago .. 5 minutes ago")."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    when: str = "now"

    @field_validator("when")
    @classmethod
    def _readable(cls, value: str) -> str:
        moments.span(value, datetime.now().astimezone())
        return value


class ByUsers(Telling):
    """Something that users do. `name` is their group; `of` lets the users of an earlier group act again."""

    what: str
    name: str | None = None
    of: str | None = None
    count: Count | tuple[Count, Count] = 1
    tier: Tier | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if isinstance(self.count, tuple) and self.count[0] > self.count[1]:
            raise ValueError("count: the lower number comes first")
        return self
