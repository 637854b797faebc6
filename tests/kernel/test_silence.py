"""Tests of the posture filtered in every transition, with a stream of SYNs: nothing is answered, guarded or not."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tests.kernel.test_gate import wait_for
from tests.kernel.test_gate_service import Case
from tests.support.bridge import GREETING, HiddenService, knock
from tests.support.netns import end
from tests.support.packets import flood
from torknock.protocol.bridge_line import Scheme
from torknock.protocol.door import Posture
from torknock.protocol.token import epoch_at, tokens
from torknock.service.access import EVERYWHERE, Entry, silence
from torknock.service.posture_table import posture_table

FILTERED = Entry(EVERYWHERE, 443, Posture.FILTERED, "root")
TABLE = posture_table(FILTERED.door)
COUNT = """
table inet count {{
    counter answers {{ }}
    chain forward {{
        type filter hook forward priority filter; policy accept;
        ip saddr {bridge} ip daddr {stranger} counter name "answers"
    }}
}}
"""
"""On the way: what the bridge answers to the stream, whatever it is."""


class SilenceTests(Case):
    """A service, whose access list has port 443 filtered, and a stranger whose SYNs come all the time."""

    def setUp(self) -> None:
        super().setUp()
        addresses = {"bridge": self.bridge.address, "stranger": self.client.silent}
        self.lab.hub.run(["nft", "-f", "-"], COUNT.format(**addresses))
        self.allow(FILTERED)

    def answers(self) -> int:
        told = self.lab.hub.run(["nft", "list", "counter", "inet", "count", "answers"]).stdout
        found = re.search(r"packets (\d+)", told)
        assert found is not None
        return int(found[1])

    @contextlib.contextmanager
    def stream(self) -> Iterator[None]:
        """A stranger's SYNs come to the port until the block ends."""
        over = threading.Event()

        def send() -> None:
            while not over.is_set():
                flood(self.client, self.bridge.address, 443, 0.0, batch=64)
                time.sleep(0.001)

        sending = threading.Thread(target=send)
        sending.start()
        try:
            yield
        finally:
            over.set()
            sending.join()

    def silent(self) -> bool:
        return TABLE in self.tables()

    def claimed(self) -> bool:
        """Whether the service holds the claim on the door."""
        opened = Path(f"/proc/{self.service.pid}/fd").iterdir()
        return any(os.readlink(each).endswith("-torknock-443") for each in opened if each.is_symlink())

    def guarded(self) -> HiddenService:
        """A bridge of this service, once its line opens."""
        hidden = HiddenService(self.bridge, options={"posture": "filtered"}, helper=self.path)
        self.addCleanup(hidden.close)
        self.alice = hidden.line("alice", time.time()).line
        epochs = [epoch_at(time.time()) + ahead for ahead in (0, 1, -1)]
        self.fresh = (it for at in epochs for it in tokens(self.alice.secret, self.alice.bridge_name, at, self.alice.n))
        self.assertTrue(wait_for(self.opens), (hidden.said, self.log))
        return hidden

    def opens(self) -> bool:
        return knock(self.client, self.bridge.address, 443, next(self.fresh)) == GREETING

    def test_the_stream_is_answered_by_a_closed_port(self) -> None:
        """These tests test what they say."""
        end([self.service])
        self.bridge.run(["nft", "flush", "ruleset"])
        with self.stream():
            self.assertTrue(wait_for(lambda: self.answers() > 100))

    def test_no_transition_is_seen(self) -> None:
        """From what is loaded at boot to the end of it all, with clean ends and sudden ones: no answer at all."""
        self.assertTrue(wait_for(self.silent), self.log)
        end([self.service])
        self.bridge.run(["nft", "flush", "ruleset"])
        self.bridge.run(["nft", "-f", "-"], silence([FILTERED]))  # what torknock-filtered.service does
        with self.stream():
            self.service = self.serve()
            hidden = self.guarded()
            with hidden.keyring() as keyring:
                keyring.add("carol", expires=None, now=time.time(), scheme=Scheme.KNOCK)
            self.assertTrue(wait_for(lambda: "queue" in self.bridge.run(["nft", "list", "ruleset"]).stdout))
            self.bridge.run(["nft", "delete", "table", "inet", "torknock-443"])
            self.assertTrue(wait_for(lambda: "torknock-443\n" in self.tables()))
            for sudden in (True, False):
                hidden.process.send_signal(signal.SIGKILL if sudden else signal.SIGTERM)
                hidden.process.wait()
                self.assertTrue(wait_for(lambda: "torknock-443\n" not in self.tables()), self.log)
                hidden.start()
                self.assertTrue(wait_for(self.opens), hidden.said)
                self.service.send_signal(signal.SIGKILL if sudden else signal.SIGTERM)
                self.service.wait()
                self.service = self.serve()
                self.assertTrue(wait_for(self.claimed), self.log)  # what a killed one left opens for a while, too
                self.assertTrue(wait_for(self.opens), hidden.said)
            self.bridge.run(["nft", "-f", "-"], silence([FILTERED]))
            end([hidden.process, self.service])
            self.assertTrue(self.silent())
        self.assertEqual(self.answers(), 0)

    def test_a_flush_is_mended(self) -> None:
        """Whether a bridge guards the port or none does; and while the list is damaged, too."""
        self.assertTrue(wait_for(self.silent), self.log)
        self.bridge.run(["nft", "flush", "ruleset"])
        self.assertTrue(wait_for(self.silent), self.log)
        self.guarded()
        self.bridge.run(["nft", "flush", "ruleset"])
        self.assertTrue(wait_for(self.silent), self.log)
        self.assertTrue(wait_for(self.opens), self.log)
        self.access.write_text("[[door")
        self.bridge.run(["nft", "flush", "ruleset"])
        self.assertTrue(wait_for(self.silent), self.log)
        with self.stream():
            time.sleep(0.2)
        self.assertEqual(self.answers(), 0)

    def test_what_root_takes_out_of_the_list(self) -> None:
        """Its gate is closed, and the port is as closed as any; a list that is gone lists nothing."""
        hidden = self.guarded()
        self.allow(Entry(EVERYWHERE, 8443, Posture.CLOSED, "root"))
        self.assertTrue(wait_for(lambda: "torknock" not in self.tables()), self.log)
        self.assertEqual(knock(self.client, self.bridge.address, 443, None, 1.0), "refused")
        self.assertTrue(wait_for(lambda: "does not list it" in "\n".join(hidden.said)), hidden.said)
        self.allow(FILTERED)
        self.assertTrue(wait_for(self.opens), (hidden.said, self.log))
        self.access.unlink()
        self.assertTrue(wait_for(lambda: "torknock" not in self.tables()), self.log)
