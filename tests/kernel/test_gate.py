"""Tests of the gate with real packets: `torknock server` on a host, knocks and scans from others."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.support.bridge import GREETING, TORKNOCK, HiddenService, knock
from tests.support.netns import Lab
from tests.support.packets import MATRIX, flood, probe
from torknock.keyring.issued import Issued
from torknock.protocol.door import Door
from torknock.protocol.token import EPOCH, epoch_at, tokens
from torknock.service.ruleset import HiddenPorts, admit, listing, load


def wait_for(condition: Callable[[], bool], patience: float = 10.0) -> bool:
    """Whether *condition* came true within *patience* seconds."""
    gives_up = time.monotonic() + patience
    while not condition():
        if time.monotonic() > gives_up:
            return False
        time.sleep(0.05)
    return True


class GateTests(SynchronousTestCase):
    """A bridge host with `torknock server` on 0.0.0.0:443, and a client host."""

    def setUp(self) -> None:
        lab = Lab()
        self.addCleanup(lab.close)
        self.bridge, self.client = lab.host("bridge"), lab.host("client")
        self.service = HiddenService(self.bridge)
        self.addCleanup(self.service.close)
        self.alice = self.service.line("alice", time.time())
        self.fresh = iter(self.tokens_of(self.alice))
        self.assertTrue(wait_for(self.opens_with_a_token), self.service.said)

    def tokens_of(self, issued: Issued, ahead: int = 0) -> list[int]:
        line = issued.line
        return list(tokens(line.secret, line.bridge_name, epoch_at(time.time()) + ahead, line.n))

    def opens_with_a_token(self, fresh: Iterator[int] | None = None) -> bool:
        return knock(self.client, self.bridge.address, 443, next(fresh or self.fresh)) == GREETING

    def ruleset(self) -> str:
        return self.bridge.run(["nft", "--stateless", "--terse", "list", "ruleset"]).stdout

    def test_a_token_opens_once_and_nothing_else_opens(self) -> None:
        """IPv4 and IPv6 are one door: what was spent on one does not open the other."""
        for address, other in (
            (self.bridge.address, self.bridge.address6),
            (self.bridge.address6, self.bridge.address),
        ):
            token = next(self.fresh)
            self.assertEqual(knock(self.client, address, 443, None), "refused")
            self.assertEqual(knock(self.client, address, 443, token), GREETING)
            self.assertEqual(knock(self.client, address, 443, token), "refused")
            self.assertEqual(knock(self.client, other, 443, token), "refused")

    def test_neighbouring_epochs_open_and_others_do_not(self) -> None:
        """Clocks may differ by an epoch (protocol.md §2.3)."""
        if not 3 < time.time() % EPOCH < EPOCH - 5:  # who is whose neighbour is about to change
            time.sleep(8)
        bob = self.service.line("bob", time.time() - 5 * EPOCH)
        for ahead in (-1, 1):
            waiting = iter(self.tokens_of(bob, ahead))
            self.assertTrue(wait_for(lambda: self.opens_with_a_token(waiting)), f"epoch {ahead:+}")  # noqa: B023
        for ahead in (-2, 2):
            token = self.tokens_of(bob, ahead)[0]
            self.assertEqual(knock(self.client, self.bridge.address, 443, token), "refused", f"epoch {ahead:+}")

    def test_it_lets_clients_in_after_an_epoch(self) -> None:
        """The bridge of this test has a clock of its own, on which an epoch ends 4 s after the start."""
        ahead = EPOCH - 4 - time.time() % EPOCH
        with HiddenService(self.bridge, "0.0.0.0:444", skew=ahead) as service:
            line = service.line("bob", time.time()).line
            before = epoch_at(time.time() + ahead)
            ends = (before + 1) * EPOCH - ahead
            time.sleep(max(0.0, ends + 1 - time.time()))
            for epoch in (before, before + 1, before + 2):
                fresh = iter(tokens(line.secret, line.bridge_name, epoch, line.n))
                came = wait_for(lambda: knock(self.client, self.bridge.address, 444, next(fresh)) == GREETING, 2)  # noqa: B023
                self.assertTrue(came, f"epoch {epoch - before:+}")

    def test_the_hidden_listener_is_on_loopback_alone(self) -> None:
        """Its port is closed from outside, and no listener of the host has a public address."""
        listeners = self.bridge.run(["ss", "-Hlntu"]).stdout.splitlines()
        bound = [fields.split()[4].rpartition(":")[0] for fields in listeners]
        self.assertTrue(bound)
        self.assertFalse(set(bound) - {"127.0.0.1", "[::1]"}, bound)
        for port in {int(fields.split()[4].rpartition(":")[2]) for fields in listeners}:
            self.assertEqual(knock(self.client, self.bridge.address, port, None), "refused")
            self.assertEqual(knock(self.client, self.bridge.address6, port, None), "refused")

    def test_a_connection_to_the_hidden_port_itself_is_dropped(self) -> None:
        """Somebody on the host who finds the listener gets nothing, token or not."""
        hidden = int(re.findall(r"tproxy ip to 127\.0\.0\.1:(\d+)", self.ruleset())[0])
        self.assertEqual(knock(self.bridge, "127.0.0.1", hidden, next(self.fresh)), "reset")

    def test_rules_prints_what_is_loaded(self) -> None:
        """`torknock rules` and the generated text agree with the kernel."""
        loaded = self.ruleset()
        ports = [int(port) for port in re.findall(r"tproxy ip6? to \S+:(\d+)", loaded)]
        self.assertEqual(loaded, listing(Door("0.0.0.0", 443), HiddenPorts(*ports)))  # noqa: S104  compared, not bound
        self.assertEqual(self.bridge.run([TORKNOCK, "rules"]).stdout, loaded)

    def test_every_probe_is_answered_as_by_the_port_beside_it(self) -> None:
        """Each field of each answer, over IPv4 and IPv6."""
        for address in (self.bridge.address, self.bridge.address6):
            for name, how in MATRIX.items():
                with self.subTest(name=name, address=address):
                    answers = [probe(self.client, address, port, **how) for port in (443, 444)]
                    self.assertEqual(answers[0], answers[1])

    def test_a_flush_by_somebody_else_is_repaired(self) -> None:
        """Closed meanwhile, open again within 5 s, and what was spent stays spent."""
        spent = next(self.fresh)
        self.assertEqual(knock(self.client, self.bridge.address, 443, spent), GREETING)
        self.bridge.run(["nft", "flush", "ruleset"])
        self.assertTrue(wait_for(lambda: "torknock-443" in self.ruleset()))
        self.assertTrue(wait_for(self.opens_with_a_token))
        self.assertEqual(knock(self.client, self.bridge.address, 443, spent), "refused")

    def test_a_revoked_line_stops_opening(self) -> None:
        """Within 2 s of the command, on the running bridge; another line is not touched."""
        bob = self.service.line("bob", time.time())
        self.assertTrue(
            wait_for(lambda: knock(self.client, self.bridge.address, 443, self.tokens_of(bob).pop()) == GREETING)
        )
        self.bridge.run([TORKNOCK, "line", "revoke", "alice", "--keyring", str(self.service.state / "torknock")])
        time.sleep(2)
        self.assertEqual(knock(self.client, self.bridge.address, 443, next(self.fresh)), "refused")
        self.assertEqual(knock(self.client, self.bridge.address, 443, self.tokens_of(bob)[0]), GREETING)

    def test_an_expired_line_stops_opening(self) -> None:
        """Nobody has to do anything for it."""
        bob = self.service.line("bob", time.time(), expires=int(time.time()) + 6)
        waiting = iter(self.tokens_of(bob))
        self.assertTrue(wait_for(lambda: knock(self.client, self.bridge.address, 443, next(waiting)) == GREETING, 5))
        time.sleep(max(0.0, (bob.expires or 0) + 2 - time.time()))
        self.assertEqual(knock(self.client, self.bridge.address, 443, next(waiting)), "refused")

    def test_the_table_is_removed_at_the_end(self) -> None:
        """SIGTERM leaves the host as it was, and the port closed."""
        self.service.process.terminate()
        self.assertEqual(self.service.process.wait(10), 0)
        self.assertEqual(self.ruleset(), "")
        self.assertEqual(knock(self.client, self.bridge.address, 443, next(self.fresh)), "refused")

    def test_a_killed_predecessors_table_is_replaced(self) -> None:
        """SIGKILL: closed, though its table stands; the successor replaces it and opens nothing that was spent."""
        spent = next(self.fresh)
        self.assertEqual(knock(self.client, self.bridge.address, 443, spent), GREETING)
        self.service.process.send_signal(signal.SIGKILL)
        self.service.process.wait()
        self.assertIn("torknock-443", self.ruleset())
        self.assertEqual(knock(self.client, self.bridge.address, 443, next(self.fresh)), "refused")
        self.service.start()
        self.assertIn("SMETHOD torknock 0.0.0.0:443", self.service.said)
        self.assertTrue(wait_for(self.opens_with_a_token))
        self.assertEqual(knock(self.client, self.bridge.address, 443, spent), "refused")

    def test_a_stopped_process_leaves_the_port_closed(self) -> None:
        """A transport that hangs accepts nobody beyond the kernel's handshake; nothing of the service shows."""
        os.kill(self.service.process.pid, signal.SIGSTOP)
        self.addCleanup(os.kill, self.service.process.pid, signal.SIGCONT)
        self.assertEqual(knock(self.client, self.bridge.address, 443, None), "refused")
        self.assertEqual(knock(self.client, self.bridge.address, 443, next(self.fresh), patience=1), "silence")

    def test_nobody_is_locked_out_by_wrong_syns_in_their_name(self) -> None:
        """Thousands from a client's own addresses, and thousands more from anywhere: the client's token opens."""
        for target, source in (
            (self.bridge.address, self.client.address),
            (self.bridge.address6, self.client.address6),
        ):
            self.assertGreater(flood(self.client, target, 443, 0.2, source=source), 1_000)
            self.assertEqual(knock(self.client, target, 443, next(self.fresh)), GREETING)


