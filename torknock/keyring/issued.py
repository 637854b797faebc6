"""A line that the bridge has issued, as a value. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from torknock.protocol.bridge_line import Line


@dataclass(frozen=True, slots=True)
class Issued:
    """A line, and what became of it. Times are seconds since 1970."""

    name: str
    line: Line
    created: int
    expires: int | None
    revoked: int | None
    note: str = ""
    """The operator's own words about it."""
    last_used: int | None = None
    """The day on which it last opened a connection, in days since 1970 (UTC)."""
    connections: int = 0
    """How many it has opened."""
    cut: bool = False
    """Whether its revocation ends the connections that it has opened."""
    addresses: tuple[str, ...] = ()
    """The bridge's addresses, IP literals, that it was printed with: one of them is what its client dials."""

    @property
    def erased(self) -> bool:
        """Whether its secret is erased, so that its ISNs cannot be told; `line.secret` is then empty."""
        return not self.line.secret

    def is_live(self, now: float) -> bool:
        """Whether it opens the door at the time *now*."""
        return self.revoked is None and not self.erased and (self.expires is None or now < self.expires)


@dataclass(frozen=True, slots=True)
class News:
    """All lines, as `Keyring.news` read them."""

    changes: int
    """What `Keyring.changes` told before the lines were read."""
    lines: tuple[Issued, ...]
    """Every line that was ever issued, oldest first."""
