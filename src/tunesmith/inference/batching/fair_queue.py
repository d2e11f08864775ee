"""Who is served next: of those who wait, the tenant that has had the least.

The virtual token counter of Sheng et al. 2023, "Fairness in Serving Large Language Models": a tenant's counter grows
with what it is served, a token written weighing twice a token read, and whoever comes back after a pause starts where
the least of those who wait stands (where nobody waits: whoever did last), so that nobody saves up. Tenants that stay
away are forgotten.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

Waiting = TypeVar("Waiting")

READ_WEIGHT = 1
WRITTEN_WEIGHT = 2
_TENANTS_REMEMBERED = 4096


class FairQueue(Generic[Waiting]):
    """Requests that wait, by tenant, each tenant's in order."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[Waiting]] = {}
        self._served: dict[str, int] = {}
        self._last: str | None = None

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def put(self, tenant: str, waiting: Waiting) -> None:
        """Add one at the end of its tenant's."""
        if tenant not in self._waiting:
            last = 0 if self._last is None else self._served.get(self._last, 0)
            others = [self._served[name] for name in self._waiting]
            self._served[tenant] = max(self._served.get(tenant, 0), min(others, default=last))
            self._waiting[tenant] = deque()
        self._waiting[tenant].append(waiting)

    def share_of(self, tenant: str) -> int:
        """How many would wait if every tenant had as many waiting as this one."""
        tenants = len(self._waiting.keys() | {tenant})
        return tenants * len(self._waiting.get(tenant, ()))

    def in_turn(self) -> list[tuple[str, Waiting]]:
        """The first of each tenant, the least served tenant first."""
        tenants = sorted(self._waiting, key=lambda tenant: self._served[tenant])
        return [(tenant, self._waiting[tenant][0]) for tenant in tenants]

    def take(self, tenant: str) -> Waiting:
        """Remove a tenant's first."""
        waiting = self._waiting[tenant]
        taken = waiting.popleft()
        self._last = tenant
        if not waiting:
            del self._waiting[tenant]
        return taken

    def drop_if(self, is_unwanted: Callable[[Waiting], bool]) -> list[Waiting]:
        """Remove all that are unwanted, wherever they stand, and give them back."""
        dropped = [one for waiting in self._waiting.values() for one in waiting if is_unwanted(one)]
        for tenant in list(self._waiting):
            kept = deque(one for one in self._waiting[tenant] if not is_unwanted(one))
            if kept:
                self._waiting[tenant] = kept
            else:
                del self._waiting[tenant]
        return dropped

    def charge(self, tenant: str, *, read: int = 0, written: int = 0) -> None:
        """Count what a tenant was served."""
        self._served[tenant] = self._served.get(tenant, 0) + READ_WEIGHT * read + WRITTEN_WEIGHT * written
        if len(self._served) > _TENANTS_REMEMBERED:
            kept = {*self._waiting, self._last, tenant}
            self._served = {name: count for name, count in self._served.items() if name in kept}
