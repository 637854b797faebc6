"""Tests of torknock.kernel.linux: what a process may have."""

from __future__ import annotations

import resource

from twisted.trial.unittest import SynchronousTestCase

from torknock.kernel.linux import is_clock_synchronized, raise_descriptor_limit


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


class ClockTests(SynchronousTestCase):
    """`is_clock_synchronized`."""

    def test_the_kernel_is_asked(self) -> None:
        """It answers whoever asks."""
        self.assertIsInstance(is_clock_synchronized(), bool)
