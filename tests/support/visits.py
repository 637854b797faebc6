"""Visits to a TLS server: what each probe gets, in a form in which two servers can be compared."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

_PATIENCE = 30.0
"""Seconds after which a server that neither answers nor ends a connection is an error: it has timeouts of its own."""

_SIGNATURE = range(93, 99)
"""Lengths of a record with a signature of ECDSA on P-256, which vary by its DER: they count as one."""


@dataclass(frozen=True)
class Answer:
    """What a server sent, and how it ended the connection."""

    records: tuple[tuple[int, int], ...]
    """Type and length of each TLS record; none if what came is not TLS."""
    content: bytes
    """What was not encrypted to the visitor: the plain answer, or what was decrypted. Dates are taken out."""
    end: str


Visit = Callable[[socket.socket], Answer]


def read_to_end(tcp: socket.socket) -> tuple[bytes, str]:
    """All that comes, and what ends it: "FIN" or "RST"."""
    tcp.settimeout(_PATIENCE)
    told = b""
    try:
        while octets := tcp.recv(65_536):
            told += octets
    except ConnectionError:
        return told, "RST"
    return told, "FIN"


def records(octets: bytes) -> tuple[tuple[int, int], ...]:
    """Type and length of the TLS records in *octets*; () if they are none."""
    found = []
    while len(octets) >= 5:
        kind, version, length = struct.unpack_from("!BHH", octets)
        if version not in (0x0301, 0x0303):
            return ()
        found.append((kind, _SIGNATURE[-1] if length in _SIGNATURE else length))
        octets = octets[5 + length :]
    return tuple(found)


def plain(octets: bytes, ends: bool = False) -> Visit:
    """Sends *octets* as they are, and with *ends* FIN behind them."""

    def visit(tcp: socket.socket) -> Answer:
        with contextlib.suppress(ConnectionError):
            tcp.sendall(octets)
            if ends:
                tcp.shutdown(socket.SHUT_WR)
        told, end = read_to_end(tcp)
        shown = records(told)
        return Answer(shown, b"" if shown else without_date(told), end)

    return visit


def within_tls(request: bytes, prepare: Callable[[ssl.SSLContext], object] = lambda _: None, name: str = "") -> Visit:
    """Shakes hands, for host *name* if it is given, says *request* and reads on to the end."""

    def visit(tcp: socket.socket) -> Answer:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        prepare(context)
        into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(into, out, server_hostname=name or None)
        wire, end, content, said = b"", "", b"", False
        while not end:
            try:
                tls.do_handshake()
                if not said:
                    tls.write(request)
                    said = True
                while octets := tls.read(65_536):
                    content += octets
                end = "close_notify"
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError as error:
                end = str(error.reason)
            with contextlib.suppress(ConnectionError):
                tcp.sendall(out.read())
            octets, over = _some(tcp)
            wire += octets
            into.write(octets)
            end = f"{end} {over}".strip() if over else end
        shown = records(wire)
        handshake = tuple((kind, 0) if kind == 22 or not said else (kind, length) for kind, length in shown)
        return Answer(handshake, without_date(content), end)

    return visit


def _some(tcp: socket.socket) -> tuple[bytes, str]:
    tcp.settimeout(_PATIENCE)
    try:
        octets = tcp.recv(65_536)
    except ConnectionError:
        return b"", "RST"
    return octets, "" if octets else "FIN"


def without_date(octets: bytes) -> bytes:
    """*octets* without what nginx says of the time."""
    return re.sub(rb"Date: [^\r]*", b"", octets)


def client_hello(name: str) -> bytes:
    """What a client of OpenSSL's says first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    out = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return out.read()


def _at_most(version: ssl.TLSVersion) -> Callable[[ssl.SSLContext], object]:
    def prepare(context: ssl.SSLContext) -> None:
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.maximum_version = version
        context.set_ciphers("ALL:@SECLEVEL=0")

    return prepare


def visits(name: str, path: str) -> Mapping[str, Visit]:
    """22 probes for a site called *name*, on which `/`*path* leads to a bridge."""
    get = f"GET {{}} HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n"
    upgrade = f"GET /{path} HTTP/1.1\r\nHost: {name}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    proofless = upgrade + "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    hello = client_hello(name)
    return {
        "silence": plain(b""),
        "one octet": plain(b"\x16"),
        "plain HTTP": plain(get.format("/").encode()),
        "plain HTTP/2": plain(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9)),
        "SSH": plain(b"SSH-2.0-OpenSSH_9.2\r\n"),
        "zeros": plain(bytes(300)),
        "an end": plain(b"", ends=True),
        "half a hello": plain(hello[: len(hello) // 2]),
        "half a hello and an end": plain(hello[: len(hello) // 2], ends=True),
        "a hello": plain(hello),
        "a hello and an end": plain(hello, ends=True),
        "a hello and noise": plain(hello + bytes(range(256)) * 4),
        "the page": within_tls(get.format("/").encode(), name=name),
        "the page by TLS 1.2": within_tls(get.format("/").encode(), _at_most(ssl.TLSVersion.TLSv1_2), name),
        "TLS 1.1": within_tls(get.format("/").encode(), _at_most(ssl.TLSVersion.TLSv1_1), name),
        "no name": within_tls(get.format("/").encode()),
        "another name": within_tls(get.format("/").encode(), name="another.example"),
        "another ALPN": within_tls(get.format("/").encode(), lambda each: each.set_alpn_protocols(["x"]), name),
        "an unknown path": within_tls(get.format("/unknown").encode(), name=name),
        "the bridge's path": within_tls(f"{proofless}Cookie: session={'A' * 43}\r\n\r\n".encode(), name=name),
        "a cookie of 10 KB": within_tls(f"{upgrade}Cookie: session={'A' * 10_000}\r\n\r\n".encode(), name=name),
        "no HTTP": within_tls(b"\x00\x01\x02 nothing\r\n\r\n", name=name),
    }
