"""What a SYN or a connection opens: once, and on the disk before it counts.

SYNs are judged and connections asked for at any moment, also between and during the steps of the keeper, and after the
last one. What may never happen: a token or a knock opens twice; it is answered before its record is on the disk; a
line that was revoked when the keyring was read last opens anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from torknock.bridge.admission import Admission
from torknock.bridge.books import Books
from torknock.bridge.knocks import Judge
from torknock.bridge.ledger import SpentUnusable
from torknock.keyring.issued import Issued
from torknock.protocol.syn import SYN

_log = Logger()


class Spending:
    """Spends what `admission` admits, and writes it into *books*.

    *clock* is monotonic; *now* returns the date, a `Calendar`'s.
    """

    def __init__(self, books: Books, clock: IReactorTime, now: Callable[[], float]) -> None:
        self.books, self.clock, self.now = books, clock, now
        judge = Judge(remember=books.knocks.add, warn=lambda warning: _log.warn("{warning}", warning=warning))
        self.admission = Admission(judge)
        """Which token opens until when; the keeper updates it."""

    def judge(self, syns: Sequence[SYN]) -> Sequence[bool]:
        """Which of *syns*, that have no token, open a connection. Those that do are on the disk already."""
        try:
            answers = self.admission.judge(syns, self.clock.seconds())
            if any(answers):
                self.books.knocks.sync(self.books.knocks.handle())
            return answers
        except SpentUnusable as error:
            self.books.refuse(error)
            return [False] * len(syns)

    async def lines_for(self, syn: SYN) -> tuple[Issued, ...]:
        """The live lines that *syn* has opened a connection for, this once; empty if there is none.

        What it spends is on the disk by then.
        """
        lines = self.admission.knocked(syn, self.clock.seconds()) or self.spend(syn.isn)
        if lines and not await self.books.synced():
            return ()
        return tuple(issued for issued in lines if issued.name in self.admission.live)

    def spend(self, isn: int) -> tuple[Issued, ...]:
        """See `Admission.spend`; empty also if the ledger cannot have it."""
        epochs, lines = self.admission.spend(isn, self.now())
        return lines if self.books.spend(epochs, isn) else ()
