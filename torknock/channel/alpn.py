"""The protocol that a TLS server chooses (ALPN, RFC 7301 §3.1), told to OpenSSL without a callback of cffi's.

OpenSSL has the server's choice made by a C function. pyOpenSSL's `set_alpn_select_callback` makes one with cffi, which
needs memory that is writable and executable, and so fails under systemd's MemoryDenyWriteExecute, SELinux without
`execmem` and PR_SET_MDWE. `ctypes` makes one with libffi 3.4, whose functions are in the library itself. It is set
through pyOpenSSL's own binding, `SSL._lib` and `SSL._ffi`, since pyOpenSSL has no public way; `test_alpn` notices when
that changes.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

from OpenSSL import SSL

_OK, _NOT_ACKNOWLEDGED = 0, 3  # SSL_TLSEXT_ERR_*, openssl/tls1.h

_SELECT = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.POINTER(ctypes.c_void_p),
    ctypes.POINTER(ctypes.c_ubyte),
    ctypes.c_void_p,
    ctypes.c_uint,
    ctypes.c_void_p,
)
"""SSL_CTX_alpn_select_cb_func: ssl, out, outlen, in, inlen, arg (SSL_CTX_set_alpn_select_cb(3ossl))."""

_SELECT_IN_C = "int (*)(SSL *, unsigned char **, unsigned char *, const unsigned char *, unsigned int, void *)"


def choose_protocol(context: SSL.Context, name: bytes) -> None:
    """Have servers with *context* choose the protocol *name* if a client offers it, and else answer no ALPN at all."""
    binding: Any = SSL
    address = ctypes.cast(_selecting(name)[0], ctypes.c_void_p).value
    select = binding._ffi.cast(_SELECT_IN_C, address)
    binding._lib.SSL_CTX_set_alpn_select_cb(context._context, select, binding._ffi.NULL)


@cache
def _selecting(name: bytes) -> tuple[Any, Any]:
    """The C function that chooses *name*, and the octets that it points to; kept, as OpenSSL keeps neither."""
    octets = ctypes.create_string_buffer(name, len(name))
    at = ctypes.addressof(octets)

    def select(_ssl: int, out: Any, length: Any, offered: int, size: int, _argument: int) -> int:
        if name not in _names(ctypes.string_at(offered, size)):
            return _NOT_ACKNOWLEDGED
        out[0], length[0] = at, len(name)
        return _OK

    return _SELECT(select), octets


def _names(offered: bytes) -> list[bytes]:
    """The protocols in a ProtocolNameList, each behind an octet with its length. Never raises."""
    found = []
    while offered:
        found.append(offered[1 : offered[0] + 1])
        offered = offered[offered[0] + 1 :]
    return found
