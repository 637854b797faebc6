"""What is asked of a keyring, in a thread and one call at a time.

The reactor waits neither for the disk nor for another program that holds the file.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, DeferredLock, execute
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from torknock.keyring.file import KeyringLocked
from torknock.keyring.lines import Keyring

_log = Logger()

_T = TypeVar("_T")

_MOMENT = 2.0
"""Seconds for which the keyring may be locked, or its disk silent, before that is said: a command takes less."""


class KeyringQueue:
    """Makes calls of *keyring*, which waits for no lock, with *in_thread*: a function and its arguments in a thread.

    That another program holds the keyring is logged once, and once that it is over. The caller tries again.
    """

    def __init__(
        self, keyring: Keyring, clock: IReactorTime, in_thread: Callable[..., Deferred[Any]] = execute
    ) -> None:
        self.keyring = keyring
        self._clock, self._in_thread = clock, in_thread
        self._turn = DeferredLock()
        self._held: dict[str, float] = {}
        """Since when which calls have been refused."""
        self._said = False

    def run(self, call: Callable[..., _T], *arguments: Any) -> Deferred[_T]:
        """What *call*, a method of the keyring, returns; fails as it does. Cancelled, it is made all the same."""
        answer: Deferred[_T] = Deferred()
        self._turn.run(self._made, call, arguments).addBoth(answer.callback)
        return answer

    def _made(self, call: Callable[..., _T], arguments: tuple[Any, ...]) -> Deferred[_T]:
        silent = self._clock.callLater(_MOMENT, self._say, "its disk does not answer")
        made: Deferred[_T] = self._in_thread(call, *arguments)
        made.addBoth(partial(self._ended, call.__name__, silent))
        return made

    def _ended(self, name: str, silent: IDelayedCall, result: _T | Failure) -> _T | Failure:
        if silent.active():
            silent.cancel()
        if isinstance(result, Failure) and result.check(KeyringLocked):
            if self._clock.seconds() - self._held.setdefault(name, self._clock.seconds()) >= _MOMENT:
                self._say("another program, such as a backup, holds it")
            return result
        self._held.pop(name, None)
        if self._said and not self._held:
            self._said = False
            _log.warn("keyring {path} can be used again", path=str(self.keyring.directory))
        return result

    def _say(self, why: str) -> None:
        if not self._said:
            _log.warn(
                "keyring {path}: {why}; the bridge goes on with the lines that it knows, and takes up what is added "
                "or revoked once that is over",
                path=str(self.keyring.directory), why=why,
            )  # fmt: skip
        self._said = True
