"""Dials through the service of `torknock dial`, for processes without CAP_NET_ADMIN."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from ipaddress import ip_address

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.error import ConnectError, getConnectError
from zope.interface import implementer

from torknock.interfaces import CannotKnock, Dialled, IPrivilegedDialer, Slipped
from torknock.kernel.interfaces import IReactor
from torknock.service import DIAL_SOCKET, dial_requests
from torknock.service.grammar import Malformed
from torknock.service.requester import Heard, ServiceConnection, ServiceLost, ServiceMissing, ServiceRefused, connect

START = "as root: systemctl enable --now torknock-dial.socket"
RESTART = "as root: systemctl restart torknock-dial"
JOIN = "as root: adduser NAME torknock, and log in again"


@implementer(IPrivilegedDialer)
class RemoteDialer:
    """Asks the service at *path*. *bind_v4* and *bind_v6* are the addresses to dial from.

    It fails as a `RepairDialer` in this process would; also with `CannotKnock` if there is no service for us, and with
    a `ConnectError` of `ECONNABORTED` if the service ended or fell silent while dialling: then a SYN may have left.
    """

    def __init__(
        self, reactor: IReactor, path: str = DIAL_SOCKET, bind_v4: str | None = None, bind_v6: str | None = None
    ) -> None:
        self._reactor = reactor
        self._path = path
        self._bind = {4: bind_v4, 6: bind_v6}

    def ready(self) -> Deferred[None]:
        """See `IPrivilegedDialer.ready`: whether there is a service now that would dial for this process."""
        return Deferred.fromCoroutine(_greeted(self._reactor, self._path))

    def dial(self, host: str, port: int, isn: int) -> Deferred[socket.socket]:
        """See `IDialer.dial`."""
        if not 1 <= isn < 2**32:
            raise ValueError("an ISN is 1..2**32-1; 0 lets the kernel choose")
        return self._dial(host, port, isn, lambda _: 0).addCallback(lambda dialled: dialled.socket)

    def dial_stamped(self, host: str, port: int, isn: Callable[[int], int]) -> Deferred[Dialled]:
        """See `IStampedDialer.dial_stamped`. A reactor that is busy for more than 1 ms makes the SYN slip."""
        return self._dial(host, port, None, isn)

    def _dial(self, host: str, port: int, isn: int | None, choose: Callable[[int], int]) -> Deferred[Dialled]:
        try:
            address = ip_address(host)
            bind = None if (named := self._bind[address.version]) is None else str(ip_address(named))
        except ValueError:
            return fail(CannotKnock("what to dial, or where from, is not an IP address"))
        dial = _Dial(self._path, dial_requests.Request(str(address), port, isn, bind), choose)
        return Deferred.fromCoroutine(dial.connected(self._reactor))


class _Dial:
    """One request, on a connection of its own."""

    def __init__(self, path: str, request: dial_requests.Request, choose: Callable[[int], int]) -> None:
        self._path = path
        self._request = request
        self._choose = choose
        self._isn, self._tsval = request.isn or 0, 0
        self._connection: ServiceConnection | None = None
        self._taken_up = False
        """The service has said something: it is at work."""

    async def connected(self, reactor: IReactor) -> Dialled:
        self._connection = await _connection(reactor, self._path, self._heard)
        try:
            answer = await self._connection.ask(str(self._request))
        except ServiceRefused as refused:
            raise _error(refused) from refused
        except ServiceLost as error:
            raise _aborted(f"the torknock service at {self._path} ended while it was dialling") from error
        except CancelledError:
            if self._taken_up:
                raise
            raise _aborted(f"the torknock service at {self._path} does not answer; {RESTART}") from None
        finally:
            self._connection.close()
        return Dialled(self._only(answer.descriptors), self._isn, self._tsval)

    def _heard(self, connection: ServiceConnection, line: str) -> None:
        self._taken_up = True
        if line == dial_requests.DIALLING:
            return
        if self._isn:
            raise Malformed("no ISN was to be chosen")
        self._tsval = dial_requests.parse_tsval(line)
        self._isn = self._choose(self._tsval)
        connection.tell(dial_requests.isn(self._isn))

    def _only(self, received: tuple[socket.socket, ...]) -> socket.socket:
        if len(received) != 1 or not self._isn:
            for each in received:
                each.close()
            raise _aborted(f"the torknock service at {self._path} did not send a socket; {RESTART}")
        received[0].setblocking(False)
        return received[0]


async def _connection(reactor: IReactor, path: str, heard: Heard | None = None) -> ServiceConnection:
    try:
        return await connect(reactor, path, heard)
    except ServiceMissing as error:
        raise CannotKnock(f"this process lacks CAP_NET_ADMIN, and there is {error}; {START}") from error
    except CancelledError:
        raise CannotKnock(f"the torknock service at {path} takes no connection; {RESTART}") from None


async def _greeted(reactor: IReactor, path: str) -> None:
    (await _connection(reactor, path)).close()


def _aborted(text: str) -> ConnectError:
    return ConnectError(errno.ECONNABORTED, text)


def _error(refused: ServiceRefused) -> Exception:
    """What a `RepairDialer` would have failed with."""
    text = str(refused)
    match refused.kind:
        case "slipped" | "late":
            return Slipped(sent=refused.kind == "slipped")
        case "cannot" | "failed":
            try:
                number, text = dial_requests.parse_errno_and_text(text)
            except Malformed:
                return _aborted("the torknock service is of another version; install one version of torknock only")
            if refused.kind == "cannot":
                return CannotKnock(text, number)
            error: Exception = getConnectError((number, os.strerror(number) if number else text))
            return error
        case "refused":
            return CannotKnock(f"{text}; {JOIN}")
        case "busy":
            return CannotKnock(f"{text}; try again")
    return _aborted(f"the torknock service does not dial: {text}; {RESTART}")
