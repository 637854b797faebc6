"""TLS whose ClientHello is a browser's: Chrome's, written by BoringSSL through the package `utls`.

`utls` is trusted with the client's TLS and nothing else (contrib/doc/attacks.md): certificates are judged by this
program, with OpenSSL's trust store, and no secret of a line reaches it but in a finished proof. What OpenSSL's
`Connection` does, `BrowserTLS` does in the same words, so that the pump does not know the difference.

The law of one connection: `do_handshake` until it is done; then its key log is read and closed, and never opened again.
A server that chooses less than TLS 1.3, or whose certificate the trust store does not know, breaks the handshake before
anything but the ClientHello was given out.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import ParamSpec, TypeVar

from cryptography import x509
from OpenSSL import SSL
from OpenSSL.crypto import X509Store

from torknock.channel.exporter import UnknownCipher, exported, hash_of
from torknock.channel.key_log import KeyLog
from torknock.channel.trust import distrusted
from torknock.channel.utls_types import UTLS, Fingerprint
from torknock.errors import TorknockError

_UTLS: UTLS | None = None
with suppress(ImportError):  # it has wheels for some platforms only
    import utls

    _UTLS = utls

Asked = ParamSpec("Asked")
Answer = TypeVar("Answer")

PROFILE = "chrome:stable"

_RECORD = 16 * 1024
"""Octets that a TLS record holds at most (RFC 8446 §5.1)."""

_PIECE = _RECORD + 512
"""More octets than a record takes."""

_NOTHING = memoryview(b"")

_ALPS = (17513, 17613)
"""Extensions of Chrome's that go with HTTP/2 (application_settings, and its newer number)."""


class NoBrowser(TorknockError):
    """No browser's ClientHello can be written by this process, for this *reason*."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"no browser's ClientHello: {reason}", "contrib/install installs what is missing")
        self.reason = reason


class Browser:
    """A browser's TLS, as it is for the life of the browser's process.

    *shuffle* puts a list in an order by chance: Chrome keeps one order of its trust anchors while it runs. Raises
    `NoBrowser` where there is none.
    """

    def __init__(self, shuffle: Callable[[list[bytes]], None]) -> None:
        self._profiles: dict[tuple[str, ...], Fingerprint] = {}
        self._settings = _library().Fingerprint.from_preset(PROFILE).to_dict()
        if anchors := _prefixed(self._settings.get("trust_anchors") or b""):
            shuffle(anchors)
            self._settings |= {"trust_anchors": b"".join(anchors), "permute_trust_anchors": False}
        try:
            self.connection(None)
        except OSError as error:
            raise NoBrowser(f"its key log cannot be opened ({error.strerror or 'no /proc'})") from error

    def connection(
        self, sni: str | None, alpn: Sequence[str] = ("h2", "http/1.1"), trust: X509Store | None = None
    ) -> BrowserTLS:
        """TLS for a connection to *sni*, or to an address.

        *alpn* is what the browser offers: `("http/1.1",)` for a WebSocket. Without *trust* any certificate will do that
        proves its key. Raises `OSError`, as when this process has no descriptors left.
        """
        return BrowserTLS(self._profile(tuple(alpn)), sni, trust)

    def _profile(self, alpn: tuple[str, ...]) -> Fingerprint:
        if alpn not in self._profiles:
            settings = self._settings | {"alpn": list(alpn)}
            if "h2" not in alpn:
                order = [number for number in settings["extensions_order"] if number not in _ALPS]
                settings |= {"alps": [], "extensions_order": order}
            self._profiles[alpn] = _library().Fingerprint.from_dict(settings)
        return self._profiles[alpn]


class BrowserTLS:
    """The client's end of one connection. Provides `torknock.channel.side.TLS`."""

    def __init__(self, profile: Fingerprint, sni: str | None, trust: X509Store | None) -> None:
        self._trust = trust
        self._log = KeyLog()
        self._secret: bytes | None = None
        library = _library()
        context = library.SSLContext(library.PROTOCOL_TLS_CLIENT)  # of its own: a key log is a context's
        context.check_hostname = False
        context.verify_mode = library.CERT_NONE
        context.set_fingerprint(profile)
        context.keylog_filename = self._log.path
        self._into, self._out = library.MemoryBIO(), library.MemoryBIO()
        self._coming, self._said = _NOTHING, [b""]
        """What is yet to be fed to the library, and what it has written: its BIOs stay as large as what they held."""
        self._tls = context.wrap_bio(self._into, self._out, server_hostname=sni)

    def do_handshake(self) -> None:
        """See `TLS.do_handshake`."""
        try:
            self._fed(self._tls.do_handshake)
        except SSL.WantReadError:
            self._check_version()
            raise
        except SSL.Error:
            self._drop_log()
            raise
        self._check_version()
        try:
            self._secret = self._log.take_exporter_secret()
        except OSError as error:
            raise _broken(f"the key log cannot be closed: {error.strerror}") from error
        if self._trust is not None and distrusted(self._trust, self._chain()):
            raise _broken("certificate verify failed")

    def _fed(self, method: Callable[Asked, Answer], *arguments: Asked.args, **named: Asked.kwargs) -> Answer:
        """What *method* of the library's returns, which is fed a record or more at a time. Raises as `_ask`."""
        while True:
            if self._coming and self._into.pending < _PIECE:
                self._into.write(bytes(self._coming[:_PIECE]))
                self._coming = self._coming[_PIECE:] or _NOTHING  # an empty slice would keep all that came
            try:
                return _ask(method, *arguments, **named)
            except SSL.WantReadError:
                if not self._coming:
                    raise

    def _check_version(self) -> None:
        """What the server chose, if it has: TLS 1.2 stays on offer, as a browser offers it, and is not spoken."""
        chosen = self._tls.cipher()
        if chosen is not None and not chosen[0].startswith("TLS_"):
            self._drop_log()
            raise _broken("unsupported protocol")

    def _drop_log(self) -> None:
        """The handshake has failed: no one reads the log. It is empty even where it cannot be closed altogether."""
        with suppress(OSError):
            self._log.close()

    def bio_write(self, octets: bytes, /) -> int:
        """See `TLS.bio_write`."""
        self._coming = memoryview(bytes(self._coming) + octets if self._coming else octets)
        return len(octets)

    def bio_read(self, at_most: int, /) -> bytes:
        """See `TLS.bio_read`."""
        octets = b"".join((*self._said, self._out.read(at_most)))
        self._said = [octets[at_most:]]
        if not octets:
            raise SSL.WantReadError
        return octets[:at_most]

    def recv(self, at_most: int, /) -> bytes:
        """See `TLS.recv`."""
        octets = self._fed(self._tls.read, at_most)
        if not octets:
            raise SSL.ZeroReturnError
        return octets

    def sendall(self, data: bytes | memoryview, /) -> int:
        """See `TLS.sendall`."""
        left = memoryview(data)
        while left:
            left = left[_ask(self._tls.write, left[:_RECORD]) :]
            self._said.append(self._out.read(_PIECE))
        return len(data)

    def shutdown(self) -> bool:
        """See `TLS.shutdown`."""
        return _ask(self._tls.unwrap)

    def peer_certificate(self) -> x509.Certificate | None:
        """See `TLS.peer_certificate`."""
        shown = self._tls.getpeercert(True)
        return None if shown is None else x509.load_der_x509_certificate(shown)

    def export_keying_material(self, label: bytes, length: int, context: bytes, /) -> bytes:
        """See `TLS.export_keying_material`; once. Raises `SSL.Error` if the secret was not told."""
        secret, self._secret = self._secret, None
        chosen = self._tls.cipher()
        if secret is None or chosen is None:
            raise _broken("no exporter secret")
        try:
            return exported(hash_of(chosen[0]), secret, label, context, length)
        except UnknownCipher as error:
            raise _broken(str(error)) from error

    def renew_bios(self) -> None:
        """Nothing: `utls` ties its BIOs to the connection until the end."""

    def _chain(self) -> list[bytes]:
        """What the peer has shown, its own certificate first, in DER."""
        return [each.public_bytes(each.ENCODING_DER) for each in self._tls.get_unverified_chain()]


