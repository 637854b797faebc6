"""The example transport as a child of a hand-made tor: what pt-spec, and tor itself, ask of any transport."""

from __future__ import annotations

import os
import select
import signal
import socket
import stat
import subprocess
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.support.transports import EXAMPLE, PATIENCE, Echo, Transport, nobody, read, socks

CLIENT: dict[str, str | None] = {"TOR_PT_CLIENT_TRANSPORTS": "plain"}
SERVER: dict[str, str | None] = {
    "TOR_PT_SERVER_TRANSPORTS": "plain",
    "TOR_PT_SERVER_BINDADDR": "plain-127.0.0.1:0",
    "TOR_PT_ORPORT": "127.0.0.1:1",
}
STATUS = 'STATUS TYPE=version TRANSPORT=plain IMPLEMENTATION="plain" VERSION="1"'


PARENT = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, {str(EXAMPLE)!r}])
print(child.pid, flush=True)
child.wait()
"""
"""A program between tor and the transport, as a script around it would be."""


NOISY = f"""
import os, sys
sys.path.insert(0, {str(EXAMPLE.parent)!r})
from pluggable import MethodError, main
from plain import PlainClient
from twisted.internet import reactor
from twisted.internet.utils import getProcessOutput, getProcessValue
import warnings

class Noisy(PlainClient):
    async def _start(self):
        print("SMETHOD forged 127.0.0.1:1")
        os.write(1, b"CMETHOD forged socks5 127.0.0.1:1\\n")
        warnings.warn("beware of 192.0.2.1")
        if await getProcessValue("/bin/sh", ["-c", "echo CMETHODS DONE"], reactor=reactor):
            raise MethodError("no child")
        if await getProcessOutput("/bin/echo", ["x"], reactor=reactor) != b"x\\n":
            raise MethodError("no child")

    def start(self):
        from twisted.internet.defer import Deferred
        return Deferred.fromCoroutine(self._start())

clients = {{"plain": lambda environment: Noisy(reactor, environment)}}
main(reactor, os.environ, implementation="plain", version="1", clients=clients)
"""
"""A transport that speaks out of turn, and has children."""


THREADED = f"""
import os, signal, sys, threading, time
sys.path.insert(0, {str(EXAMPLE.parent)!r})
from pluggable import main
from plain import PlainClient
from twisted.internet import reactor

def receive():
    open(os.environ["GO"]).read()
    time.sleep(0.5)  # until the reactor is idle; sooner, the signal would be seen in any case
    signal.pthread_kill(threading.get_ident(), int(os.environ["SIGNAL"]))

threading.Thread(target=receive, daemon=True).start()
clients = {{"plain": lambda environment: PlainClient(reactor, environment)}}
main(reactor, os.environ, implementation="plain", version="1", clients=clients)
"""
"""A transport whose signals arrive in another thread than the reactor's, once the fifo `GO` has been written to."""


