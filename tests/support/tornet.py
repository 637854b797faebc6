"""A whole private Tor network with Debian's tor: three authorities, three relays, two exits, a web server.

                     ┌──────────────────── net: 198.18.1.2 ────────────────────┐
    client           │  authority0..2   relay0..2   exit0..1   web server :80  │
      └── hub ── bridge ──┘ relay ─────────────── exit ──────────┘              │
           └─ probe  └──────────────────────────────────────────────────────────┘

The hosts are `tests.support.netns`'s. tor's `TestingTorNetwork` allows what a real network would refuse (votes within
seconds, relays that share an address). tor acts once a second, so the network needs some fifteen seconds and each
further tor two or three. Needs root, `tor` and `tor-gencert`. Everything blocks: from a reactor, `deferToThread`.

    with TorNetwork(progress=print) as network:
        bridge = network.bridge("ServerTransportPlugin obfs4 exec /usr/bin/obfs4proxy").wait_bootstrapped()
        client = network.client(bridge.bridge_lines, "ClientTransportPlugin obfs4 exec /usr/bin/obfs4proxy")
        client.wait_bootstrapped()
        assert network.fetch("/", via=client) == PAGE
        print(network.circuits(client))
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import http.server
import itertools
import os
import re
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self
from urllib.parse import urlsplit

from stem.control import Controller

from tests.support.netns import Host, Lab, Namespace, end

TOR = "/usr/sbin/tor"
PAGE = b"<!doctype html><title>It works</title><p>You came through three hops.\n"
"""What the web server has at ``/``."""

_VOTING_INTERVAL = 300  # divides 30 minutes, as tor wants it
_BLOCK = hashlib.shake_128(b"web server").digest(65521)  # a prime: no offset looks like another


class TorFailed(Exception):
    """A tor, or the network, did not do what was waited for; the text ends with the last lines of a log."""


def content(size: int) -> bytes:
    """The *size* octets that the web server has at ``/bytes/<size>``."""
    return (_BLOCK * (size // len(_BLOCK) + 1))[:size]


def _silent(said: str) -> None:
    """Progress that nobody follows."""


def until(true: Callable[[], Any], timeout: float, otherwise: Callable[[], str]) -> None:
    """Come back when *true* says so; after *timeout* seconds raise `TorFailed` with the text of *otherwise*."""
    deadline = time.monotonic() + timeout
    while not true():
        if time.monotonic() > deadline:
            raise TorFailed(f"{otherwise()} (waited {timeout:.0f} s)")
        time.sleep(0.05)


class Client(Protocol):
    """A tor that has a SOCKS port on 127.0.0.1 of its host."""

    @property
    def host(self) -> Namespace:
        """Where it is."""

    @property
    def socks_port(self) -> int:
        """The port."""

    def trouble(self, what: str) -> str:
        """*what*, with tor's last words."""


