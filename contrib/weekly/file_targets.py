"""Readers of files, of the kernel's tables, and of what other programs of the host answer."""

from __future__ import annotations

import atexit
import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, cast
from unittest import mock

from stem import ControllerError

from contrib.weekly.altered import altered
from contrib.weekly.target import Fault, Target, same, text
from pluggable.errors import ORPortError
from pluggable.extorport import read_cookie
from torknock.bridge.ledger import SpentKnocks, SpentTokens, SpentUnusable
from torknock.client.memory import Memory
from torknock.errors import TorknockError
from torknock.kernel import proc
from torknock.keyring.lines import Keyring
from torknock.operate.doctor.tor import bridge_options, client_options, is_exposed, takes_clients
from torknock.operate.firewall.doubts import counting
from torknock.operate.setup import place
from torknock.operate.setup.file_changes import Block
from torknock.operate.setup.record import Record
from torknock.privileged.gate.translating_iptables import of_iptables
from torknock.privileged.gate.translating_rules import StrangersSYN, of_nft, takers
from torknock.protocol.bridge_line import Channel
from torknock.tor.asked import Asked
from torknock.tor.control import RunningTor
from torknock.tor.inspect import facts

_NOW = 1_790_000_000
_EPOCH = _NOW // 300


@cache
def _directory() -> Path:
    """In memory where the host has such a file system, since thousands of files a second are written."""
    memory = Path("/dev/shm")  # noqa: S108  a directory of its own in it
    made = Path(tempfile.mkdtemp(prefix="torknock-fuzz-", dir=memory if memory.is_dir() else None))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


@contextlib.contextmanager
def _file(name: str, octets: bytes) -> Iterator[Path]:
    """A file of *octets* in a directory that is empty but for it, before and afterwards."""
    directory = _directory() / "tried"
    directory.mkdir(mode=0o700)
    try:
        path = directory / name
        path.write_bytes(octets)
        yield path
    finally:
        shutil.rmtree(directory)


def _knocks(octets: bytes) -> None:
    with _file("knocks.sqlite", octets) as path:
        memory = Memory(path.parent)
        try:
            first = memory.claim(b"l" * 16, _EPOCH, 7)
            if memory.claim(b"l" * 16, _EPOCH, 7):
                raise Fault(f"a token was claimed twice, {first=}")
            memory.start(b"l" * 16)
            memory.forget(_EPOCH)
        finally:
            memory.close()


def _keyring(octets: bytes) -> None:
    with _file("keyring.sqlite", octets) as path, Keyring.open(path.parent, create=False) as keyring:
        keyring.erase(_NOW)
        for issued in keyring.live(_NOW):
            if issued.line.scheme == "token":
                issued.line.forward(max(_EPOCH, issued.line.first_epoch)) if issued.line.ratchets else None
        keyring.lines()
        keyring.setting("posture")
        keyring.advance(_EPOCH, 100)
        keyring.count({"alice": 1}, _NOW)
        keyring.changes()


def _spent(octets: bytes) -> None:
    """What it has written down, it finds again."""
    with _file("spent", octets) as path:
        tokens = SpentTokens(path)
        try:
            tokens.enter(_EPOCH)
            tokens.add(max(_EPOCH, tokens.highest), 7)
        finally:
            tokens.close()
        again = SpentTokens(path)
        try:
            if (max(_EPOCH, tokens.highest), 7) not in again.enter(_EPOCH):
                raise Fault("a token that was spent is forgotten")
        finally:
            again.close()


def _spent_knocks(octets: bytes) -> None:
    with _file("spent", octets) as path:
        knocks = SpentKnocks(path)
        try:
            knocks.read({1, 2})
            knocks.add(1, 2, 3)
        finally:
            knocks.close()


def _cookie(octets: bytes) -> None:
    with _file("cookie", octets) as path:
        read_cookie(path)


_ADDED = "%include /etc/tor/torrc.d/torknock.conf\n"


def _torrc(octets: bytes) -> None:
    """What is added to a torrc can be taken out again, octet for octet."""
    with _file("torrc", octets) as path:
        place.includes(path, Path("/etc/tor/torrc.d/torknock.conf"))
        block = Block(str(path), _ADDED)
        if not block.is_needed():
            return
        block.inspect([])
        block.make()
        if block.is_needed():
            raise Fault("what was added to torrc is not there")
        if told := block.undo():
            raise Fault(told)
        same(path.read_bytes(), octets)


