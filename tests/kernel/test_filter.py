"""Tests of a bridge without any privilege: neither CAP_NET_ADMIN nor a service, real packets."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.kernel.test_gate import wait_for
from tests.support.bridge import GREETING, HiddenService, connected, knock
from tests.support.capture import Capture
from tests.support.netns import Lab
from tests.support.packets import MATRIX, flood, probe
from tests.support.race import connections
from torknock.protocol.token import epoch_at, tokens

needs_root = None if os.geteuid() == 0 else "network namespaces need root"

NOWHERE = Path("/nonexistent/gate.sock")
PORT = 8443
DROPPED = "table inet drops { chain c { type filter hook input priority filter; tcp dport 8444 drop; }; }\n"


class RootlessTests(SynchronousTestCase):
    """A bridge host and a client host."""

    skip = needs_root
    timeout = 180

    def setUp(self) -> None:
        self.lab = lab = Lab()
        self.addCleanup(lab.close)
        self.bridge, self.client = lab.host("bridge"), lab.host("client")
        self.addresses = (self.bridge.address, self.bridge.address6)
        self.service = HiddenService(self.bridge, f"0.0.0.0:{PORT}", helper=NOWHERE)
        self.addCleanup(self.service.close)
        self.alice = self.service.line("alice", time.time(), n=128).line
        self.fresh = self.tokens()
        self.assertTrue(wait_for(self.opens), self.service.said)

    def tokens(self) -> Iterator[int]:
        for ahead in (0, 1, -1):
            epoch = epoch_at(time.time()) + ahead
            yield from tokens(self.alice.secret, self.alice.bridge_name, epoch, self.alice.n)

    def opens(self) -> bool:
        return knock(self.client, self.bridge.address, PORT, next(self.fresh)) == GREETING

    def test_it_was_chosen_and_said(self) -> None:
        """The log tells why, and that no ruleset is loaded."""
        self.assertRegex("\n".join(self.service.said), "LOG SEVERITY=warning.*a filter guards port 8443")
        self.assertEqual(self.bridge.run(["nft", "list", "tables"]).stdout, "")

    def test_a_token_opens_once(self) -> None:
        """What was used, and what was never valid, meets silence; over both families."""
        for address in self.addresses:
            token = next(self.fresh)
            self.assertEqual(knock(self.client, address, PORT, token), GREETING)
            self.assertEqual(knock(self.client, address, PORT, token, 0.5), "silence")
            self.assertEqual(knock(self.client, address, PORT, None, 0.5), "silence")

    def test_two_at_once_are_one(self) -> None:
        """Both handshakes may end before the first is accepted; one is served."""
        for _ in range(10):
            token, greeted = next(self.fresh), 0
            opened = []
            for _copy in range(2):
                with contextlib.suppress(TimeoutError):
                    opened.append(connected(self.client, self.bridge.address, PORT, token, 0.5))
            for connection in opened:
                with connection, contextlib.suppress(ConnectionResetError):
                    greeted += connection.recv(len(GREETING)) == GREETING
            self.assertEqual(greeted, 1)

    def test_every_scan_sees_a_port_that_a_firewall_drops(self) -> None:
        """nmap's seven kinds, over both families."""
        self.bridge.run(["nft", "-f", "-"], DROPPED)
        for scan in ("-sS", "-sA", "-sF", "-sN", "-sX", "-sW", "-sM"):
            for target in ((self.bridge.address,), ("-6", self.bridge.address6)):
                once = ("--max-retries", "0", "--max-rtt-timeout", "300ms")
                said = self.client.run(["nmap", "-n", "-Pn", *once, "-p", "8443,8444", scan, *target])
                states = re.findall(r"^844[34]/tcp (\S+)", said.stdout, re.MULTILINE)
                self.assertEqual((len(states), len(set(states))), (2, 1), said.stdout)
                self.assertRegex(states[0], "filtered")

    def test_no_probe_is_answered(self) -> None:
        """Whatever its control bits and options are."""
        for address in self.addresses:
            for name, how in MATRIX.items():
                with self.subTest(name=name, address=address):
                    self.assertIsNone(probe(self.client, address, PORT, **{"patience": 0.1, **how}))

    def test_of_two_copies_at_once_one_connection_stays(self) -> None:
        """Both may get a SYN-ACK; once the second connection is accepted it is reset, and nothing was sent on it."""
        racing = [next(self.fresh) for _ in range(100)]
        hosts = (self.client, self.lab.host("other"))
        became = Counter(map(tuple, connections(hosts, self.bridge.address, PORT, racing, settled=4)))
        self.assertEqual({pair.count("open") for pair in became}, {1}, became)

    def test_there_is_no_moment_of_openness(self) -> None:
        """While the filter is swapped for hundreds of uses, not one wrong SYN is answered."""
        answered: list[object] = []
        with Capture(self.bridge) as wire:
            stranger = threading.Thread(target=flood, args=(self.client, self.bridge.address, PORT, 4.0))
            stranger.start()
            used = 0
            for token in self.fresh:
                used += knock(self.client, self.bridge.address, PORT, token, 1.0) == GREETING
                if not stranger.is_alive():
                    break
            stranger.join()
            time.sleep(0.2)
            for seen in wire.seen:
                packet = seen.packet
                if packet is not None and packet.source_port == PORT:
                    answered.append(packet.destination_port)
        self.assertGreater(used, 20)
        self.assertLessEqual(len(set(answered)), used + 5)

    def test_a_second_bridge_of_the_same_user_does_not_get_the_port(self) -> None:
        """It does not become one of the group."""
        second = HiddenService(self.bridge, f"0.0.0.0:{PORT}", helper=NOWHERE)
        self.addCleanup(second.close)
        self.assertTrue(wait_for(lambda: "another program listens on port 8443" in "\n".join(second.said)), second.said)
        self.assertTrue(wait_for(self.opens))

    def test_a_kernel_that_takes_fewer_tokens(self) -> None:
        """The log names the sysctl, and the port is silent."""
        self.bridge.run(["sysctl", "net.core.optmem_max=2048"])
        self.service.line("bob", time.time(), n=512)
        self.assertTrue(wait_for(lambda: "net.core.optmem_max" in "\n".join(self.service.said)), self.service.said)
        self.assertEqual(knock(self.client, self.bridge.address, PORT, next(self.fresh), 0.5), "silence")

    def test_forty_eight_lines_fit_in_the_memory_of_an_older_kernel(self) -> None:
        """1,152 tokens, with the limit that Linux had before it was raised; 54 lines do not fit."""
        self.bridge.run(["sysctl", "net.core.optmem_max=20480"])
        bob = self.service.line("bob", time.time(), n=256).line
        token = iter(tokens(bob.secret, bob.bridge_name, epoch_at(time.time()), bob.n))
        self.assertTrue(wait_for(lambda: knock(self.client, self.bridge.address, PORT, next(token), 0.5) == GREETING))
        self.service.line("carol", time.time(), n=48)
        self.assertTrue(wait_for(lambda: "net.core.optmem_max" in "\n".join(self.service.said)), self.service.said)

    def test_much_goes_both_ways(self) -> None:
        """10 MB and back: the accepted connection has no filter."""
        with connected(self.client, self.bridge.address, PORT, next(self.fresh), 20) as connection:
            sent = os.urandom(1 << 20) * 10
            sending = threading.Thread(target=connection.sendall, args=(sent,))
            sending.start()
            heard = bytearray()
            while len(heard) < len(sent) + len(GREETING):
                heard += connection.recv(1 << 16)
            sending.join()
        self.assertEqual(bytes(heard[len(GREETING) :]), sent)

    def test_more_lines_than_it_takes_close_it(self) -> None:
        """To everyone, and the log says what to do; fewer open it again."""
        for name in ("bob", "carol", "dave"):
            self.service.line(name, time.time(), n=1024)
        self.assertTrue(wait_for(lambda: "at most 3072 tokens" in "\n".join(self.service.said)), self.service.said)
        self.assertEqual(knock(self.client, self.bridge.address, PORT, next(self.fresh), 0.5), "silence")
        with self.service.keyring() as keyring:
            for name in ("bob", "carol", "dave"):
                keyring.revoke(name, time.time())
        self.assertTrue(wait_for(self.opens), self.service.said)
