"""How a client of channel `tls` begins: its TLS, and with it the ClientHello that a network sees."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Protocol

from OpenSSL import SSL
from twisted.logger import Logger

from torknock.channel.browser import Browser, NoBrowser
from torknock.channel.interfaces import CannotOpen
from torknock.channel.openssl_tls import OpenSSLTLS
from torknock.channel.side import TLS
from torknock.channel.tls import ALPN, tls_1_3
from torknock.protocol.bridge_line import Channel, Line

_log = Logger()


class Hello(Protocol):
    """Whose ClientHello it is."""

    def begin(self, line: Line) -> TLS:
        """TLS for a connection to the bridge of *line*. Raises `CannotOpen`."""


def offered(line: Line) -> tuple[str, ...]:
    """The protocols that a client of *line* offers (ALPN).

    A browser offers `http/1.1` alone for a WebSocket. With h2 beside it a site may choose HTTP/2, in which channel
    `web` does not exist.
    """
    return ALPN[-1:] if line.channel is Channel.WEB else ALPN


class OpenSSLHello:
    """OpenSSL's: no browser's, and therefore recognisable."""

    @cached_property
    def pinning(self) -> SSL.Context:
        """Whose certificate it is, and that it is used by its owner, is all that is asked: no chain, no dates."""
        return _client_context(SSL.VERIFY_NONE)

    @cached_property
    def trusting(self) -> SSL.Context:
        """The trust store of this host counts."""
        context = _client_context(SSL.VERIFY_PEER)
        context.set_default_verify_paths()
        return context

    def begin(self, line: Line) -> TLS:
        """See `Hello.begin`."""
        connection = OpenSSLTLS(self.trusting if line.pin is None else self.pinning)
        connection.set_connect_state()
        connection.set_alpn_protos([each.encode("ascii") for each in offered(line)])
        if line.sni is not None:
            connection.set_tlsext_host_name(line.sni.encode("ascii"))
        return connection


class BrowserHello:
    """A browser's."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser

    @cached_property
    def trusting(self) -> SSL.Context:
        """OpenSSL's settings with the trust store of this host; what the browser's TLS trusts."""
        return OpenSSLHello().trusting

    def begin(self, line: Line) -> TLS:
        """See `Hello.begin`."""
        trust = None if line.pin else self.trusting.get_cert_store()
        try:
            return self._browser.connection(line.sni, offered(line), trust)
        except OSError as error:
            raise CannotOpen(error.strerror or "no key log") from error


def usual_hello(shuffle: Callable[[list[bytes]], None]) -> Hello:
    """A browser's where this process can write one, else OpenSSL's, and a warning; *shuffle* see `Browser`."""
    try:
        return BrowserHello(Browser(shuffle))
    except NoBrowser as error:
        _log.warn("this TLS hello can be recognised, as no browser's: {reason}", reason=error.reason)
        return OpenSSLHello()


def _client_context(verify: int) -> SSL.Context:
    context = tls_1_3(SSL.TLS_CLIENT_METHOD)
    context.set_verify(verify)
    return context
