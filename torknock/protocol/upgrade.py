"""The HTTP upgrade of channel `web`: its request and its answer, written and read strictly (protocol.md §3a). Pure."""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass

from torknock.protocol import web_proof
from torknock.protocol.frames import ANSWER_AT_MOST, FRAME_AT_MOST, HEAD
from torknock.protocol.web_proof import NONCE

HEAD_AT_MOST = 24_576
"""Octets of a request's or an answer's head."""

NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
"""The answer to any other request."""

COOKIE = "session"
"""The cookie that holds the client's proof."""

ASKED_AT_MOST = ANSWER_AT_MOST
"""Octets of the answer that a request asks for: its head, and the frames behind it."""

_FILLED_AT_MOST = FRAME_AT_MOST
"""Octets up to which a head is filled, a TLS record: with what a site adds, it stays below `HEAD_AT_MOST`."""

_ADDED = 59
"""Octets that nginx adds to the head of an answer: its name, its version and the date."""

_FIELDS_AT_MOST = 100
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}):([\t\x20-\x7e\x80-\xff]*)")
_STATUS = re.compile(rb"HTTP/1\.1 ([0-9]{3})(?: [\t\x20-\x7e\x80-\xff]*)?")
_PEER = re.compile(rb"([0-9A-Fa-f:.]{2,45}):([1-9][0-9]{0,4})")
_ASKED = re.compile(rb"(?:^|; )w=([0-9]{5})(?:; |$)")
_USER_AGENT = (
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{major}.0.0.0 Safari/537.36"
)


class NotAnUpgrade(ValueError):
    """A head that is not as protocol.md §3a has it. Its text quotes nothing of it."""


@dataclass(frozen=True, slots=True)
class UpgradeRequest:
    """What a bridge needs of a client's request."""

    peer: str
    """`ADDRESS:PORT`, as the site says it. Never logged."""
    nonce: bytes
    proof: bytes
    asked: int = 0
    """Octets that the answer is to have at the client; 0 if that was not said."""


class HeadReader:
    """Finds the end of a head in octets that come in pieces of any size."""

    def __init__(self) -> None:
        self._inbox = bytearray()
        self.head: bytes | None = None
        """The head without the empty line that ends it, once that is there."""
        self.rest = b""
        """What followed it."""

    def feed(self, octets: bytes) -> None:
        """Take more octets. Raises `NotAnUpgrade` if there is no end within `HEAD_AT_MOST`."""
        if self.head is not None:
            self.rest += octets
            return
        start = max(0, len(self._inbox) - 3)
        self._inbox += octets
        end = self._inbox.find(b"\r\n\r\n", start, HEAD_AT_MOST)
        if end >= 0:
            self.head, self.rest = bytes(self._inbox[:end]), bytes(self._inbox[end + 4 :])
            self._inbox.clear()
        elif len(self._inbox) >= HEAD_AT_MOST:
            raise NotAnUpgrade("the head is too long")


def write_request(
    path: str, host: str, nonce: bytes, proof: bytes, major: int, *, size: int = 0, asked: int = 0
) -> bytes:
    """A client's request for `/`*path* of *host*, as version *major* of Chrome writes one for a WebSocket.

    Cookies fill it up to *size* octets, and say that *asked* are to be answered, as far as that is possible.
    """
    told = f"; w={min(asked, ASKED_AT_MOST):05d}; p="
    bare = _write_request(path, host, nonce, proof, major, told)
    return _write_request(path, host, nonce, proof, major, told + "x" * max(0, size - len(bare)))


def _write_request(path: str, host: str, nonce: bytes, proof: bytes, major: int, cookies: str) -> bytes:
    return (
        f"GET /{path} HTTP/1.1\r\n"
        f"Host: {host}\r\n"
        "Connection: Upgrade\r\n"
        "Pragma: no-cache\r\n"
        "Cache-Control: no-cache\r\n"
        f"User-Agent: {_USER_AGENT.format(major=major)}\r\n"
        "Upgrade: websocket\r\n"
        f"Origin: https://{host}\r\n"
        "Sec-WebSocket-Version: 13\r\n"
        "Accept-Encoding: gzip, deflate, br, zstd\r\n"
        "Accept-Language: en-US,en;q=0.9\r\n"
        f"Cookie: {COOKIE}={web_proof.write(proof)}{cookies}\r\n"
        f"Sec-WebSocket-Key: {b64encode(nonce).decode('ascii')}\r\n"
        "\r\n"
    ).encode("ascii")


def read_request(head: bytes, path: str) -> UpgradeRequest:
    """The request that *head* is, for `/`*path*. Raises `NotAnUpgrade` for anything else."""
    start, fields = _split(head)
    method, _, target = start.partition(b" ")
    wanted = b"/" + path.encode("ascii") + b" HTTP/1.1"
    if method != b"GET" or not hmac.compare_digest(target, wanted):
        raise NotAnUpgrade("it is a request for something else")
    if _field(fields, b"upgrade").lower() != b"websocket" or _field(fields, b"connection").lower() != b"upgrade":
        raise NotAnUpgrade("it asks for no WebSocket")
    if _field(fields, b"sec-websocket-version") != b"13":
        raise NotAnUpgrade("its version of WebSocket is another")
    if b"content-length" in fields or b"transfer-encoding" in fields:
        raise NotAnUpgrade("it has a body")
    peer = _field(fields, b"x-peer")
    if not _PEER.fullmatch(peer):
        raise NotAnUpgrade("it does not say by which connection it came")
    cookies = _field(fields, b"cookie")
    return UpgradeRequest(peer.decode("ascii"), _nonce(fields), _cookie(cookies), _asked(cookies))


