"""A shelf: Stripe objects of one kind, by id, always in order of creation.

Stripe lists newest first and pages by object id. A shelf keeps that order as objects arrive, so that a page costs
the same whether the shelf holds a hundred objects or a hundred thousand.
"""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass
from typing import Any

JSON = dict[str, Any]
Rank = tuple[int, int, str]  # created (whole seconds, so often equal), arrival, id

FOREVER = 2**63


@dataclass(frozen=True)
class Cursor:
    """Where a page starts, as the API's list parameters say it."""

    limit: int = 10
    starting_after: str | None = None
    ending_before: str | None = None
    created_from: int = 0
    created_to: int = FOREVER


class Shelf(MutableMapping[str, JSON]):
    """Objects by id. An object's `created` and `customer` never change once it is shelved, as at Stripe."""

    def __init__(self) -> None:
        self._objects: dict[str, JSON] = {}
        self._ranks: dict[str, Rank] = {}
        self._order: list[Rank] = []
        self._by_customer: dict[str, list[Rank]] = {}
        self._arrivals = 0

    def __getitem__(self, key: str) -> JSON:
        return self._objects[key]

    def __setitem__(self, key: str, value: JSON) -> None:
        if key not in self._objects:
            self._arrivals += 1
            self._ranks[key] = rank = (value["created"], self._arrivals, key)
            insort(self._order, rank)
            if customer := value.get("customer"):
                insort(self._by_customer.setdefault(customer, []), rank)
        self._objects[key] = value

    def __delitem__(self, key: str) -> None:
        rank = self._ranks.pop(key)
        self._order.remove(rank)
        if customer := self._objects.pop(key).get("customer"):
            self._by_customer[customer].remove(rank)

    def __iter__(self) -> Iterator[str]:
        return iter(self._objects)

    def __len__(self) -> int:
        return len(self._objects)

    def copy(self) -> Shelf:
        """Another shelf with the very same objects, for those that never change."""
        twin = Shelf()
        twin._objects, twin._ranks = dict(self._objects), dict(self._ranks)
        twin._order, twin._arrivals = list(self._order), self._arrivals
        twin._by_customer = {customer: list(ranks) for customer, ranks in self._by_customer.items()}
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> Shelf:
        twin = self.copy()
        twin._objects = json.loads(json.dumps(self._objects))  # they are JSON: many times faster than copying
        return twin

    def add(self, value: JSON) -> JSON:
        self[value["id"]] = value
        return value

    def of_customer(self, customer: str) -> list[JSON]:
        """A customer's objects, newest first."""
        return [self._objects[key] for _, _, key in reversed(self._by_customer.get(customer, []))]

    def page(
        self, keep: Callable[[JSON], bool], cursor: Cursor, customer: str | None = None
    ) -> tuple[list[JSON], bool]:
        """One page of what `keep` accepts, newest first, and whether more follow in the direction of travel."""
        order = self._order if customer is None else self._by_customer.get(customer, [])
        lowest = bisect_left(order, (cursor.created_from,))
        highest = bisect_right(order, (cursor.created_to, FOREVER, ""))
        if cursor.ending_before is not None:
            lowest = max(lowest, bisect_right(order, self._ranks[cursor.ending_before]))
            positions = range(lowest, highest)  # the nearest newer ones first
        else:
            if cursor.starting_after is not None:
                highest = min(highest, bisect_left(order, self._ranks[cursor.starting_after]))
            positions = range(highest - 1, lowest - 1, -1)
        found: list[JSON] = []
        for position in positions:
            value = self._objects[order[position][2]]
            if keep(value):
                if len(found) == cursor.limit:
                    return _newest_first(found, cursor), True
                found.append(value)
        return _newest_first(found, cursor), False


def _newest_first(found: list[JSON], cursor: Cursor) -> list[JSON]:
    return found[::-1] if cursor.ending_before is not None else found
