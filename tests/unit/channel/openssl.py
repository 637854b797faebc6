"""A TLS peer out of the host's own libssl, for what pyOpenSSL cannot say: requests for new keys (RFC 8446 §4.6.3)."""

from __future__ import annotations

import ctypes
import os
import select
import socket
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.unit.channel import peer

_lib = ctypes.CDLL("libssl.so.3")
for _name in ("TLS_client_method", "TLS_server_method", "SSL_CTX_new", "SSL_new"):
    getattr(_lib, _name).restype = ctypes.c_void_p

_PEM = 1
_WANT_READ, _WANT_WRITE = 2, 3
_UPDATE_REQUESTED = 1


_ANSWER_WITHIN = 20.0
"""Seconds that the other side has, on a busy machine, for what it owes; `patience` is for what it may well refuse."""


class Stalled(Exception):
    """The other side neither takes nor says anything for a while."""


class Peer:
    """One end of a TLS connection over the connected socket *tcp*.

    *patience* is the number of seconds after which the other side is taken to read no more.
    """

    def __init__(self, tcp: socket.socket, *, server: bool = False, patience: float = 1.0) -> None:
        tcp.setblocking(False)
        self.tcp, self._patience = tcp, patience
        method = _lib.TLS_server_method if server else _lib.TLS_client_method
        self._context = ctypes.c_void_p(_lib.SSL_CTX_new(ctypes.c_void_p(method())))
        if server:
            self._use_certificate()
        self._ssl = ctypes.c_void_p(_lib.SSL_new(self._context))
        _lib.SSL_set_fd(self._ssl, tcp.fileno())
        (_lib.SSL_set_accept_state if server else _lib.SSL_set_connect_state)(self._ssl)
        self._do(lambda: _lib.SSL_do_handshake(self._ssl))

    def _use_certificate(self) -> None:
        key = peer.KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        with tempfile.TemporaryDirectory() as folder:
            both = Path(folder, "both.pem")
            both.write_bytes(key + peer.certificate("127.0.0.1").public_bytes(Encoding.PEM))
            _lib.SSL_CTX_use_certificate_file(self._context, os.fsencode(both), _PEM)
            _lib.SSL_CTX_use_PrivateKey_file(self._context, os.fsencode(both), _PEM)

    def exported(self, isn: int) -> bytes:
        """What a proof is made of (protocol.md §3.3)."""
        found, label, context = ctypes.create_string_buffer(32), b"EXPORTER-torknock-1", struct.pack("!I", isn)
        _lib.SSL_export_keying_material(
            self._ssl, found, ctypes.c_size_t(32), label, ctypes.c_size_t(len(label)),
            context, ctypes.c_size_t(len(context)), 1,
        )  # fmt: skip
        return found.raw

    def say(self, octets: bytes) -> None:
        """Send *octets* as one record. Raises `Stalled`."""
        self._do(lambda: _lib.SSL_write(self._ssl, octets, len(octets)))

    def ask_for_keys(self, times: int) -> int:
        """Ask *times* for new keys, reading nothing; how many requests the other side took before it stalled."""
        for asked in range(times):
            if not select.select([], [self.tcp], [], self._patience)[1]:  # half a request would keep us from reading
                return asked
            _lib.SSL_key_update(self._ssl, _UPDATE_REQUESTED)
            self._do(lambda: _lib.SSL_do_handshake(self._ssl))
        return times

    def converse(self, word: bytes) -> bytes:
        """What the other side says first when this one reads again, and says *word* once it can."""
        waiting = word
        while True:
            if waiting and _lib.SSL_write(self._ssl, waiting, len(waiting)) > 0:
                waiting = b""
            found = ctypes.create_string_buffer(1 << 14)
            heard = _lib.SSL_read(self._ssl, found, len(found))
            if heard > 0:
                return found.raw[:heard]
            if _lib.SSL_get_error(self._ssl, heard) not in (_WANT_READ, _WANT_WRITE):
                return b""
            if not any(select.select([self.tcp], [self.tcp] if waiting else [], [], _ANSWER_WITHIN)):
                raise Stalled

    def _do(self, what: Callable[[], int]) -> int:
        while (done := what()) <= 0:
            wanted = _lib.SSL_get_error(self._ssl, done)
            if wanted not in (_WANT_READ, _WANT_WRITE):
                return 0
            reads, writes = ([self.tcp], []) if wanted == _WANT_READ else ([], [self.tcp])
            if not any(select.select(reads, writes, [], _ANSWER_WITHIN)):
                raise Stalled
        return done

    def close(self) -> None:
        """End the TCP connection, with RST if there is something unread."""
        _lib.SSL_free(self._ssl)
        _lib.SSL_CTX_free(self._context)
        self.tcp.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
