"""Errors between a transport and tor, each with the keyword or the code that tor reads."""

from __future__ import annotations

from typing import ClassVar


class PluggableError(Exception):
    """The root of this library's errors. The text is one line for the log of tor's operator."""


class StartError(PluggableError):
    """tor's environment does not let a transport start; the process ends with `exit_code` (sysexits.h)."""

    keyword: ClassVar[str | None] = None
    exit_code: ClassVar[int]


class NotManaged(StartError):
    """A person started the program, not tor."""

    exit_code = 64

    def __init__(self) -> None:
        super().__init__(
            "This program is a pluggable transport (pt-spec, version 1). tor starts it: name it in a torrc, after "
            "ClientTransportPlugin or ServerTransportPlugin."
        )


class EnvironmentFault(StartError):
    """A `TOR_PT_*` variable is missing or cannot be understood: `ENV-ERROR` (pt-spec §3.3.1)."""

    keyword = "ENV-ERROR"
    exit_code = 64


class VersionFault(StartError):
    """tor offers no version of the specification that is supported: `VERSION-ERROR` (pt-spec §3.3.1)."""

    keyword = "VERSION-ERROR"
    exit_code = 78

    def __init__(self) -> None:
        super().__init__("no-version")


class ProxyError(StartError):
    """The proxy that tor asks for cannot be used: `PROXY-ERROR` (pt-spec §3.3.2)."""

    keyword = "PROXY-ERROR"
    exit_code = 69


class MethodError(PluggableError):
    """One transport cannot run: `CMETHOD-ERROR` or `SMETHOD-ERROR` with this text (pt-spec §3.3.2, §3.3.3)."""


class ArgumentsError(PluggableError):
    """A text is not a list of `key=value` items."""


class ORPortError(PluggableError):
    """tor's Extended ORPort cannot be used, or refuses the connection (ext-orport-spec)."""


class SOCKSError(PluggableError):
    """A request of tor's cannot be served; `reply` is the REP octet that says so (RFC 1928 §6)."""

    reply: ClassVar[int] = 1


class NotAllowed(SOCKSError):
    """The transport's own policy refuses the request."""

    reply = 2


class NetworkUnreachable(SOCKSError):
    """There is no route to the bridge's network."""

    reply = 3


class HostUnreachable(SOCKSError):
    """There is no route to the bridge."""

    reply = 4


class ConnectionRefused(SOCKSError):
    """The bridge refused or reset the connection."""

    reply = 5


class TTLExpired(SOCKSError):
    """The bridge did not answer in time."""

    reply = 6


class CommandNotSupported(SOCKSError):
    """Something else than CONNECT was asked for."""

    reply = 7


class AddressTypeNotSupported(SOCKSError):
    """The address is of a kind that cannot be dialled."""

    reply = 8
