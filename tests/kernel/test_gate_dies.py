"""Tests of a bridge whose gate service dies at any moment: it comes back, closed meanwhile, and nothing opens twice."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from tests.kernel.test_gate import wait_for
from tests.kernel.test_gate_service import PRIVILEGE, ROOT, Case
from tests.support.bridge import GREETING, HiddenService, connected, knock
from tests.support.netns import end
from torknock.protocol.token import epoch_at, tokens


class DyingTests(Case):
    """The service has its socket from outside, as from systemd: who connects waits for the next service."""

    def setUp(self) -> None:
        self.listening: socket.socket | None = None
        super().setUp()
        self.hidden = HiddenService(self.bridge, helper=self.path)
        self.addCleanup(self.hidden.close)
        line = self.hidden.line("alice", time.time() - 7200, n=700).line
        present = epoch_at(time.time())
        self.fresh = (
            token for epoch in (present, present + 1, present - 1)
            for token in tokens(line.secret, line.bridge_name, epoch, line.n)
        )  # fmt: skip
        self.assertTrue(wait_for(self.opens), (self.hidden.said, self.log))

    def serve(self) -> subprocess.Popen[Any]:
        if self.listening is None:
            self.listening = socket.socket(socket.AF_UNIX)
            self.addCleanup(self.listening.close)
            self.listening.bind(str(self.path))
            self.listening.listen()
            self.path.chmod(0o666)
        number = self.listening.fileno()
        activated = f'exec 3<&{number}; LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"'
        command = [*PRIVILEGE, "/bin/bash", "-c", activated, "bash", sys.executable, "-m", "torknock", "gate"]
        command += ["--socket", str(self.path), "--access", str(self.access)]
        with (self.directory / "log").open("a") as log:
            service = self.bridge.popen(command, cwd=ROOT, stderr=log, pass_fds=(number,))
        self.addCleanup(end, [service])
        return service

    def kill(self) -> None:
        self.service.kill()
        self.service.wait()

    def knock(self, token: int) -> bytes | str:
        return knock(self.client, self.bridge.address, 443, token)

    def opens(self) -> bool:
        return self.knock(next(self.fresh)) == GREETING

    def test_a_service_that_is_killed_while_an_answer_is_due(self) -> None:
        """Stopped for a moment, then killed: its successor guards the port."""
        for seconds in (0.6, 0.8, 1.0, 1.3):
            self.service.send_signal(signal.SIGSTOP)
            time.sleep(seconds)
            self.kill()
            self.service = self.serve()
            self.assertTrue(wait_for(self.opens), (seconds, self.hidden.said, self.log))

    def test_the_port_is_closed_while_there_is_no_service(self) -> None:
        """A token gets what a stranger gets, an RST and no SYN-ACK, with table and tokens still there."""
        self.kill()
        time.sleep(0.3)
        got = [self.knock(next(self.fresh)) for _ in range(50)]
        self.assertIn("torknock-443", self.tables())
        self.assertEqual(set(got), {"refused"})

    def test_a_table_that_is_left_is_removed(self) -> None:
        """The service is killed, and the transport ends before there is another, which finds the table."""
        self.kill()
        self.hidden.process.kill()
        self.hidden.process.wait()
        self.assertIn("torknock-443", self.tables())
        self.service = self.serve()
        self.assertTrue(wait_for(lambda: "torknock-443" not in self.tables()), self.log)

    def refuses_replays(self, harm: Callable[[], None]) -> None:
        """SYNs that were answered while *harm* was done open nothing when they are sent again, once all is well."""
        answered = []
        harming = threading.Thread(target=harm)
        harming.start()
        while harming.is_alive():
            token = next(self.fresh)
            try:
                connected(self.client, self.bridge.address, 443, token, 1.0).close()
                answered.append(token)
            except OSError:
                pass
            time.sleep(0.015)
        harming.join()
        self.assertTrue(wait_for(self.opens), (self.hidden.said, self.log))
        self.assertGreater(len(answered), 5)
        got = [self.knock(token) for token in answered]
        self.assertEqual(set(got), {"refused"}, f"{sum(each != 'refused' for each in got)} of {len(got)} open again")

    def test_restarts_of_the_service_revive_nothing(self) -> None:
        """It is killed and started, twice."""

        def harm() -> None:
            for _ in range(2):
                time.sleep(0.3)
                self.kill()
                self.service = self.serve()
                time.sleep(1.2)

        self.refuses_replays(harm)

    def test_an_outage_of_the_service_revives_nothing(self) -> None:
        """There is none for more than a second."""

        def harm() -> None:
            time.sleep(0.3)
            self.kill()
            time.sleep(1.2)
            self.service = self.serve()
            time.sleep(1.0)

        self.refuses_replays(harm)

    def test_flushed_rules_revive_nothing(self) -> None:
        """Another program flushes nftables, three times."""

        def harm() -> None:
            for _ in range(3):
                time.sleep(0.3)
                self.bridge.run(["nft", "flush", "ruleset"])
                time.sleep(0.7)

        self.refuses_replays(harm)

    def test_a_restart_of_the_transport_revives_nothing(self) -> None:
        """As when tor is restarted."""

        def harm() -> None:
            time.sleep(0.5)
            self.hidden.process.terminate()
            self.hidden.process.wait(10)
            self.hidden.said.clear()
            self.hidden.start()

        self.refuses_replays(harm)