class StartTests(SynchronousTestCase):
    """What is said at the start."""

    def test_what_tor_cannot_mean_is_said_instead_of_a_version(self) -> None:
        """After `VERSION` tor would swallow the reason. The exit codes are sysexits.h's."""
        for environ, line, code in (
            (CLIENT | SERVER, "ENV-ERROR TOR_PT_CLIENT_TRANSPORTS and TOR_PT_SERVER_TRANSPORTS both set", 64),
            (CLIENT | {"TOR_PT_MANAGED_TRANSPORT_VER": None},
             "ENV-ERROR no TOR_PT_MANAGED_TRANSPORT_VER environment variable", 64),
            (CLIENT | {"TOR_PT_MANAGED_TRANSPORT_VER": "1a,2"}, "VERSION-ERROR no-version", 78),
            (CLIENT | {"TOR_PT_STATE_LOCATION": None}, "ENV-ERROR no TOR_PT_STATE_LOCATION environment variable", 64),
            (CLIENT | {"TOR_PT_STATE_LOCATION": "/dev/null/x"}, "ENV-ERROR TOR_PT_STATE_LOCATION: ", 64),
            (CLIENT | {"TOR_PT_OUTBOUND_BIND_ADDRESS_V4": "x\ny"}, "ENV-ERROR TOR_PT_OUTBOUND_BIND_ADDRESS_V4: ", 64),
            (SERVER | {"TOR_PT_ORPORT": None},
             "ENV-ERROR need TOR_PT_ORPORT or TOR_PT_EXTENDED_SERVER_PORT environment variable", 64),
            (SERVER | {"TOR_PT_EXTENDED_SERVER_PORT": "127.0.0.1:1"},
             "ENV-ERROR No TOR_PT_AUTH_COOKIE_FILE when TOR_PT_EXTENDED_SERVER_PORT set", 64),
            (SERVER | {"TOR_PT_SERVER_BINDADDR": "plain"}, "ENV-ERROR TOR_PT_SERVER_BINDADDR: ", 64),
            (SERVER | {"TOR_PT_SERVER_TRANSPORT_OPTIONS": "plain"}, "ENV-ERROR TOR_PT_SERVER_TRANSPORT_OPTIONS: ", 64),
        ):  # fmt: skip
            with self.subTest(line), Transport(environ) as transport:
                returned, said, _ = transport.end()
                self.assertEqual((returned, said.count("\n"), said.startswith(line)), (code, 1, True))

    def test_a_person_who_starts_it_is_told_what_it_is(self) -> None:
        """On stderr, in a sentence."""
        nothing = dict.fromkeys(("TOR_PT_MANAGED_TRANSPORT_VER", "TOR_PT_STATE_LOCATION", "TOR_PT_EXIT_ON_STDIN_CLOSE"))
        with Transport(nothing) as transport:
            code, said, told = transport.end()
        self.assertEqual((code, said), (64, ""))
        self.assertIn("tor starts it", told)

    def test_a_client_reports_its_own_transports_and_no_others(self) -> None:
        """Its names and no others, at a port of loopback."""
        with Transport({"TOR_PT_CLIENT_TRANSPORTS": "foo,plain,plain"}) as transport:
            said = transport.start()
            self.assertEqual(said[:2] + said[3:], ["VERSION 1", STATUS, "CMETHODS DONE"])
            self.assertRegex(said[2], r"^CMETHOD plain socks5 127\.0\.0\.1:[1-9][0-9]*$")

    def test_names_that_are_not_ours_are_not_ours_to_refuse(self) -> None:
        """arti takes any error for the failure of all."""
        for environ, done in (
            ({"TOR_PT_CLIENT_TRANSPORTS": "foo"}, "CMETHODS DONE"),
            (SERVER | {"TOR_PT_SERVER_TRANSPORTS": "foo"}, "SMETHODS DONE"),
        ):
            with Transport(environ) as transport:
                self.assertEqual(transport.start(), ["VERSION 1", done])

    def test_a_server_starts_exactly_where_it_is_told(self) -> None:
        """The address, the port; IPv6 in brackets; what is empty is not set."""
        port = nobody()
        for address, expected in (
            (f"127.0.0.1:{port}", rf"127\.0\.0\.1:{port}"),
            ("[::1]:0", r"\[::1\]:[1-9][0-9]*"),
            ("0.0.0.0:0", r"0\.0\.0\.0:[1-9][0-9]*"),
        ):
            empty = {"TOR_PT_SERVER_TRANSPORT_OPTIONS": "", "TOR_PT_EXTENDED_SERVER_PORT": ""}
            with Transport(SERVER | empty | {"TOR_PT_SERVER_BINDADDR": f"plain-{address}"}) as transport:
                said = transport.start()
                self.assertEqual(said[:2] + said[3:], ["VERSION 1", STATUS, "SMETHODS DONE"])
                self.assertRegex(said[2], f"^SMETHOD plain {expected}$")

    def test_the_state_location_is_made_for_its_owner_alone(self) -> None:
        """tor leaves that to us; nobody else may look into it."""
        with Transport(CLIENT) as transport:
            transport.start()
            self.assertEqual(stat.S_IMODE(transport.state.stat().st_mode), 0o700)

    def test_a_proxy_is_refused_after_the_version(self) -> None:
        """Ours, because it cannot be used; a bad one, because it is none. No transport starts."""
        for url in ("socks5://127.0.0.1:9", "ftp://127.0.0.1:9", "socks5://localhost:9"):
            with Transport(CLIENT | {"TOR_PT_PROXY": url}) as transport:
                code, said, _ = transport.end()
                self.assertEqual(code, 69)
                self.assertRegex(said, r"^VERSION 1\nPROXY-ERROR [ -~]+\n$")

    def test_a_server_that_cannot_listen_stays_alive(self) -> None:
        """tor would start it again every second."""
        for changed in (
            {"TOR_PT_SERVER_TRANSPORT_OPTIONS": "plain:a=1"},
            {"TOR_PT_SERVER_BINDADDR": "plain-192.0.2.1:0"},
        ):
            with Transport(SERVER | changed) as transport:
                said = transport.start()
                self.assertRegex(said[2], "^SMETHOD-ERROR plain ")
                self.assertEqual(said[3], "SMETHODS DONE")
                self.assertIsNone(transport.process.poll())
                self.assertEqual(transport.end()[0], 0)

    def test_a_port_in_use_is_waited_for(self) -> None:
        """A predecessor leaves it soon."""
        with socket.create_server(("127.0.0.1", 0)) as predecessor:
            port = predecessor.getsockname()[1]
            transport = Transport(SERVER | {"TOR_PT_SERVER_BINDADDR": f"plain-127.0.0.1:{port}"})
            assert transport.process.stdout is not None
            self.assertEqual(transport.process.stdout.readline(), "VERSION 1\n")
        with transport:
            self.assertIn(f"SMETHOD plain 127.0.0.1:{port}", transport.start())


