"""A tor that is asked over its control port, by stem, and that has only so much time for each answer.

stem waits for ever: for an answer that does not come, and, when it closes, for its own threads, which may wait for it.
So every use of stem is in a thread that is left behind when its time is over.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from stem import ControllerError
from stem.connection import AuthMethod, get_protocolinfo
from stem.control import Controller

ANSWERS_WITHIN = 10.0
"""Seconds."""

_CLOSES_WITHIN = 2.0
_T = TypeVar("_T")


class TorSilent(ControllerError):  # type: ignore[misc]  # stem's
    """tor has not answered in time. Nothing more is asked of it."""


class Asked:
    """The tor that *connect* connects to. Every method raises `stem.ControllerError`, also `TorSilent`."""

    def __init__(self, connect: Callable[[], Controller]) -> None:
        self._controller: Controller = within(ANSWERS_WITHIN, connect)
        self._controller.set_caching(False)  # what was true before a reload may be so no more
        self._silent = False

    def authenticate(self, password: str | None) -> None:
        """Show *password*, or prove that we can read tor's cookie; the cookie itself is never sent."""
        self._ask(_authenticate, self._controller, password)

    def get_info(self, name: str, *default: Any) -> Any:
        """The answer to GETINFO *name*; *default* if tor refuses."""
        return self._ask(self._controller.get_info, name, *default)

    def get_conf(self, name: str, default: Any, multiple: bool) -> Any:
        """The values of an option of torrc."""
        return self._ask(self._controller.get_conf, name, default, multiple=multiple)

    def set_conf(self, name: str, value: str) -> None:
        """Set an option of torrc, until tor reads it again."""
        self._ask(self._controller.set_conf, name, value)

    def signal(self, signal: str) -> None:
        """Have tor do what SIGNAL *signal* does."""
        self._ask(self._controller.signal, signal)

    def add_event_listener(self, heard: Callable[[Any], None], *events: str) -> None:
        """Have *heard* called with each of *events*, in a thread of stem's."""
        self._ask(self._controller.add_event_listener, heard, *events)

    def remove_event_listener(self, heard: Callable[[Any], None]) -> None:
        """Have *heard* called no more."""
        self._ask(self._controller.remove_event_listener, heard)

    def close(self) -> None:
        """Ask nothing more. Raises nothing."""
        with contextlib.suppress(ControllerError):
            within(_CLOSES_WITHIN, self._controller.close)

    def _ask(self, method: Callable[..., _T], *arguments: Any, **named: Any) -> _T:
        if self._silent:
            raise TorSilent
        try:
            return within(ANSWERS_WITHIN, method, *arguments, **named)
        except TorSilent:
            self._silent = True
            raise


def _authenticate(controller: Controller, password: str | None) -> None:
    """As stem does it, but for the method COOKIE: a tor that is none could name any file as its cookie, and have it."""
    offered = get_protocolinfo(controller)
    offered.auth_methods = tuple(method for method in offered.auth_methods if method is not AuthMethod.COOKIE)
    controller.authenticate(password=password, protocolinfo_response=offered)


def within(seconds: float, function: Callable[..., _T], *arguments: Any, **named: Any) -> _T:
    """What *function* returns or raises. Raises `TorSilent` if that takes longer than *seconds*."""
    outcome: queue.SimpleQueue[tuple[_T | None, BaseException | None]] = queue.SimpleQueue()

    def call() -> None:
        try:
            outcome.put((function(*arguments, **named), None))
        except BaseException as error:  # noqa: BLE001  raised where it is waited for
            outcome.put((None, error))

    threading.Thread(target=call, name="control port", daemon=True).start()
    try:
        returned, raised = outcome.get(timeout=seconds)
    except queue.Empty:
        raise TorSilent from None
    if raised is not None:
        raise raised
    return returned  # type: ignore[return-value]  # _T may be None itself
