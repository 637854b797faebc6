"""How SYNs without a token come to their judge: nftables' own queue statement, or iptables' target on older kernels."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from torknock.interfaces import GateFailed
from torknock.privileged.gate.kernel import IKernel
from torknock.privileged.gate.nfqueue import PacketQueue, Queue
from torknock.privileged.gate.xtables import XTables
from torknock.protocol.door import Door
from torknock.protocol.syn import AskLater
from torknock.service import ruleset
from torknock.service.ruleset import Judging


class Judges:
    """The packet queue of *door*, in each of the IP *versions*; *ask* judges what waits there."""

    def __init__(self, kernel: IKernel, door: Door, versions: tuple[int, ...], ask: AskLater) -> None:
        queue = Queue(ruleset.queue_number(door), door.port, ruleset.admitted)
        self._queue = PacketQueue(kernel.reactor, queue, ask, kernel.connect)
        self._xtables = XTables(kernel, door, versions)
        self._way: Judging | None = None

    @property
    def judging(self) -> bool:
        """Whether SYNs without a token are judged."""
        return self._way is not None

    @property
    def lost(self) -> bool:
        """Whether they are to be judged, and are not."""
        return self.judging and not self._queue.running

    async def start(self, load: Callable[[Judging], Awaitable[None]]) -> None:
        """Judge from now on; *load* loads the ruleset that has SYNs wait in this way. Raises `GateFailed`."""
        self._queue.start()
        if self._way is not Judging.XTABLES:
            try:
                await load(Judging.QUEUE)
            except GateFailed:  # most likely a kernel without nft_queue; anything else fails again below
                self._way = None
            else:
                self._way = Judging.QUEUE
                return
        await self._xtables.place()
        self._way = Judging.XTABLES
        await load(Judging.XTABLES)

    async def stop(self) -> None:
        """Judge nothing more. Raises `GateFailed`."""
        self._queue.stop()
        if self._way is Judging.XTABLES:
            await self._xtables.remove()
        self._way = None

    async def intact(self) -> bool:
        """Whether what the ruleset of nftables needs besides is there."""
        return self._way is not Judging.XTABLES or await self._xtables.intact()
