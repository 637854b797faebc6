"""Keeps what must stand while `torknock gate` runs, whether a port is guarded or not.

Every door that root lists as filtered is silent, and no user who is listed sends from foreign addresses.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from torknock.interfaces import GateFailed
from torknock.kernel.nftables_state import ruleset_generation
from torknock.privileged.gate.kernel import IKernel
from torknock.protocol.door import Posture
from torknock.service import ruleset
from torknock.service.access import AccessDenied, AccessList, Entry, NoAccessList, uid_of
from torknock.service.posture_table import FAMILY, posture_listing, posture_table, replace
from torknock.service.sources_table import sources_listing, sources_table

_log = Logger()

_TICK = 0.25
"""How often the list and nftables are looked at; that costs microseconds while neither changes."""


class Silence:
    """Loads what the list *access* wants to stand, and loads it again when lost.

    This is the table `posture_table` of each filtered door, and `sources_table` of each user but root.
    *changed* is called when the list has changed, and waited for, before the tables of doors that it no longer has are
    removed; those of users stay. While the list cannot be used, the one before it counts.
    """

    def __init__(self, kernel: IKernel, access: AccessList, changed: Callable[[], Awaitable[Any]]) -> None:
        self._kernel, self._access, self._changed = kernel, access, changed
        self._entries: tuple[Entry, ...] | None = None
        self._silent: dict[str, str] = {}
        """Table of a filtered door -> its text; so too `_confined`."""
        self._confined: dict[str, str] = {}
        self._generation: int | None = None
        self._trouble = ""
        self._turns = LoopingCall(lambda: Deferred.fromCoroutine(self._turn()))
        self._turns.clock = kernel.reactor

    def start(self) -> None:
        """Load them now, and keep them."""
        self._turns.start(_TICK)

    def stop(self) -> Deferred[Any]:
        """Look no more; the ports stay as they are. Fires when nothing is being done any more."""
        if not self._turns.running:
            return succeed(None)
        self._turns.stop()
        return self._turns.deferred or succeed(None)

    async def _turn(self) -> None:
        """One look. Whatever fails is said once, and tried again at the next."""
        try:
            trouble = await self._follow()
            await self._restore()
        except (GateFailed, OSError) as error:
            trouble = str(error)
        except Exception as error:  # noqa: BLE001  whatever it is, the next look may find it gone
            trouble = type(error).__name__
        if trouble and trouble != self._trouble:
            _log.warn("rules that must stand cannot be looked after: {reason}", reason=trouble)
        self._trouble = trouble

    async def _follow(self) -> str:
        """Take up the list, if it has changed; what is wrong with it, or "". One that root has removed is empty."""
        try:
            entries = self._access.entries()
        except NoAccessList:
            entries = ()
        except AccessDenied as error:
            return str(error)
        confined = _confining(entries)
        if (entries, confined) == (self._entries, self._confined):
            return ""
        await self._changed()
        silent = {
            posture_table(each.door): posture_listing(each.door)
            for each in entries if each.posture is Posture.FILTERED
        }  # fmt: skip
        for table in self._silent.keys() - silent.keys():
            await load(self._kernel, ruleset.remove(table))
        self._entries, self._silent, self._confined, self._generation = entries, silent, confined, None
        return ""

    async def _restore(self) -> None:
        """Load what is lost, if anything in nftables has changed."""
        generation: int | None = ruleset_generation(self._kernel.connect)
        if generation == self._generation:
            return
        for table, listing in (self._silent | self._confined).items():
            if not await _stands(self._kernel, table, listing):
                if self._generation is not None:
                    _log.warn("rules missing or changed by another program: table {table} is loaded again", table=table)
                await load(self._kernel, replace(table, listing))
                generation = None  # look once more
        self._generation = generation


async def load(kernel: IKernel, commands: str) -> None:
    """Have nft do *commands*. Raises `GateFailed`."""
    await kernel.run("nft", ["-f", "-"], commands.encode("ascii"))


def _confining(entries: Sequence[Entry]) -> dict[str, str]:
    """The tables that keep the users of *entries* from foreign addresses; root may do so anyway."""
    uids = {uid_of(each.user) for each in entries}
    return {sources_table(uid): sources_listing(uid) for uid in uids if uid}


async def _stands(kernel: IKernel, table: str, listing: str) -> bool:
    try:
        listed = await kernel.run("nft", ["--stateless", "--terse", "list", "table", FAMILY, table])
    except GateFailed:
        return False
    return listed == listing