class EndTests(SynchronousTestCase):
    """How it ends."""

    def test_the_end_of_stdin_is_the_end(self) -> None:
        """Whether it is a pipe, a file or /dev/null."""
        for environ in (CLIENT, SERVER):
            with Transport(environ) as transport:
                transport.start()
                self.assertEqual(transport.end()[0], 0)
        with open(os.devnull) as null, tempfile.TemporaryFile() as file:
            file.write(b"x" * 10_000)
            file.seek(0)
            for stdin in (null.fileno(), file.fileno()):
                with Transport(CLIENT, stdin=stdin) as transport:
                    self.assertEqual(transport.end()[0], 0)

    def test_the_end_of_stdin_is_nothing_if_tor_does_not_say_so(self) -> None:
        """Only `1` says so."""
        for value in (None, "0", ""):
            with Transport(CLIENT | {"TOR_PT_EXIT_ON_STDIN_CLOSE": value}, stdin=subprocess.DEVNULL) as transport:
                port = transport.port(transport.start())
                socket.create_connection(("127.0.0.1", port)).close()
                self.assertIsNone(transport.process.poll())
                transport.process.terminate()
                self.assertEqual(transport.end()[0], 0)

    def test_a_parent_that_dies_takes_it_along(self) -> None:
        """Even if stdin stays open and no signal comes."""
        parent = Path(self.mktemp()).absolute()
        parent.write_text(PARENT)
        with Transport(CLIENT | {"TOR_PT_EXIT_ON_STDIN_CLOSE": None}, parent) as between:
            assert between.process.stdout is not None
            orphan = os.pidfd_open(int(between.process.stdout.readline()))
            self.addCleanup(os.close, orphan)
            between.start()
            between.process.kill()
            self.assertEqual(select.select([orphan], [], [], PATIENCE)[0], [orphan])

    def test_sigterm_ends_at_once_and_may_come_twice(self) -> None:
        """tor and the kernel may both send it, and stdin ends at the same moment."""
        echo = Echo()
        self.addCleanup(echo.close)
        for environ in (CLIENT, SERVER):
            with Transport(environ) as transport:
                said = transport.start()
                if environ is CLIENT:
                    link, reply = socks(transport.port(said), echo.port)
                    self.addCleanup(link.close)
                    self.assertEqual(reply, 0)
                transport.process.send_signal(signal.SIGTERM)
                transport.process.send_signal(signal.SIGTERM)
                self.assertEqual(transport.end()[0], 0)

    def test_sigint_keeps_the_links_and_takes_no_new_one(self) -> None:
        """Links live on, nobody new is let in, the last one ends it; a second SIGINT does not wait."""
        echo = Echo()
        self.addCleanup(echo.close)
        for again in (False, True):
            with Transport(CLIENT) as transport:
                port = transport.port(transport.start())
                link, reply = socks(port, echo.port)
                self.addCleanup(link.close)
                self.assertEqual(reply, 0)
                transport.process.send_signal(signal.SIGINT)
                while _answers(port):
                    pass
                link.sendall(b"still")
                self.assertEqual(read(link, 5), b"still")
                self.assertIsNone(transport.process.poll())
                if again:
                    transport.process.send_signal(signal.SIGINT)
                else:
                    link.close()
                self.assertEqual(transport.process.wait(), 0)

    def test_a_drain_without_links_is_the_end(self) -> None:
        """systemd sends SIGINT to an idle transport too."""
        for environ in (CLIENT, SERVER):
            with Transport(environ) as transport:
                transport.start()
                transport.process.send_signal(signal.SIGINT)
                self.assertEqual(transport.process.wait(), 0)

    def test_a_signal_that_interrupts_nothing_is_seen_at_once(self) -> None:
        """As one that arrives just before an idle reactor begins to wait, or in another thread."""
        program, go = Path(self.mktemp()).absolute(), Path(self.mktemp()).absolute()
        program.write_text(THREADED)
        os.mkfifo(go)
        for number in (signal.SIGINT, signal.SIGTERM):
            with Transport(CLIENT | {"GO": str(go), "SIGNAL": str(int(number))}, program) as transport:
                transport.start()
                go.write_text("go")
                self.assertEqual(transport.process.wait(), 0)

    def test_a_tor_that_reads_no_more_is_survived(self) -> None:
        """stdout may be closed before stdin is."""
        with Transport(CLIENT) as transport:
            port = transport.port(transport.start())
            assert transport.process.stdout is not None
            transport.process.stdout.close()
            link, reply = socks(port, nobody())
            link.close()
            self.assertEqual(reply, 5)
            assert transport.process.stdin is not None
            transport.process.stdin.close()
            self.assertEqual(transport.process.wait(), 0)


