"""`pluggable.testing`: `MemoryTor`, and the parts of it that do no I/O. The example's tests are an author's view."""

from __future__ import annotations

import contextlib
from functools import partial
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, fail
from twisted.trial.unittest import SynchronousTestCase, TestCase

from contrib.examples import test_plain
from contrib.examples.plain import PlainClient, PlainServer
from pluggable.errors import MethodError
from pluggable.methods import Clients
from pluggable.report import Report, Severity
from pluggable.testing import (
    LogLine,
    MemoryNetwork,
    MemoryTor,
    Method,
    SOCKSAnswerFault,
    SOCKSRefused,
    TorExtendedORPort,
    TorOutput,
    TorSOCKS,
)

reactor: Any = _reactor


class ExampleTests(test_plain.PlainTests):
    """`contrib/examples/test_plain.py`, as it stands."""


class MemoryTorTests(SynchronousTestCase):
    """`MemoryTor` in a `MemoryNetwork`."""

    def setUp(self) -> None:
        self.network = MemoryNetwork()
        self.client, self.bridge = self.tor(), self.tor()

    def tor(self) -> MemoryTor:
        return MemoryTor(self.network, Path(self.mktemp()).absolute())

    def start(self) -> None:
        self.bridge.start_server({"plain": partial(PlainServer, self.network)}, {"plain": "192.0.2.1:443"})
        self.client.start_client({"plain": partial(PlainClient, self.network)})

    def connecting(self) -> Deferred[Any]:
        connecting = self.client.connect("plain", "192.0.2.1", 443)
        self.network.advance(0)
        return connecting

    def test_a_tor_that_denies_a_client_cuts_it_off(self) -> None:
        """The next one is taken, once tor takes clients."""
        self.start()
        self.bridge.denies = True
        link = self.successResultOf(self.connecting())
        self.assertEqual((link.lost, self.bridge.clients[0].accepted), (True, False))
        self.assertIn("tor denied the connection", " ".join(line.message for line in self.bridge.output.logs))
        self.bridge.denies = False
        link = self.successResultOf(self.connecting())
        self.assertEqual((link.lost, self.bridge.clients[1].accepted), (False, True))

    def test_an_interrupt_ends_with_the_last_link(self) -> None:
        """No new one is taken."""
        self.start()
        link = self.successResultOf(self.connecting())
        self.client.interrupt()
        self.assertNoResult(self.client.exit_code)
        self.failureResultOf(self.connecting())
        link.close()
        self.network.advance(0)
        self.assertEqual(self.successResultOf(self.client.exit_code), 0)

    def test_a_silent_bridge_is_given_up_when_time_has_passed(self) -> None:
        """No test waits for it."""
        self.start()
        self.network.silent.add(("192.0.2.1", 443))
        connecting = self.connecting()
        self.assertNoResult(connecting)
        self.network.advance(60)
        self.assertEqual(self.failureResultOf(connecting, SOCKSRefused).value.reply, 6)

    def test_a_proxy_that_the_transport_does_not_use_is_an_error(self) -> None:
        """Nothing starts, and the exit code says so."""
        self.client.start_client({"plain": partial(PlainClient, self.network)}, proxy="socks5://127.0.0.1:9")
        self.assertIn("PROXY-ERROR", self.client.output.error or "")
        self.assertEqual((self.successResultOf(self.client.exit_code), self.client.output.methods), (69, {}))

    def test_a_start_that_waits_fires_when_it_is_over(self) -> None:
        """Each transport has as long as it needs."""
        ready: Deferred[None] = Deferred()
        transport = PlainClient(self.network, None)  # type: ignore[arg-type]  # nothing is dialled
        self.patch(transport, "start", lambda: ready)
        starting = self.client.start_client({"plain": lambda _environment: transport})
        self.assertNoResult(starting)
        ready.callback(None)
        self.successResultOf(starting)

    def test_a_transport_that_cannot_start_is_reported(self) -> None:
        """The others run."""
        transport = PlainClient(self.network, None)  # type: ignore[arg-type]  # nothing is dialled
        self.patch(transport, "start", lambda: fail(MethodError("no root")))
        makers: Clients = {"broken": lambda _environment: transport, "plain": partial(PlainClient, self.network)}
        self.client.start_client(makers)
        self.assertEqual(self.client.output.method_errors, {"broken": "no root"})
        self.assertEqual(list(self.client.output.methods), ["plain"])


class LoopbackTests(TestCase):
    """`MemoryTor` in Twisted's reactor."""

    timeout = 60

    async def test_octets_cross_over_loopback(self) -> None:
        """With nothing changed but the reactor."""
        client, bridge = (MemoryTor(reactor, Path(self.mktemp()).absolute()) for _ in range(2))
        await bridge.start_server({"plain": partial(PlainServer, reactor)}, {"plain": "127.0.0.1:0"})
        await client.start_client({"plain": partial(PlainClient, reactor)})
        link = await client.connect("plain", "127.0.0.1", bridge.output.methods["plain"].port, [("k", "v")])
        link.write(b"hello")
        while not bridge.clients:
            await self.turn()
        self.assertEqual(await bridge.clients[0].receive(5), b"hello")
        bridge.clients[0].write(b"welcome")
        bridge.clients[0].close()
        self.assertEqual(await link.receive(100), b"welcome")
        self.assertEqual((await client.close_stdin(), await bridge.close_stdin()), (0, 0))

    def turn(self) -> Deferred[None]:
        turn: Deferred[None] = Deferred()
        reactor.callLater(0, turn.callback, None)
        return turn


