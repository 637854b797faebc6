"""A host that has just been started: its clock may be wrong, and then nothing of another date may be served."""

from __future__ import annotations

import os
import time

from twisted.trial.unittest import SynchronousTestCase

from tests.kernel.test_gate import wait_for
from tests.support.bridge import GREETING, HiddenService, knock
from tests.support.netns import Lab
from torknock.kernel.wall_clock import is_clock_synchronized
from torknock.protocol.token import epoch_at

needs_root = None if os.geteuid() == 0 else "network namespaces need root"

YEAR = 365 * 86_400.0


def booted(seconds: float) -> tuple[str, ...]:
    """What a command is put behind for which the host was started so many *seconds* ago (time_namespaces(7))."""
    offset = round(seconds - time.clock_gettime(time.CLOCK_BOOTTIME))
    return "unshare", "--time", f"--boottime={offset}", "--fork", "--kill-child"


class BootTests(SynchronousTestCase):
    """A clock that is a year ahead at boot and set right within two minutes."""

    skip = needs_root
    timeout = 60

    def test_a_date_that_may_be_wrong_is_not_served(self) -> None:
        """Closed until NTP has set the clock, or for two minutes; then the right date opens."""
        lab = Lab()
        self.addCleanup(lab.close)
        host, client = lab.host("bridge"), lab.host("client")
        doubted = not is_clock_synchronized()
        hidden = HiddenService(host, skew=YEAR if doubted else 0.0, before=booted(108))
        self.addCleanup(hidden.close)
        self.assertIn("SMETHODS DONE", hidden.said)
        alice = hidden.line("alice", time.time()).line
        fresh = iter(alice.tokens(epoch_at(time.time())))
        said = [told for told in hidden.said if "NTP has not set its clock" in told]
        self.assertEqual(len(said), int(doubted), hidden.said)
        if doubted:
            self.assertEqual(knock(client, host.address, 443, next(fresh)), "refused")
        hidden.skew(0.0)

        def opens() -> bool:
            time.sleep(0.4)
            return knock(client, host.address, 443, next(fresh)) == GREETING

        self.assertTrue(wait_for(opens, 20), hidden.said)