def behind_head(asked: int) -> int:
    """The octets of frames behind the head of an answer, of which *asked* octets are asked for."""
    rest = min(asked, ASKED_AT_MOST) - _FILLED_AT_MOST
    return rest if rest >= HEAD else 0


def write_answer(nonce: bytes, proof: bytes, asked: int = 0) -> bytes:
    """The bridge's answer to a request with *nonce*; *proof* is the server's.

    A cookie fills it, so that its head has *asked* octets, less those `behind_head`, once the site has added what nginx
    adds.
    """
    bare = _write_answer(nonce, proof, "Set-Cookie: p=\r\n")
    room = min(asked, _FILLED_AT_MOST) - _ADDED - len(bare)
    return _write_answer(nonce, proof, f"Set-Cookie: p={'x' * room}\r\n" if room > 0 else "")


def _write_answer(nonce: bytes, proof: bytes, more: str) -> bytes:
    return (
        "HTTP/1.1 101 Switching Protocols\r\n"
        "Upgrade: websocket\r\n"
        "Connection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {_accepted(nonce)}\r\n"
        f"X-Request-Id: {web_proof.write(proof)}\r\n"
        f"{more}\r\n"
    ).encode("ascii")


def read_answer(head: bytes, nonce: bytes) -> bytes:
    """The server's proof in *head*, an answer to a request with *nonce*. Raises `NotAnUpgrade` for anything else."""
    start, fields = _split(head)
    status = _STATUS.fullmatch(start)
    if status is None:
        raise NotAnUpgrade("it does not answer in HTTP")
    if status[1] != b"101":
        raise NotAnUpgrade(f"it answers with status {status[1].decode('ascii')}")
    if not hmac.compare_digest(_field(fields, b"sec-websocket-accept"), _accepted(nonce).encode("ascii")):
        raise NotAnUpgrade("it answers another request")
    proof = web_proof.read(_field(fields, b"x-request-id").decode("latin-1"))
    if proof is None:
        raise NotAnUpgrade("it gives no proof")
    return proof


def _accepted(nonce: bytes) -> str:
    """`Sec-WebSocket-Accept` for *nonce* (RFC 6455 §4.2.2)."""
    given = b64encode(nonce) + _GUID
    return b64encode(hashlib.sha1(given, usedforsecurity=False).digest()).decode("ascii")


def _split(head: bytes) -> tuple[bytes, Mapping[bytes, bytes]]:
    """The first line of *head*, and its fields by their names in lower case, none of which may stand there twice."""
    if len(head) > HEAD_AT_MOST:
        raise NotAnUpgrade("the head is too long")
    start, *lines = head.split(b"\r\n")
    if len(lines) > _FIELDS_AT_MOST:
        raise NotAnUpgrade("the head has too many fields")
    fields: dict[bytes, bytes] = {}
    for line in lines:
        found = _FIELD.fullmatch(line)
        if found is None:
            raise NotAnUpgrade("a field of the head is malformed")
        name = found[1].lower()
        if name in fields and name in _ONCE:
            raise NotAnUpgrade(f"the field {name.decode('ascii')} stands there twice")
        fields[name] = found[2].strip(b" \t")  # in the expression it would take the cube of a run of blanks
    return start, fields


_ONCE = frozenset(
    b"upgrade connection sec-websocket-key sec-websocket-version sec-websocket-accept x-peer x-request-id cookie"
    b" content-length transfer-encoding".split()
)
"""The fields that are looked at. A site may send others, such as `Set-Cookie`, more than once."""


def _field(fields: Mapping[bytes, bytes], name: bytes) -> bytes:
    if name not in fields:
        raise NotAnUpgrade(f"the head lacks the field {name.decode('ascii')}")
    return fields[name]


def _nonce(fields: Mapping[bytes, bytes]) -> bytes:
    given = _field(fields, b"sec-websocket-key")
    try:
        nonce = b64decode(given, validate=True)
    except ValueError:
        raise NotAnUpgrade("its key is not base64") from None
    if len(nonce) != NONCE or b64encode(nonce) != given:
        raise NotAnUpgrade("its key is not 16 octets")
    return nonce


def _asked(field: bytes) -> int:
    """The octets that the cookie `w` asks for; 0 without it."""
    found = _ASKED.search(field)
    asked = int(found[1]) if found else 0
    if asked > ASKED_AT_MOST:
        raise NotAnUpgrade("it asks for too long an answer")
    return asked


def _cookie(field: bytes) -> bytes:
    """The proof in the one cookie that is called `COOKIE`."""
    prefix = COOKIE.encode("ascii") + b"="
    found = [each.strip() for each in field.split(b";")]
    found = [each.removeprefix(prefix) for each in found if each.startswith(prefix)]
    proof = web_proof.read(found[0].decode("latin-1")) if len(found) == 1 else None
    if proof is None:
        raise NotAnUpgrade("it has no proof")
    return proof
