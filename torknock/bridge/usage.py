"""Which lines were used, and the posture of the bridge, written down in the keyring."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from torknock.bridge.counts import Counts
from torknock.errors import TorknockError
from torknock.keyring.file import KeyringLocked
from torknock.keyring.lines import POSTURE
from torknock.keyring.queue import KeyringQueue
from torknock.protocol.door import Posture

_log = Logger()

_WRITTEN_EVERY = 60.0


class UsageRecord:
    """Writes to *keyring*, from `start` to `stop`, what *counts* says was used. *now* is the date.

    What the keyring cannot take at one time, it gets the next time.
    """

    def __init__(self, clock: IReactorTime, keyring: KeyringQueue, counts: Counts, now: Callable[[], float]) -> None:
        self._keyring, self._counts, self._now = keyring, counts, now
        self._posture: Posture | None = None
        """What is to be written for `torknock line add`."""
        self._used: Counter[str] = Counter()
        """How many connections of which line are to be written."""
        self._regularly = LoopingCall(lambda: Deferred.fromCoroutine(self._write()))
        self._regularly.clock = clock

    async def start(self, posture: Posture) -> None:
        """Write *posture* now, and every minute what was used."""
        self._posture = posture
        await self._write()
        self._regularly.start(_WRITTEN_EVERY, now=False)

    async def stop(self) -> None:
        """Write what is left."""
        if self._regularly.running:
            self._regularly.stop()
            await self._write()

    async def _write(self) -> None:
        queue, keyring = self._keyring, self._keyring.keyring
        used, self._used = self._used + Counter(self._counts.used()), Counter()
        try:
            if self._posture is not None:
                await queue.run(keyring.set_setting, POSTURE, self._posture.value)
                self._posture = None
            if used:
                await queue.run(keyring.count, used, self._now())
        except TorknockError as error:
            self._used += used
            if isinstance(error, KeyringLocked):  # which the queue says
                return
            _log.error("cannot record the posture and which lines were used: {reason}", reason=str(error))