class TorOutputTests(SynchronousTestCase):
    """`TorOutput`."""

    def test_what_a_transport_reports_is_understood(self) -> None:
        """Every line of pt-spec §3.3, from the library's own report."""
        output = TorOutput()
        report = Report(output.feed)
        report.version()
        report.status("rot", 'a "b"', "1.0")
        report.proxy_done()
        report.cmethod("rot", "127.0.0.1", 80)
        report.cmethod_error("other", "no root")
        report.smethod("third", "2001:db8::1", 443, {"a": "b", "c": ""})
        report.smethod_error("fourth", "no port")
        report.smethods_done()
        report.log("warning", 'it said "x\\y"')
        self.assertEqual(output.faults, [])
        self.assertTrue(output.version and output.proxy_done and output.done)
        self.assertEqual((output.status["IMPLEMENTATION"], output.status["VERSION"]), ('a "b"', "1.0"))
        expected = {"rot": Method("127.0.0.1", 80), "third": Method("2001:db8::1", 443, {"a": "b", "c": ""})}
        self.assertEqual(output.methods, expected)
        self.assertEqual(output.method_errors, {"other": "no root", "fourth": "no port"})
        self.assertEqual(output.logs, [LogLine("warning", 'it said "x\\y"')])

    def test_what_tor_would_not_take_is_a_fault(self) -> None:
        """By itself, or at this point."""
        for line in (
            "VERSION 2", "CMETHOD rot socks4 127.0.0.1:80", "CMETHOD rot socks5 localhost:80", "hello", "", "LOG x",
            "CMETHOD rot socks5 127.0.0.1:0", "CMETHOD r-t socks5 127.0.0.1:80", "SMETHOD rot 2001:db8::1:80",
            "SMETHOD rot 127.0.0.1:80 ARGS:x", 'LOG SEVERITY=warn MESSAGE="x"', "CMETHODS", "STATUS VERSION=1",
            "ENV-ERROR too late", "CMETHOD-ERROR rot",
        ):  # fmt: skip
            output = TorOutput()
            output.feed(f"VERSION 1\n{line}\n".encode())
            self.assertEqual(output.faults, [line])
        for lines in ("CMETHODS DONE\n", "PROXY-ERROR x\n", "VERSION 1\nCMETHODS DONE\nCMETHOD r socks5 127.0.0.1:1\n"):
            output = TorOutput()
            output.feed(lines.encode())
            self.assertEqual(output.faults, [lines.splitlines()[-1]])

    @given(st.text(), st.sampled_from(["error", "warning", "notice", "info", "debug"]))
    def test_any_message_is_read_as_it_was_logged(self, text: str, severity: Severity) -> None:
        """But for what is not printable ASCII, which the report replaces."""
        output = TorOutput()
        Report(output.feed).log(severity, text)
        printable = "".join(character if " " <= character <= "~" else "?" for character in text)
        self.assertEqual((output.logs, output.faults), ([LogLine(severity, printable)], []))

    @given(st.binary(), st.integers(0, 20))
    def test_any_octets_are_understood_or_a_fault(self, octets: bytes, cut: int) -> None:
        """However they are cut."""
        output = TorOutput()
        for piece in (b"VERSION 1\n", octets[:cut], octets[cut:], b"\n"):
            output.feed(piece)
        self.assertEqual(len(output.lines), octets.count(b"\n") + 2)


class HalvesTests(SynchronousTestCase):
    """`TorSOCKS` and `TorExtendedORPort`."""

    @given(st.binary())
    def test_any_answer_of_socks_is_waited_for_or_a_fault(self, octets: bytes) -> None:
        """Nothing but `SOCKSAnswerFault` is raised."""
        for arguments in ((), (("k", "v"),)):
            with contextlib.suppress(SOCKSAnswerFault):
                TorSOCKS("192.0.2.1", 443, arguments).feed(octets)

    @given(st.binary(max_size=200))
    def test_any_octets_at_the_extended_orport_are_waited_for_or_close_it(self, octets: bytes) -> None:
        """Nothing is raised, and nobody is let in."""
        orport = TorExtendedORPort(b"c" * 32, b"n" * 32)
        orport.feed(octets)
        self.assertFalse(orport.accepted)

    def test_more_arguments_than_socks_carries_are_refused(self) -> None:
        """tor refuses such a bridge line, too."""
        TorSOCKS("192.0.2.1", 443, [("k", "x" * 508)])
        self.assertRaises(ValueError, TorSOCKS, "192.0.2.1", 443, [("k", "x" * 509)])
