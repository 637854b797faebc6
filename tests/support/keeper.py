"""A keeper of a gate that says what a test wants: what the status of a bridge asks of one."""

from __future__ import annotations

from collections.abc import Collection

from attrs import define, field
from twisted.internet.defer import Deferred, succeed


@define
class QuietKeeper:
    """One of a bridge with one line."""

    tokens: int = 24
    live: Collection[str] = ("alice",)
    trouble: str = ""
    ignored: str = ""
    answer: Deferred[int | None] | int | None = 7
    """What the gate says that it has refused."""
    kernel: Deferred[int | None] | int | None = 24
    """What the gate says that the kernel holds."""
    asked: int = field(default=0, init=False)

    def refused(self) -> Deferred[int | None]:
        """See `IGate.refused`."""
        self.asked += 1
        return self.answer if isinstance(self.answer, Deferred) else succeed(self.answer)

    def held(self) -> Deferred[int | None]:
        """See `IGate.held`."""
        return self.kernel if isinstance(self.kernel, Deferred) else succeed(self.kernel)

    @property
    def admitted(self) -> int:
        """See `Keeper.admitted`: it has no line of scheme `knock`."""
        return self.tokens