class DoorTests(SynchronousTestCase):
    """Which doors can be guarded."""

    def setUp(self) -> None:
        lab = Lab()
        self.addCleanup(lab.close)
        self.bridge, self.client = lab.host("bridge"), lab.host("client")

    def test_a_door_of_one_address_guards_that_address(self) -> None:
        """The same port of another address stays what it was, and has another table."""
        service = HiddenService(self.bridge, f"[{self.bridge.address6}]:443")
        self.addCleanup(service.close)
        self.assertIn(f"SMETHOD torknock [{self.bridge.address6}]:443", service.said)
        alice = service.line("alice", time.time())
        line = alice.line
        fresh = iter(tokens(line.secret, line.bridge_name, epoch_at(time.time()), line.n))
        self.assertTrue(wait_for(lambda: knock(self.client, self.bridge.address6, 443, next(fresh)) == GREETING))
        self.assertEqual(knock(self.client, self.bridge.address, 443, next(fresh)), "refused")

    def test_a_port_that_somebody_serves_is_refused(self) -> None:
        """A listener on the port would answer strangers, so the transport says so and stays idle."""
        server = self.bridge.popen(["python3", "-m", "http.server", "443"])
        self.assertTrue(wait_for(lambda: ":443" in self.bridge.run(["ss", "-Hlnt"]).stdout))
        service = HiddenService(self.bridge)
        self.addCleanup(service.close)
        self.assertIn("SMETHODS DONE", service.said)
        self.assertTrue(any(told.startswith("SMETHOD-ERROR torknock ") for told in service.said), service.said)
        self.assertIsNone(service.process.poll())
        server.terminate()

    def test_two_processes_do_not_guard_one_door(self) -> None:
        """The second says so; the first goes on."""
        beside = Path(self.mktemp()).absolute()  # root's processes claim doors where the service would
        first = HiddenService(self.bridge, own=beside)
        self.addCleanup(first.close)
        second = HiddenService(self.bridge, own=beside)
        self.addCleanup(second.close)
        self.assertTrue(any(told.startswith("SMETHOD-ERROR torknock ") for told in second.said), second.said)
        self.assertIsNone(first.process.poll())

    def test_no_port_means_a_port_of_ours(self) -> None:
        """Port 0 is answered with the port that is protected."""
        service = HiddenService(self.bridge, "0.0.0.0:0")
        self.addCleanup(service.close)
        methods = [told for told in service.said if told.startswith("SMETHOD ")]
        self.assertEqual(len(methods), 1)
        self.assertIn(int(methods[0].rpartition(":")[2]), range(10_000, 30_000))

    def test_packets_that_are_only_forwarded_are_let_be(self) -> None:
        """A bridge that is also a router neither takes SYNs to another host's port 443 nor counts them as refused."""
        lab = Lab()
        self.addCleanup(lab.close)
        client, other = lab.host("client"), lab.host("other")
        door = Door("0.0.0.0", 443)  # noqa: S104  a text, not a socket
        lab.hub.run(["nft", "-f", "-"], load(door, HiddenPorts(1, 2)) + admit(door.table, [4711], 600))
        with other.enter():
            listener = socket.create_server((other.address, 443))
        self.addCleanup(listener.close)
        for isn in (4711, None):
            self.assertEqual(knock(client, other.address, 443, isn, patience=0.5), "silence")  # a mute service
        held = lab.hub.run(["nft", "list", "set", "inet", door.table, "tokens"]).stdout
        self.assertIn("4711", held)
        self.assertNotIn("elements", lab.hub.run(["nft", "list", "set", "inet", door.table, "claimed"]).stdout)
        self.assertGreater(flood(client, other.address, 443, 0.2), 1_000)
        self.assertIn("packets 0 ", lab.hub.run(["nft", "list", "counter", "inet", door.table, "refused"]).stdout)
