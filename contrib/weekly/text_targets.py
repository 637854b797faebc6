"""Parsers of text that people, tor or other programs of torknock write."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from contrib.weekly.altered import altered
from contrib.weekly.target import Fault, Target, same, text
from pluggable.arguments import parse_server_options, parse_socks, write_socks
from pluggable.environment import parse_proxy, read_environment
from pluggable.errors import ArgumentsError, ProxyError, StartError
from torknock.bridge import status_report
from torknock.bridge.status_report import LineInUse, Status, StatusError, Trouble, Warned
from torknock.errors import TorknockError
from torknock.operate import pasted, tor_log
from torknock.operate.setup.doors import door_of
from torknock.protocol.bridge_line import LineError, parse_arguments, parse_bridge_line, write_bridge_line
from torknock.redact import redact
from torknock.service import access, dial_requests, gate_requests
from torknock.service.grammar import LINE_AT_MOST, Lines, Malformed, no, octets
from torknock.tor.reasons import why_failed, why_refused

_KEY = "A" * 43
_BRIDGE = f"Bridge torknock 192.0.2.7:443 {'A' * 40} key={_KEY} pin={_KEY}"
_LINES = (
    _BRIDGE.encode(),
    f"torknock [2001:db8::7]:8443 key={'A' * 86} epoch=5900000 pin={_KEY} n=64 sni=bridge.example".encode(),
    b"Bridge torknock 192.0.2.7:443 key=c2VjcmV0 scheme=knock integrity=5",
)


def _line(given: bytes) -> None:
    line = parse_bridge_line(text(given))
    same(parse_bridge_line(write_bridge_line(line)), line)


def _pasted(given: bytes) -> None:
    line = pasted.read(text(given)).bridge_line
    same(parse_bridge_line(write_bridge_line(line)), line)


def _arguments(given: bytes) -> None:
    parsed = parse_socks(given)
    written = write_socks(parsed)
    same(write_socks(parse_socks(written)), written)
    parse_arguments(parsed)


def _environment(given: bytes) -> None:
    """The variables stand between zeros, without the common beginning of their names."""
    pairs = (pair.partition("=") for pair in text(given).split("\0"))
    read_environment({f"TOR_PT_{name}": value for name, _, value in pairs})


def _proxy(given: bytes) -> None:
    """As it is, and behind a password, which no error may hold."""
    for url in (text(given), f"socks5://user:a-password@{text(given)}"):
        try:
            parse_proxy(url)
        except ProxyError as error:
            if "a-password" in str(error):
                raise Fault("the error holds the password") from error


def _lines(given: bytes) -> None:
    lines = Lines()
    lines.feed(given)
    while (line := lines.line()) is not None:
        same(octets(line), line.encode("ascii") + b"\n")
    octets(no("bad", text(given)))


def _requests(*parsers: Callable[[str], object]) -> Callable[[bytes], None]:
    """Try each of *parsers* on a line; what a parser returns can be written, and is read again as the same."""

    def parse(given: bytes) -> None:
        line = text(given[:LINE_AT_MOST])
        for parser in parsers:
            try:
                request = parser(line)
            except Malformed:
                continue
            if hasattr(request, "host") or isinstance(request, (gate_requests.Admit, gate_requests.Withdraw)):
                same(parser(str(request)), request)

    return parse


def _judged(line: str) -> object:
    return gate_requests.parse_judged(line, 3)


def _syns(line: str) -> object:
    syns = gate_requests.parse_judge(line)
    same(gate_requests.parse_judge(gate_requests.judge(syns)), syns)
    return syns


def _access(given: bytes) -> None:
    entries = access.parse(text(given))
    same(access.parse("".join(map(str, entries))), entries)


_TOLD = Status(
    version="1", uptime=2, posture="closed", port=443, connections=1, opened=1, let_in=1, refused=None, lines=1,
    lines_in_use=1, tokens=24, in_use=(LineInUse("alice", 1, 2),), warnings=(Warned(Trouble.GUESSING, "a text"),),
)  # fmt: skip


def _status(given: bytes) -> None:
    """The octets themselves, and a status that they have altered."""
    other = json.dumps(altered(json.loads(status_report.to_json(_TOLD)), given)).encode()
    for told in (given, other):
        try:
            found = status_report.from_json(told)
        except StatusError:
            continue
        same(status_report.from_json(status_report.to_json(found)), found)


def _log(given: bytes) -> None:
    """What tor and the journal wrote, and what tor said of a configuration."""
    told = text(given)
    tor_log.judge(told)
    entries = [{"PRIORITY": "4", "MESSAGE": "[warn] torknock", "_PID": "7"}] * 2
    others = altered(entries, given)
    tor_log.from_journal("\n".join(map(json.dumps, others)) if isinstance(others, list) else "")
    why_refused(told)
    why_failed(told.splitlines())
    if not redact(told).isprintable():
        raise Fault("what is redacted is more than a line")


def _door(given: bytes) -> None:
    door_of(text(given), "tor")


def _joined(variables: Mapping[str, str]) -> bytes:
    return "\0".join(f"{name}={value}" for name, value in variables.items()).encode()


_ENVIRONMENT = {"MANAGED_TRANSPORT_VER": "1", "STATE_LOCATION": "/var/lib/tor", "EXIT_ON_STDIN_CLOSE": "1"}
_SERVER = {
    "SERVER_TRANSPORTS": "torknock", "SERVER_BINDADDR": "torknock-[::]:443", "ORPORT": "127.0.0.1:9001",
    "SERVER_TRANSPORT_OPTIONS": "torknock:posture=closed;torknock:a=b", "EXTENDED_SERVER_PORT": "127.0.0.1:9002",
    "AUTH_COOKIE_FILE": "/cookie",
}  # fmt: skip
_CLIENT = {"CLIENT_TRANSPORTS": "torknock,b", "PROXY": "socks5://a:b@192.0.2.1:1080"}

TARGETS = (
    Target("bridge-line", _line, (LineError,), _LINES),
    Target("pasted-line", _pasted, (LineError,), (*_LINES, b"> " + _LINES[0].replace(b" key", b"\n> key") + b".")),
    Target("socks-arguments", _arguments, (ArgumentsError, LineError), (
        f"key={_KEY};pin={_KEY};n=8".encode(), b"a=b\\;c;d=e\\\\", b"key=c2VjcmV0;scheme=knock")),
    Target("server-options", lambda given: parse_server_options(text(given)), (ArgumentsError,), (
        b"torknock:posture=closed;torknock:keyring=/a\\:b", b"a:b=c;d:e=f")),
    Target("environment", _environment, (StartError,), (
        _joined(_ENVIRONMENT | _SERVER), _joined(_ENVIRONMENT | _CLIENT))),
    Target("proxy", _proxy, (), (b"socks5://user:pass@192.0.2.1:1080", b"http://[2001:db8::1]:3128", b"socks4a://u@::")),
    Target("helper-lines", _lines, (Malformed,), (b"ok yes\n", b"no bad a sentence\nok\n", b"x" * 100)),
    Target("gate-requests", _requests(gate_requests.parse, _syns, _judged), (), (
        b"guard 0.0.0.0 443 closed tokens", b"guard :: 443 filtered judge", b"admit 300 1 2 4294967295", b"withdraw 7",
        b"intact", b"refused", b"leave", b"judge 192.0.2.1,40000,2001:db8::1,443,1,-", b"judged 010")),
    Target("dial-requests", _requests(dial_requests.parse, dial_requests.parse_tsval, dial_requests.parse_isn,
                                      dial_requests.parse_errno_and_text), (), (
        b"dial 192.0.2.1 443 7", b"stamped fe80::1%eth0 443 ::1", b"tsval 7", b"isn 0", b"111 Connection refused")),
    Target("status", _status, (), (status_report.to_json(_TOLD), b"\0\1\2\0\5\x90")),
    Target("access-list", _access, (TorknockError,), (
        b'[[door]]\naddress = "0.0.0.0"\nport = 443\nposture = "closed"\nuser = "debian-tor"\n',
        b"door = [{}]", b"#\n")),
    Target("tor-log", _log, (), (
        b"[warn] Managed proxy: torknock key=abc",
        b"Nov 23 [notice] Tor 0.4.8 opening log file.\n[err] torknock 1.2.3.4",
        b"\0\1\2\0\5\x90")),
    Target("transport-options", _door, (), (
        b"ServerTransportListenAddr torknock 0.0.0.0:443\nServerTransportOptions torknock posture=filtered",)),
)  # fmt: skip
"""Those parsers."""
