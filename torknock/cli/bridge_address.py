"""The bridge's public address and fingerprint: as given, as stored in the keyring, or from tor's own files."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from torknock.errors import TorknockError
from torknock.kernel.files import read_file
from torknock.kernel.places import data_directory_of
from torknock.keyring.lines import Keyring
from torknock.operate.addresses import refusal
from torknock.protocol.bridge_line import BridgeLine, LineError, parse_address, parse_fingerprint, write_address

Address = tuple[IPv4Address | IPv6Address, int]

_FILE_LIMIT = 64 * 1024
"""Octets that are read of a file of tor's, which has some hundred."""


class BridgeUnidentified(TorknockError):
    """Neither an option, nor the keyring, nor tor's files have it."""

    def __init__(self, what: str, option: str) -> None:
        super().__init__(f"the bridge's {what} is not known", f"give it with {option}")


def find_address(keyring: Keyring, directory: Path, given: Address | None) -> Address:
    """The public address of the bridge whose keyring is in *directory*, or `BridgeUnidentified`."""
    if given is not None:
        return given
    for text in (keyring.setting("address") or "", *_published(directory)):
        try:
            where = parse_address(text)
        except LineError:
            continue
        if not refusal(where[0]):
            return where
    raise BridgeUnidentified("public address", "--address IP:PORT")


def find_fingerprint(keyring: Keyring, directory: Path, given: str | None) -> str:
    """The fingerprint of the bridge whose keyring is in *directory*, or `BridgeUnidentified`."""
    if given is not None:
        return given
    for text in (keyring.setting("fingerprint") or "", *_fingerprints(directory)):
        try:
            return parse_fingerprint(text)
        except LineError:
            continue
    raise BridgeUnidentified("fingerprint", "--fingerprint HEX")


def store(keyring: Keyring, address: Address | None, fingerprint: str | None) -> None:
    """Store what the operator gave, for later lines."""
    if address is not None:
        keyring.set_setting("address", write_address(*address))
    if fingerprint is not None:
        keyring.set_setting("fingerprint", fingerprint)


def _published(directory: Path) -> Iterator[str]:
    """The addresses of torknock in tor's `bridgelines`."""
    for words in _words_in(directory, "bridgelines"):
        if len(words) > 2 and words[:2] == ["Bridge", BridgeLine.transport]:
            yield words[2]


def _fingerprints(directory: Path) -> Iterator[str]:
    """The fingerprint in tor's `fingerprint`: "Nickname FINGERPRINT"."""
    for words in _words_in(directory, "fingerprint"):
        if len(words) == 2:
            yield words[1]


def _words_in(directory: Path, name: str) -> Iterator[list[str]]:
    """The words of each line of the file *name* in the DataDirectory that the keyring's *directory* is in, if it is."""
    data_directory = data_directory_of(directory)
    if data_directory is None:
        return
    try:
        text = read_file(data_directory / name, _FILE_LIMIT).decode("ascii", "replace")
    except OSError:
        return
    for written in text.splitlines():
        yield written.split()
