"""A new bridge line that could not be printed is withdrawn: a line that no one has seen must open nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torknock.cli.open_keyring import open_keyring
from torknock.errors import TorknockError


class LineNotPrinted(TorknockError):
    """A line was issued, and could not be printed for *reason*; it is *withdrawn*, unless that failed as well."""

    def __init__(self, name: str, reason: str, withdrawn: bool) -> None:
        done = "it is withdrawn, and opens nothing" if withdrawn else f"as root: torknock line revoke {name}"
        outcome = "" if withdrawn else " and could not be withdrawn"
        super().__init__(f"the line {name} could not be printed ({reason}){outcome}", done)


@contextmanager
def printed_or_withdrawn(keyring: Path, name: str) -> Iterator[None]:
    """Withdraw the line called *name* from *keyring* if anything is raised within this. Raises `LineNotPrinted`."""
    try:
        yield
    except (OSError, TorknockError, KeyboardInterrupt) as error:
        reason = (error.strerror if isinstance(error, OSError) else str(error)) or "interrupted"
        try:
            with open_keyring(keyring) as opened:
                opened.withdraw(name)
        except TorknockError as failed:
            raise LineNotPrinted(name, f"{reason}; {failed}", withdrawn=False) from error
        raise LineNotPrinted(name, reason, withdrawn=True) from error
