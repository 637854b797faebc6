"""Tests of torknock.kernel.descriptor_limit: how many connections leave descriptors for everything else."""

from __future__ import annotations

import resource

from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from torknock.kernel.descriptor_limit import OF_A_CLIENT, RESERVE, Places, places, raise_descriptor_limit


class PlacesTests(SynchronousTestCase):
    """`places` and `Places`."""

    def test_connections_leave_the_reserve(self) -> None:
        """With all places taken; a program that may open next to nothing has one."""
        for limit in (256, 1_024, 65_536):
            self.assertEqual(limit - places(limit, OF_A_CLIENT) * OF_A_CLIENT, RESERVE)
        self.assertEqual(places(64, OF_A_CLIENT), 1)

    def test_it_is_said_once_and_once_when_it_is_over(self) -> None:
        """However many are turned away, and come and go meanwhile."""
        room = Places(20, "more files, please")
        with capturedLogs() as events:
            self.assertEqual([room.take() for _ in range(25)], [True] * 20 + [False] * 5)
            room.give_back()
            self.assertTrue(room.take())
            self.assertFalse(room.take())
            self.assertEqual(len(events), 1)
            room.give_back()
            room.give_back()
            room.give_back()
        said = [event["log_format"].format(**event) for event in events]
        self.assertEqual(
            said,
            [
                "connections turned away: all 20 places are taken; more files, please",
                "connections accepted again; 6 were turned away",
            ],
        )


class DescriptorTests(SynchronousTestCase):
    """`raise_descriptor_limit`."""

    def test_the_soft_limit_is_raised(self) -> None:
        """To the hard one, 65,536 at most; what is higher already stays, and so does the hard limit."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))
        self.assertEqual(raise_descriptor_limit(), min(hard, 65_536))
        self.assertEqual(resource.getrlimit(resource.RLIMIT_NOFILE), (min(hard, 65_536), hard))
        self.assertEqual(raise_descriptor_limit(), min(hard, 65_536))
