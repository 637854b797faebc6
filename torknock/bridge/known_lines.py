"""The lines of the keyring as they were read last: which live, and what the operator is told when they change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from torknock.bridge.knocks import tag
from torknock.keyring.file import KeyringLocked, KeyringUnreadable
from torknock.keyring.issued import Issued, News
from torknock.keyring.queue import KeyringQueue
from torknock.protocol.bridge_line import Channel, Line, Scheme

_log = Logger()


class KnownLines:
    """Reads *keyring*; while another program holds it, or its disk does not answer, there is no news.

    *changed* is called with all lines when one of them was changed. *no_knocks* says why lines of scheme `knock` are
    ignored, and is empty if they are served; *no_site* the same of lines of channel `web`.
    """

    def __init__(
        self,
        keyring: KeyringQueue,
        changed: Callable[[Collection[Issued]], None] = lambda lines: None,
        no_knocks: str = "",
        no_site: str = "",
    ) -> None:
        self._keyring, self._changed = keyring, changed
        self._reasons = {f"scheme {Scheme.KNOCK}": no_knocks, f"channel {Channel.WEB}": no_site}
        self._changes: int | None = None
        """What `Keyring.changes` told when they were read last; None to read them whatever it tells."""
        self._reading: Deferred[News | None] | None = None
        self._unread: KeyringUnreadable | None = None
        """Why the keyring could not be read when it was last tried, if that was not a lock."""
        self._news: News | None = None
        """What was read and not `taken`."""
        self._revoked: frozenset[tuple[str, int]] = frozenset()
        """Names, and when they were issued, of the lines that were revoked."""
        self._ignored: list[Issued] = []
        self.tags: Collection[int] = ()
        """The tags of the lines of scheme `knock`, but of those that were erased."""

    async def first(self) -> None:
        """Read them, whatever it takes. Raises what `Keyring.news` raises."""
        self._read(await self._keyring.run(self._keyring.keyring.news, None))

    async def look(self) -> None:
        """Take up what was read, if the keyring has answered, and ask it again.

        Raises `KeyringUnreadable` from when it could not be read to when it could.
        """
        if self._reading is None:
            self._reading = self._keyring.run(self._keyring.keyring.news, self._changes)
        if self._reading.called:
            reading, self._reading = self._reading, None
            try:
                self._read(await reading)
            except KeyringLocked:
                pass
            except KeyringUnreadable as error:
                self._unread = error
            else:
                self._unread = None
        if self._unread is not None:
            raise self._unread

    def read_again(self) -> None:
        """Have all lines be news at the next look that finds the keyring free."""
        self._changes = None

    def stop(self) -> None:
        """Expect no answer."""
        if self._reading is not None:
            self._reading.addErrback(lambda failure: None)
            self._reading = None

    def news(self, now: float) -> list[Issued] | None:
        """The lines that open a connection at the date *now*, if they are other than those that were `taken`."""
        return None if self._news is None else self._served(self._news.lines, now)

    def is_revoked(self, issued: Issued) -> bool:
        """Whether *issued* was revoked, in the keyring as it was read last."""
        return (issued.name, issued.created) in self._revoked

    def taken(self) -> None:
        """What `news` told is what counts now."""
        self._news = None

    def ignored(self, now: float) -> str:
        """How many lines open nothing here although they live, and why; empty if there is none."""
        counts = Counter(_kind(issued.line) for issued in self._ignored if issued.is_live(now))
        return "; ".join(
            f"{count} line{'s' * (count > 1)} of {kind} open{'s' * (count == 1)} nothing: {self._reasons[kind]}"
            for kind, count in counts.items()
        )

    def _read(self, news: News | None) -> None:
        if news is None:
            return
        revoked = frozenset((each.name, each.created) for each in news.lines if each.revoked is not None)
        back = {(each.name, each.created) for each in news.lines} & self._revoked - revoked
        if back:
            _log.warn(
                "an older keyring was put in place: lines that were revoked open again; revoke them again with "
                "torknock line revoke: {names}",
                names=", ".join(sorted(name for name, _ in back)),
            )
        self._revoked, self._changes, self._news = revoked, news.changes, news
        self.tags = {tag(each.line) for each in news.lines if each.line.scheme is Scheme.KNOCK and not each.erased}
        self._changed(news.lines)

    def _served(self, lines: Collection[Issued], now: float) -> list[Issued]:
        """Those of *lines* that open a connection here now; that other live ones do not is logged."""
        live, before = [issued for issued in lines if issued.is_live(now)], len(self._ignored)
        self._ignored = [issued for issued in live if self._reasons.get(_kind(issued.line))]
        if len(self._ignored) > before:
            _log.warn("{told}", told=self.ignored(now))
        return [issued for issued in live if not self._reasons.get(_kind(issued.line))]


def _kind(line: Line) -> str:
    """What *line* is called where it is ignored."""
    return f"scheme {line.scheme}" if line.scheme is Scheme.KNOCK else f"channel {line.channel}"
