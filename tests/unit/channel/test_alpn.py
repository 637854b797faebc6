"""Tests of torknock.channel.alpn: what a stock client learns, also where no memory is writable and executable."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

import pluggable
import torknock
from tests.support.mdwe import MDWE, why_not
from torknock.channel.alpn import _names
from torknock.channel.configuration import OPENSSL_CONF

ROOT = Path(__file__).parents[3]

SERVE = """
import secrets
from twisted.internet.task import Clock
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from torknock.channel.tls_server import ServerTLS
key = generate_private_key(SECP256R1()).private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
context = ServerTLS(Clock(), key, secrets.SystemRandom()).context("192.0.2.1", [])
from tests.unit.channel.test_alpn import negotiated
print(negotiated(context, [b"h2", b"http/1.1"]))
"""


def negotiated(server: SSL.Context, offered: list[bytes]) -> bytes:
    """What a client that has *offered* these learns of the server's choice; b"" if nothing."""
    stock = SSL.Context(SSL.TLS_CLIENT_METHOD)
    if offered:
        stock.set_alpn_protos(offered)
    ends = SSL.Connection(stock, None), SSL.Connection(server, None)
    ends[0].set_connect_state()
    ends[1].set_accept_state()
    for speaker, listener in (ends, ends[::-1], ends):
        with contextlib.suppress(SSL.WantReadError):
            speaker.do_handshake()
        listener.bio_write(speaker.bio_read(1 << 16))
    ends[1].do_handshake()
    return ends[0].get_alpn_proto_negotiated()


class ChoiceTests(SynchronousTestCase):
    """The server's choice, through pyOpenSSL's binding."""

    def test_the_binding_is_as_it_was(self) -> None:
        """What is used of pyOpenSSL that is not public: setting a pointer to a function of this very type."""
        self.assertTrue(hasattr(SSL.Context(SSL.TLS_SERVER_METHOD), "_context"))
        kind = str(SSL._ffi.typeof(SSL._lib.SSL_CTX_set_alpn_select_cb))  # type: ignore[attr-defined]
        self.assertEqual(
            re.sub(r"\s", "", kind),
            "<ctype'void(*)(SSL_CTX*,int(*)(SSL*,unsignedchar**,unsignedchar*,unsignedchar*,unsignedint,void*),void*)'>",
        )

    @given(st.binary(max_size=60), st.lists(st.binary(min_size=1, max_size=9)))
    def test_any_octets(self, octets: bytes, names: list[bytes]) -> None:
        """Each protocol of a list is found, whatever stands behind it."""
        listed = b"".join(bytes([len(name)]) + name for name in names)
        self.assertEqual(_names(listed + octets)[: len(names)], names)

    def test_names(self) -> None:
        """Whole lists, empty ones, and what OpenSSL would not have let pass."""
        for offered, names in (
            (b"", []),
            (b"\x02h2\x08http/1.1", [b"h2", b"http/1.1"]),
            (b"\x09http/1.1", [b"http/1.1"]),
            (b"\x00\x02h2", [b"", b"h2"]),
        ):
            self.assertEqual(_names(offered), names)


class NoExecutableMemoryTests(SynchronousTestCase):
    """What a process can do whose writable memory is never executable."""

    skip = why_not()

    def test_server(self) -> None:
        """A bridge's context is made, and chooses."""
        done = subprocess.run(
            [*MDWE, sys.executable, "-c", SERVE], capture_output=True, text=True, check=False,
            env={"OPENSSL_CONF": str(OPENSSL_CONF)}, cwd=ROOT,
        )  # fmt: skip
        self.assertEqual((done.stdout, done.returncode), ("b'http/1.1'\n", 0), done.stderr)

    def test_no_callback_of_cffi(self) -> None:
        """No code of ours sets one of pyOpenSSL's callbacks, or has Twisted's TLS set one."""
        used = re.compile(
            r"set_\w+_callback|ffi\.callback|set_passwd_cb|CertificateOptions|internet\.ssl|wrapClientTLS"
        )
        for package in (torknock, pluggable):
            for path in Path(package.__path__[0]).rglob("*.py"):
                found = [line for line in path.read_text().splitlines() if used.search(line) and "`" not in line]
                self.assertEqual(found, [], path)
