"""A ClientHello taken apart, and its JA4 (FoxIO, "JA4: TLS Client Fingerprinting"). Nothing of torknock's is used."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_SERVER_NAME, _GROUPS, _SIGNATURES, _ALPN, _VERSIONS, _KEY_SHARE = 0, 10, 13, 16, 43, 51


@dataclass(frozen=True, slots=True)
class ClientHello:
    """What a client has said: numbers of RFC 8446, in their order, with GREASE (RFC 8701)."""

    ciphers: Sequence[int]
    extensions: Sequence[int]
    bodies: dict[int, bytes]
    """The octets of each extension."""

    @property
    def alpn(self) -> list[bytes]:
        """The protocols on offer."""
        return list(_prefixed(self.bodies[_ALPN][2:])) if _ALPN in self.bodies else []

    @property
    def groups(self) -> list[int]:
        """The groups on offer."""
        return _numbers(self.bodies[_GROUPS][2:])

    @property
    def key_shares(self) -> list[int]:
        """The groups for which there is a key."""
        found, octets = [], self.bodies[_KEY_SHARE][2:]
        while octets:
            group, size = struct.unpack_from("!HH", octets)
            found.append(group)
            octets = octets[4 + size :]
        return found

    def ja4(self) -> str:
        """The fingerprint of a hello that came over TCP."""
        ciphers, extensions = [_without_grease(each) for each in (self.ciphers, self.extensions)]
        version = max(_without_grease(_numbers(self.bodies[_VERSIONS][1:])))
        first = self.alpn[0].decode() if self.alpn else "00"
        head = (
            f"t{ {0x0304: '13', 0x0303: '12'}[version] }{'d' if _SERVER_NAME in extensions else 'i'}"
            f"{len(ciphers):02}{len(extensions):02}{first[0]}{first[-1]}"
        ).replace(" ", "")
        named = [each for each in extensions if each not in (_SERVER_NAME, _ALPN)]
        signatures = _without_grease(_numbers(self.bodies[_SIGNATURES][2:]))
        return f"{head}_{_hashed(_hex(sorted(ciphers)))}_{_hashed(f'{_hex(sorted(named))}_{_hex(signatures)}')}"


def is_grease(number: int) -> bool:
    """Whether *number* is reserved so that servers learn to ignore what they do not know (RFC 8701)."""
    return number & 0x0F0F == 0x0A0A and number >> 8 == number & 0xFF


def client_hello(octets: bytes) -> ClientHello:
    """The ClientHello in *octets*, which are one or more whole records and nothing else."""
    message = b"".join(_records(octets))
    if message[0] != 1 or len(message) != 4 + int.from_bytes(message[1:4]):
        raise ValueError("this is not one ClientHello")
    at = 4 + 2 + 32
    at += 1 + message[at]
    size = int.from_bytes(message[at : at + 2])
    ciphers = _numbers(message[at + 2 : at + 2 + size])
    at += 2 + size
    at += 1 + message[at]
    numbers, bodies, at = [], {}, at + 2
    while at < len(message):
        number, size = struct.unpack_from("!HH", message, at)
        numbers.append(number)
        bodies[number] = message[at + 4 : at + 4 + size]
        at += 4 + size
    return ClientHello(ciphers, numbers, bodies)


def _records(octets: bytes) -> Iterator[bytes]:
    while octets:
        kind, size = octets[0], int.from_bytes(octets[3:5])
        if kind != 22 or len(octets) < 5 + size:
            raise ValueError("this is not a whole record of a handshake")
        yield octets[5 : 5 + size]
        octets = octets[5 + size :]


def _prefixed(octets: bytes) -> Iterator[bytes]:
    while octets:
        yield octets[1 : 1 + octets[0]]
        octets = octets[1 + octets[0] :]


def _numbers(octets: bytes) -> list[int]:
    return [number for (number,) in struct.iter_unpack("!H", octets)]


def _without_grease(numbers: Sequence[int]) -> list[int]:
    return [number for number in numbers if not is_grease(number)]


def _hex(numbers: Sequence[int]) -> str:
    return ",".join(f"{number:04x}" for number in numbers)


def _hashed(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