def _record(octets: bytes) -> None:
    """The octets themselves, and a record that they have altered."""
    other = json.dumps(altered(json.loads(_RECORD), octets)).encode()
    for told in (octets, other):
        with _file("setup.json", told) as path, contextlib.suppress(TorknockError):
            for change in Record(path).changes():
                same(isinstance(change.key, tuple), True)


def _nftables(octets: bytes) -> None:
    """What nft would write if it were another version."""
    for version in (4, 6):
        takers(of_nft(altered(_RULES, octets), StrangersSYN(443, version, None, "eth0"), {}), "input")


def _iptables(octets: bytes) -> None:
    for version, address in ((4, "192.0.2.7"), (6, None)):
        takers(of_iptables(text(octets), StrangersSYN(443, version, address, "eth0")), "INPUT")
    counted = counting(text(octets), "iptables")
    same(counting(counted.text, "iptables").doubts, [])


def _process(octets: bytes) -> None:
    """A process that has chosen its own name and arguments; the kernel writes the rest."""
    name, _, arguments = octets.partition(b"\0")
    visible = name[:15].replace(b"\\", b"\\\\").replace(b"\n", b"\\n")
    root = _directory() / "proc"
    (root / "7").mkdir(parents=True, exist_ok=True)
    (root / "7" / "status").write_bytes(b"Name:\t" + visible + _STATUS)
    (root / "7" / "cmdline").write_bytes(arguments)
    with mock.patch.object(proc, "_PROC", root):
        found = proc.process(7)
        proc.transport_of(1, "server")
    if (found.parent, found.uid, found.may_administer_network) != (1, 1000, False):
        raise Fault("the name of a process has changed what is told of it")


def _listeners(octets: bytes) -> None:
    """A row of /proc/net/tcp with any addresses, ports, states and inode (proc(5))."""
    octets = octets[:44].ljust(44, b"\0")
    for host, name in ((octets[:4], "tcp"), (octets[:16], "tcp6")):
        row = f"0: {host.hex().upper()}:{octets[16:18].hex()} {host.hex()}:0000 {octets[18]:02X} 0:0 00:0 0 0 0"
        with mock.patch.object(Path, "read_text", lambda *_, row=row: f"sl\n{row} {octets[19]} 1\n"):
            list(proc._listening(name))
            proc.is_served("0.0.0.0", 443)  # noqa: S104  looked up


class _Answers:
    """A tor that answers what it is asked with one line of a text after the other."""

    def __init__(self, told: str) -> None:
        self._lines = told.split("\n")
        self._asked = 0

    def _next(self) -> str:
        self._asked += 1
        return self._lines[self._asked % len(self._lines)].replace("\\n", "\n")

    def get_info(self, name: str, *default: Any) -> Any:
        answer = self._next()
        if answer or default == ():
            return answer
        return default[0]

    def get_conf(self, name: str, default: Any, multiple: bool) -> Any:
        return self._next().split("|")


def _control(octets: bytes) -> None:
    """What tor says of itself, judged as a set-up and `doctor` do."""
    asked = cast(Asked, _Answers(text(octets)))
    found = facts(asked)
    for judged in (bridge_options, client_options):
        judged(found)
    is_exposed(found)
    takes_clients(found)
    tor = RunningTor(asked)
    for property_ in (tor.connected, tor.first_hops):
        property_()
    _ = tor.config_file, tor.address, tor.fingerprint, tor.network_disabled


