"""A service's process: its log, its clock, its socket, its end."""

from __future__ import annotations

import socket
from pathlib import PurePath
from traceback import extract_tb
from typing import TextIO

from twisted.logger import FileLogObserver, LogEvent, LogLevel, formatEvent, globalLogBeginner
from twisted.python.failure import Failure

from torknock.errors import TorknockError
from torknock.kernel.capability import may_administer_network
from torknock.kernel.interfaces import IReactor
from torknock.service.factory import PeerFactory
from torknock.service.listener import Accepting

LACKS_CAPABILITY = "this service lacks CAP_NET_ADMIN in its network namespace; start it by the units of contrib/systemd"


def serve(reactor: IReactor, peers: PeerFactory, listening: socket.socket, log: TextIO) -> None:
    """Serve the peers that connect to *listening* until a signal ends *reactor*; then end every conversation.

    What is worth it is said on *log*. Raises `TorknockError` if this process lacks the capability.
    """
    globalLogBeginner.beginLoggingTo([FileLogObserver(log, _formatted)], redirectStandardIO=False)
    if not may_administer_network():
        raise TorknockError(LACKS_CAPABILITY)
    accepting = Accepting(reactor, listening, peers)
    reactor.addSystemEventTrigger("before", "shutdown", accepting.stop)
    reactor.addSystemEventTrigger("before", "shutdown", peers.hang_up)
    reactor.run()


def _formatted(event: LogEvent) -> str | None:
    """One line, without the text of an exception, which may hold an address; None if it is not worth it."""
    level = event.get("log_level", LogLevel.info)
    ours = str(event.get("log_namespace", "")).startswith("torknock.")
    if level < (LogLevel.info if ours else LogLevel.warn):
        return None
    line = formatEvent(event)
    if isinstance(failure := event.get("log_failure"), Failure):
        frames = reversed(extract_tb(failure.getTracebackObject()))
        path = " < ".join(f"{PurePath(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames)
        line = f"{line}: {type(failure.value).__name__} [{path}]"
    return " ".join(line.split()) + "\n"