class Tor:
    """One tor process on *host*, already started; its configuration and log are in *data_directory*."""

    def __init__(
        self, nickname: str, host: Host, data_directory: Path, torrc: str, progress: Callable[[str], None] = _silent
    ) -> None:
        self.nickname, self.host, self.data_directory = nickname, host, data_directory
        self._progress = progress
        self._control = data_directory / "control"
        self._log_path = data_directory / "tor.log"
        self._log_text = ""
        data_directory.mkdir(mode=0o700, exist_ok=True)
        self.torrc = data_directory / "torrc"
        # tor ends when this process is gone; with the 0 stem does not know it for its own and take tor over
        owner = f"0{os.getpid()}"
        self.torrc.write_text(
            f"{torrc}\nNickname {nickname}\nDataDirectory {data_directory}\nControlSocket {self._control}\n"
            f"CookieAuthentication 0\n__OwningControllerProcess {owner}\nRunAsDaemon 0\nShutdownWaitLength 0\n"
        )
        with self._log_path.open("wb") as log:
            self._process = host.popen(
                [TOR, "--defaults-torrc", "/dev/null", "-f", str(self.torrc)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Process number of tor; a transport's parent."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process.poll() is None

    @property
    def log(self) -> str:
        """All that tor has said so far."""
        with self._log_path.open("rb") as log:
            log.seek(len(self._log_text))
            self._log_text += log.read().decode("latin-1")  # one character an octet: the length is the offset
        return self._log_text

    @property
    def bootstrap_percent(self) -> int:
        """0..100, as tor's log says it; -1 before it says anything."""
        return max((int(percent) for percent in re.findall(r"Bootstrapped (\d+)%", self.log)), default=-1)

    @property
    def fingerprint(self) -> str:
        """40 hexadecimal digits; of a bridge, for its line."""
        return (self.data_directory / "fingerprint").read_text().split()[1]

    def controller(self) -> Controller:
        """An authenticated stem controller; close it, or use it in a ``with``."""
        until(lambda: self._control.exists() or not self.running, 30, lambda: self.trouble("no control socket"))
        controller = Controller.from_socket_file(str(self._control))
        try:
            controller.authenticate()
        except BaseException:
            controller.close()
            raise
        return controller

    def info(self, key: str) -> str:
        """What GETINFO *key* answers (control-spec §3.9)."""
        with self.controller() as controller:
            return str(controller.get_info(key))

    def _listener(self, kind: str) -> int:
        return int(self.info(f"net/listeners/{kind}").split()[0].strip('"').rpartition(":")[2])

    @functools.cached_property
    def socks_port(self) -> int:
        """The port on 127.0.0.1 of the tor's host."""
        return self._listener("socks")

    @functools.cached_property
    def or_port(self) -> int:
        """The port where a relay or bridge speaks tor's own protocol."""
        return self._listener("or")

    @property
    def bridge_lines(self) -> list[str]:
        """What a client of this bridge needs: a line for each transport, or for the ORPort if there is none."""
        if "ServerTransportPlugin" not in self.torrc.read_text():
            return [f"{self.host.address}:{self.or_port} {self.fingerprint}"]
        path = self.data_directory / "bridgelines"  # tor's own account, once the transports have reported
        until(lambda: path.exists() or not self.running, 30, lambda: self.trouble("no bridge lines"))
        lines = path.read_text().splitlines()
        return [line.removeprefix("Bridge ") for line in lines if line and not line.startswith("#")]

    def wait_log(self, pattern: str, timeout: float = 60) -> re.Match[str]:
        """Come back with the first match of *pattern* in the log. Raises `TorFailed`."""
        until(
            lambda: re.search(pattern, self.log) or not self.running,
            timeout,
            lambda: self.trouble(f"nothing in the log matches {pattern!r}"),
        )
        if not (match := re.search(pattern, self.log)):
            raise TorFailed(self.trouble(f"ended before {pattern!r} was in the log"))
        return match

    def wait_bootstrapped(self, percent: int = 100, timeout: float = 120) -> Self:
        """Come back when tor has bootstrapped so far. Raises `TorFailed`."""
        said = -1

        def reached() -> bool:
            nonlocal said
            now = self.bootstrap_percent
            if now > said:
                said = now
                self._progress(f"{self.nickname}: bootstrapped {now} %")
            return now >= percent or not self.running

        until(reached, timeout, lambda: self.trouble(f"bootstrapped only {said} %"))
        if said < percent:
            raise TorFailed(self.trouble(f"ended with status {self._process.returncode} at {said} %"))
        return self

    def trouble(self, what: str) -> str:
        """*what*, with tor's last words."""
        return f"{self.nickname}: {what}; its last words:\n" + "\n".join(self.log.splitlines()[-15:])

    def stop(self) -> None:
        """End tor, and with it its transports. May be called again."""
        end([self._process])


class _Web(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        size = re.fullmatch(r"/bytes/(\d+)", self.path)
        if self.path != "/" and not size:
            self.send_error(404)
            return
        length = int(size[1]) if size else len(PAGE)
        self.send_response(200)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        left = length
        with contextlib.suppress(ConnectionError):  # the reader left
            while left:
                piece = _BLOCK[:left] if size else PAGE
                self.wfile.write(piece)
                left -= len(piece)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


class TorNetwork:
    """A Tor network that is up; *progress* hears what is done meanwhile, and is for people.

    `lab` has the hosts: ``network.lab.host("probe")``. *offloads* is `tests.support.netns.Lab`'s.
    """

    def __init__(self, offloads: bool = True, progress: Callable[[str], None] = _silent) -> None:
        self._progress = progress
        self._tors: list[Tor] = []
        self._serial = itertools.count(1)
        self._closing = contextlib.ExitStack()
        try:
            self._directory = Path(tempfile.mkdtemp(prefix=f"tk{os.getpid()}-"))
            self._closing.callback(shutil.rmtree, self._directory, ignore_errors=True)
            self.lab = Lab(offloads)
            self._closing.callback(self.lab.close)
            self._closing.callback(lambda: end([tor._process for tor in self._tors]))
            self._net = self.lab.host("net")
            self.web = f"http://{self._net.address}"
            self._serve()
            self._start()
        except BaseException:
            self.close()
            raise

    def _serve(self) -> None:
        server = self._net.call(http.server.ThreadingHTTPServer, (self._net.address, 80), _Web)
        thread = threading.Thread(  # a daemon: Python waits for others before it calls atexit's functions
            target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="web server", daemon=True
        )
        thread.start()
        for step in (server.server_close, thread.join, server.shutdown):
            self._closing.callback(step)

    def _start(self) -> None:
        self._progress("making keys for three authorities")
        with ThreadPoolExecutor() as pool:
            lines = list(pool.map(self._authority_line, range(3)))
        self.authorities = "\n".join(["TestingTorNetwork 1", *lines, ""])
        """What makes any tor a tor of this network, in its torrc."""
        self._common = "\n".join([
            self.authorities, "SafeLogging 0", "Log notice stdout", "Schedulers Vanilla", "ExtendByEd25519ID 1",
            "ServerDNSDetectHijacking 0", "ServerDNSAllowBrokenConfig 1",
            f"ServerDNSResolvConfFile {self._resolv_conf()}", "AssumeReachable 1", "ContactInfo nobody",
            "DisableDebuggerAttachment 0",
        ])  # fmt: skip
        relay = f"Address {self._net.address}\nSocksPort 0\nExitPolicyRejectPrivate 0\n"
        authorities = [
            self._tor(f"authority{number}", self._net, relay + self._authority_torrc(number)) for number in range(3)
        ]
        for authority in authorities:
            authority.wait_bootstrapped(0)  # it listens
        for number in range(3):
            policy = "ExitPolicy reject *:*"
            self._tor(f"relay{number}", self._net, f"{relay}ORPort {5010 + number} IPv4Only\n{policy}\n")
        for number in range(2):
            policy = "ExitRelay 1\nExitPolicy accept *:*"
            self._tor(f"exit{number}", self._net, f"{relay}ORPort {5020 + number} IPv4Only\n{policy}\n")
        with contextlib.ExitStack() as stack:
            controllers = [stack.enter_context(tor.controller()) for tor in self._tors]
            voters, relays = controllers[: len(authorities)], controllers[len(authorities) :]

            def publish(attempt: int) -> None:
                """A descriptor is sent once, perhaps before that authority listened; another one is sent again."""
                for controller in controllers if attempt else ():
                    controller.set_conf("ContactInfo", f"nobody {attempt}")

            def vote(attempt: int) -> None:
                """By themselves they would vote in minutes; later each time, lest one hears of it too late."""
                vote_ends = int(time.time()) + 6 + attempt
                for controller in voters:
                    controller.set_conf("TestingV3AuthVotingStartOffset", str(vote_ends % 86400 % _VOTING_INTERVAL))

            def ask(_attempt: int) -> None:
                """Have the relays fetch it now: tor waits longer after each "not yet"."""
                for controller in relays:
                    controller.signal("HUP")

            self._progress("waiting for the descriptors of eight relays")
            self._all_tell(voters, "desc/all-recent", "router", publish, 5)
            self._progress("the authorities vote")
            self._all_tell(voters, "ns/all", "r", vote, 12)
            self._progress("the relays learn of each other")
            self._all_tell(controllers, "md/all", "onion-key", ask, 4)
        self._progress("the Tor network is up")

    def _all_tell(
        self, controllers: list[Controller], key: str, keyword: str, nudge: Callable[[int], None], pause: float
    ) -> None:
        """Wait until each tor's answer to GETINFO *key* has a *keyword* line for every relay.

        *nudge* is called now, and again after each *pause* seconds in vain, with the number of times before.
        """
        waiting, relays = list(controllers), len(self._tors)

        def told() -> bool:
            while waiting and len(re.findall(rf"(?m)^{keyword}( |$)", str(waiting[0].get_info(key, "")))) == relays:
                waiting.pop(0)
            return not waiting

        attempts = 8
        for attempt in range(attempts):
            nudge(attempt)
            with contextlib.suppress(TorFailed):
                return until(told, pause, str)
        raise TorFailed(self._tors[controllers.index(waiting[0])].trouble(f"{key} is not complete"))

    def _resolv_conf(self) -> Path:
        path = self._directory / "resolv.conf"  # the machine's own resolver cannot be reached from here
        path.write_text("nameserver 127.0.0.1\n")
        return path

    def _authority_torrc(self, number: int) -> str:
        return (
            f"AuthoritativeDirectory 1\nV3AuthoritativeDirectory 1\nORPort {5000 + number} IPv4Only\n"
            f"DirPort {7000 + number}\nExitPolicy reject *:*\nV3AuthVotingInterval {_VOTING_INTERVAL}\n"
            "V3AuthVoteDelay 2\nV3AuthDistDelay 2\n"
            f"TestingV3AuthInitialVotingInterval {_VOTING_INTERVAL}\nTestingV3AuthInitialVoteDelay 2\n"
            "TestingV3AuthInitialDistDelay 2\n"
            f"TestingV3AuthVotingStartOffset {(int(time.time()) + _VOTING_INTERVAL // 2) % _VOTING_INTERVAL}\n"
            "TestingAuthDirTimeToLearnReachability 0\nTestingMinExitFlagThreshold 0\n"
            "TestingDirAuthVoteExit *\nTestingDirAuthVoteGuard *\nTestingDirAuthVoteHSDir *\n"
        )

    def _authority_line(self, number: int) -> str:
        """Make the keys of an authority; the ``DirAuthority`` line by which all others know it."""
        directory = self._directory / f"authority{number}"
        keys = directory / "keys"
        keys.mkdir(parents=True, mode=0o700)
        directory.chmod(0o700)
        address, or_port, dir_port = self._net.address, 5000 + number, 7000 + number
        self._net.run(
            ["tor-gencert", "--create-identity-key", "--passphrase-fd", "0", "-m", "12", "-a", f"{address}:{dir_port}",
             "-i", f"{keys}/authority_identity_key", "-s", f"{keys}/authority_signing_key",
             "-c", f"{keys}/authority_certificate"], stdin="none\n",
        )  # fmt: skip
        listed = self._net.run(
            [TOR, "--defaults-torrc", "/dev/null", "-f", "/dev/null", "--ignore-missing-torrc", "--list-fingerprint",
             "--quiet", "--DataDirectory", str(directory), "--ORPort", "1", "--Nickname", f"authority{number}"],
        ).stdout  # fmt: skip
        fingerprint = "".join(listed.split()[1:])
        certificate = (keys / "authority_certificate").read_text()
        identity = re.findall(r"^fingerprint (\w{40})$", certificate, re.MULTILINE)[0]
        where = f"orport={or_port} no-v2 v3ident={identity} {address}:{dir_port}"
        return f"DirAuthority authority{number} {where} {fingerprint}"

    def _tor(self, nickname: str, host: Host, torrc: str) -> Tor:
        tor = Tor(nickname, host, self._directory / nickname, f"{self._common}\n{torrc}", self._progress)
        self._tors.append(tor)
        return tor

    def bridge(self, torrc_extra: str = "", host: str = "bridge", or_port: str = "127.0.0.1:auto") -> Tor:
        """Start a bridge on *host*; wait until it has bootstrapped before a client comes.

        *or_port* is hidden behind a transport; ``"auto"`` opens it to clients without one.
        """
        where = self.lab.host(host)
        torrc = (
            f"BridgeRelay 1\nPublishServerDescriptor 0\nBridgeRecordUsageByCountry 0\nDirReqStatistics 0\n"
            f"Address {where.address}\nORPort {or_port} IPv4Only\nExtORPort auto\nSocksPort 0\n"
            f"ExitPolicy reject *:*\n{torrc_extra}"
        )
        return self._tor(f"bridge{next(self._serial)}", where, torrc)

    def client(self, bridge_lines: Iterable[str] = (), torrc_extra: str = "", host: str = "client") -> Tor:
        """Start a client on *host* that uses the bridges, such as ``["torknock 198.18.2.2:443 <fingerprint> ..."]``.

        Without bridges it goes to the relays itself.
        """
        bridges = "".join(f"Bridge {line}\n" for line in bridge_lines)
        torrc = f"SocksPort 127.0.0.1:auto\nClientUseIPv6 1\nUseBridges {int(bool(bridges))}\n{bridges}{torrc_extra}"
        return self._tor(f"client{next(self._serial)}", self.lab.host(host), torrc)

    def fetch(self, url: str, via: Client, timeout: float = 60) -> bytes:
        """The body of *url*, through the client *via*; a path, such as ``/bytes/1000``, is the web server's.

        Every fetch has a circuit of its own. Raises `TorFailed` if not all of it came, `OSError` if nothing did.
        """
        parts = urlsplit(url if "://" in url else self.web + url)
        address = (parts.hostname or "", parts.port or 80)
        with _through_socks(via, address, timeout) as connection:
            request = f"GET {parts.path or '/'} HTTP/1.0\r\nHost: {address[0]}\r\n\r\n"
            connection.sendall(request.encode())
            answer = bytearray()
            while piece := connection.recv(1 << 18):
                answer += piece
        head, _, body = bytes(answer).partition(b"\r\n\r\n")
        status, length = head.split(b"\r\n")[0], re.search(rb"(?im)^content-length: (\d+)", head)
        if b" 200 " not in status or length is None or int(length[1]) != len(body):
            raise TorFailed(via.trouble(f"{url}: {status.decode('latin-1')!r}, {len(body)} octets of content"))
        return body

    def circuits(self, client: Tor) -> list[tuple[str, ...]]:
        """The nicknames on the way of each circuit of the client that carries streams, newest last."""
        with client.controller() as controller:
            built = [circuit for circuit in controller.get_circuits() if circuit.status == "BUILT"]
        ways = [circuit.path for circuit in built if circuit.purpose == "GENERAL" and len(circuit.path) == 3]
        return [tuple(str(nickname) for _, nickname in way) for way in ways]

    def close(self) -> None:
        """Stop everything and remove every trace. May be called again."""
        self._closing.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _through_socks(client: Client, address: tuple[str, int], timeout: float) -> socket.socket:
    """A connection to *address* through tor's SOCKS port, on a circuit of its own (RFC 1928, RFC 1929)."""
    own = os.urandom(8).hex().encode()  # tor's IsolateSOCKSAuth
    host = address[0].encode("ascii")
    connection = client.host.call(socket.create_connection, ("127.0.0.1", client.socks_port), timeout)
    try:
        with connection.makefile("rb", buffering=0) as answers:
            connection.sendall(b"\x05\x01\x02")
            _expect(client, answers.read(2), b"\x05\x02")
            connection.sendall(b"\x01" + bytes([len(own)]) + own + b"\x01x")
            _expect(client, answers.read(2), b"\x01\x00")
            connection.sendall(b"\x05\x01\x00\x03" + bytes([len(host)]) + host + struct.pack("!H", address[1]))
            _expect(client, answers.read(10), b"\x05\x00\x00\x01")
    except BaseException:
        connection.close()
        raise
    return connection


def _expect(client: Client, answer: bytes | None, start: bytes) -> None:
    if not (answer or b"").startswith(start):
        raise TorFailed(client.trouble(f"its SOCKS port answered {(answer or b'').hex() or 'nothing'}"))


_shared: TorNetwork | None = None
_shared_lock = threading.Lock()


def shared_network() -> TorNetwork:
    """The network of this process, made when first asked for and removed when the process ends; not to be closed."""
    global _shared
    with _shared_lock:
        if _shared is None:
            _shared = TorNetwork()
            atexit.register(_shared.close)
        return _shared