_STATUS = (
    b"\nTgid:\t7\nPPid:\t1\nUid:\t1000\t1000\t1000\t1000\nGid:\t1000\t1000\t1000\t1000\nGroups:\t1 2\n"
    b"CapEff:\t0000000000000000\nNoNewPrivs:\t1\n"
)
_RECORD = json.dumps({"format": 2, "changes": [
    {"kind": "File", "path": "/etc/a", "text": "x", "mode": 420, "group": 0, "reader": "tor", "before": None},
    {"kind": "Block", "path": "/etc/tor/torrc", "text": "x\n", "reader": "tor", "lead": "", "former": ""},
    {"kind": "User", "name": "torknock"}, {"kind": "Unit", "name": "torknock-gate.socket"},
]})  # fmt: skip
_OF = {"family": "inet", "table": "filter", "chain": "input"}
_DPORT = {"payload": {"protocol": "tcp", "field": "dport"}}
_RULES: list[dict[str, Any]] = [
    {"table": {"family": "inet", "name": "filter", "handle": 1}},
    {"set": {"family": "inet", "table": "filter", "name": "ports", "type": "inet_service", "elem": [22, 443]}},
    {"chain": {"family": "inet", "table": "filter", "name": "input", "handle": 1, "type": "filter", "hook": "input",
               "prio": 0, "policy": "drop"}},
    {"chain": {"family": "inet", "table": "filter", "name": "more", "handle": 2}},
    {"rule": _OF | {"handle": 3, "expr": [
        {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["established", "related"]}},
        {"accept": None}]}},
    {"rule": _OF | {"handle": 4, "expr": [
        {"match": {"op": "==", "left": _DPORT, "right": {"set": [22, {"range": [440, 450]}]}}}, {"counter": {}},
        {"jump": {"target": "more"}}]}},
    {"rule": _OF | {"handle": 5, "expr": [{"vmap": {"key": _DPORT, "data": {"set": [[443, {"accept": None}]]}}}]}},
    {"rule": _OF | {"handle": 6, "chain": "more", "expr": [
        {"match": {"op": "==", "left": _DPORT, "right": "@ports"}}, {"dnat": {"addr": "192.0.2.9", "port": 443}}]}},
]  # fmt: skip
_SAVED = (
    b"*filter\n:INPUT DROP [0:0]\n:more - [0:0]\n-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n"
    b"-A INPUT ! -i lo -p tcp -m multiport --dports 22,440:450 -j more\n-A more -d 192.0.2.7/32 -j DNAT\nCOMMIT\n"
)
_TOLD = (
    b"0.4.8.10\n1234\n127.0.0.1:9001\nNOTICE BOOTSTRAP PROGRESS=100\nBUILT $ABC~a,$DEF~b PURPOSE=GENERAL\n1\n"
    b"torknock 0.0.0.0:443\n$ABC~a CONNECTED"
)


def _written(name: str, make: Callable[[Path], object]) -> bytes:
    """The file *name* that *make* leaves in a directory."""
    with tempfile.TemporaryDirectory(prefix="torknock-fuzz-") as directory:
        make(Path(directory))
        return (Path(directory) / name).read_bytes()


def _make_knocks(directory: Path) -> None:
    memory = Memory(directory)
    for isn in range(1, 9):
        memory.claim(b"l" * 16, _EPOCH, isn)
    memory.forget(_EPOCH)
    memory.close()


def _make_keyring(directory: Path) -> None:
    with Keyring.open(directory, create=True) as keyring:
        keyring.add("alice", expires=None, now=_NOW, note="a note")
        keyring.add("bob", expires=_NOW + 86_400, now=_NOW, channel=Channel.RAW)
        keyring.set_setting("posture", "closed")


def _make_tokens(directory: Path) -> None:
    tokens = SpentTokens(directory / "spent")
    tokens.enter(_EPOCH, {(_EPOCH, 7), (_EPOCH - 1, 8)})
    tokens.close()


def _make_spent_knocks(directory: Path) -> None:
    knocks = SpentKnocks(directory / "spent")
    knocks.read({1})
    knocks.reserve(2)
    knocks.add(1, 2, 3)
    knocks.close()


_SELECTED = (b"\0\1\2\0\5\x90", b"\0\2\xff", b"\0\x20\7\0\x30\x16")

TARGETS = (
    Target("knocks-file", _knocks, (), (_written("knocks.sqlite", _make_knocks), b"")),
    Target("keyring-file", _keyring, (TorknockError,), (_written("keyring.sqlite", _make_keyring),)),
    Target("spent-tokens", _spent, (SpentUnusable,), (_written("spent", _make_tokens), b"\0" * 24)),
    Target("spent-knocks", _spent_knocks, (SpentUnusable,), (_written("spent", _make_spent_knocks),)),
    Target("cookie-file", _cookie, (ORPortError,), (b"! Extended ORPort Auth Cookie !\x0a" + bytes(32),)),
    Target("torrc", _torrc, (), (
        b"ORPort 127.0.0.1:9001\r\n# \xe4", b"ContactInfo a\\\n", b"Log notice stdout", _ADDED.encode(), b"")),
    Target("setup-record", _record, (TorknockError,), (_RECORD.encode(), *_SELECTED)),
    Target("nftables-rules", _nftables, (TorknockError,), _SELECTED),
    Target("iptables-rules", _iptables, (), (_SAVED,)),
    Target("process", _process, (), (b"tor\0/usr/bin/torknock\0server\0", b"a\nUid:\t0\0x")),
    Target("listeners", _listeners, (), (bytes(16) + b"\1\xbb\x0a\7", b"\xff" * 44)),
    Target("control-port", _control, (TorknockError, ControllerError), (_TOLD,)),
)  # fmt: skip
"""Those readers."""