class OutputTests(SynchronousTestCase):
    """stdout is tor's alone."""

    def test_a_failure_is_one_log_line_without_addresses(self) -> None:
        """Each failure of SOCKS is told to tor and to its operator."""
        with Transport(CLIENT) as transport:
            link, reply = socks(transport.port(transport.start()), nobody(), ("k", "v"))
            self.assertEqual(reply, 5)
            self.assertEqual(link.recv(1), b"")
            link.close()
            _code, said, _ = transport.end()
        warnings = [line for line in said.splitlines() if line.startswith("LOG SEVERITY=warning")]
        self.assertEqual(len(warnings), 1)
        self.assertRegex(warnings[0], '^LOG SEVERITY=warning MESSAGE="plain: .*refused.*"$')

    def test_what_others_print_does_not_reach_tor(self) -> None:
        """Neither Python's stdout, nor descriptor 1, nor a child's; warnings are logged; children are waited for."""
        program = Path(self.mktemp()).absolute()
        program.write_text(NOISY)
        with Transport(CLIENT, program) as transport:
            said = transport.start()
            self.assertEqual(said[:2] + said[3:], ["VERSION 1", STATUS, "CMETHODS DONE"])
            self.assertRegex(said[2], "^CMETHOD plain ")
            code, more, told = transport.end()
        self.assertEqual(code, 0)
        self.assertNotIn("forged", more)
        self.assertIn("SMETHOD forged", told)
        self.assertIn("CMETHOD forged", told)
        warned = [line for line in transport.logged if "SEVERITY=warning" in line]
        self.assertEqual(len(warned), 1)
        self.assertRegex(warned[0], r"UserWarning: beware of \[scrubbed\] ")

    def test_every_line_on_stdout_is_one_that_tor_knows(self) -> None:
        """Nothing but the lines that tor knows, whatever happens."""
        with Transport(SERVER) as transport:
            said = transport.start()
            with socket.create_connection(("127.0.0.1", transport.port(said))) as client:
                self.assertRaises(ConnectionResetError, client.recv, 1)  # there is no tor at port 1
            _code, more, told = transport.end()
        for line in said + more.splitlines():
            self.assertRegex(line, "^(VERSION|STATUS|SMETHOD|SMETHODS|LOG) [ -~]+$")
        self.assertEqual(told, "")
        self.assertIn("LOG SEVERITY=error", more)


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except (ConnectionRefusedError, ConnectionResetError):
        return False
    return True