def why_none() -> str | None:
    """Why this process can write no browser's ClientHello; None if it can."""
    try:
        Browser(lambda anchors: None)
    except NoBrowser as error:
        return error.reason
    return None


def _library() -> UTLS:
    """The package. Raises `NoBrowser` where it is not."""
    if _UTLS is None:
        raise NoBrowser("the Python package utls is not installed; it has wheels for Linux on x86-64 and ARM64 alone")
    return _UTLS


def profile_date() -> datetime.date | None:
    """The month of the profile's release, its first day; None without `utls`."""
    try:
        numbers = re.match(r"(2\d{3})\.(\d{1,2})\b", version("utls")) if _UTLS is not None else None
    except PackageNotFoundError:
        return None
    if numbers is None or not 1 <= int(numbers[2]) <= 12:
        return None
    return datetime.date(int(numbers[1]), int(numbers[2]), 1)


def _prefixed(octets: bytes) -> list[bytes]:
    """The entries of *octets*, each behind an octet with its length and together with it."""
    found = []
    while octets:
        found.append(octets[: octets[0] + 1])
        octets = octets[octets[0] + 1 :]
    return found


def _ask(method: Callable[Asked, Answer], *arguments: Asked.args, **named: Asked.kwargs) -> Answer:
    """What *method* of the library's returns. Raises pyOpenSSL's errors in place of its own."""
    try:
        return method(*arguments, **named)
    except _library().SSLError as error:
        error.__traceback__ = None  # a frame in it holds the error: a cycle that keeps the whole connection
        if isinstance(error, _library().SSLWantReadError):
            raise SSL.WantReadError from None
        raise _broken(str(error.args[-1]) if error.args else "TLS failed") from None


def _broken(why: str) -> SSL.Error:
    return SSL.Error([("", "", why)])
