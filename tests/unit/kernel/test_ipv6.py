"""Tests of a kernel without IPv6: a filter refuses this process its sockets, with the error of such a kernel."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from torknock.kernel.ipv6 import has_ipv6

ROOT = Path(__file__).parents[3]

WITHOUT = """
import resource
from tests.support.without_ipv6 import refuse_sockets
from torknock.interfaces import GateFailed
from torknock.kernel.ipv6 import has_ipv6
from torknock.privileged.gate.listeners import hidden_listeners, hidden_ports
refuse_sockets()
print(has_ipv6())
made = hidden_listeners("::", lambda made: None)
print(len(made), hidden_ports(made).ipv6)
try: hidden_listeners("2001:db8::1", lambda made: None)
except GateFailed as error: print(error)
"""

EXHAUSTED = """
import os, resource
from torknock.kernel.ipv6 import has_ipv6
free = os.dup(0)
os.close(free)
resource.setrlimit(resource.RLIMIT_NOFILE, (free, free))
try: print(has_ipv6())
except OSError as error: print(error.strerror)
"""


class IPv6Tests(SynchronousTestCase):
    """`has_ipv6`, and what depends on it."""

    def told(self, program: str) -> list[str]:
        return subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.splitlines()

    def test_this_kernel_is_as_its_own_table_says(self) -> None:
        """It is as the kernel's own table says."""
        self.assertEqual(has_ipv6(), Path("/proc/net/if_inet6").exists())

    def test_a_kernel_without_it(self) -> None:
        """A gate of every address has one hidden listener; one of an IPv6 address cannot be had."""
        has, listeners, refused = self.told(WITHOUT)
        self.assertEqual((has, listeners), ("False", "1 None"))
        self.assertIn("this kernel has no IPv6", refused)
        self.assertTrue(socket.has_ipv6)

    def test_another_error_says_nothing_of_it(self) -> None:
        """A process without descriptors does not know."""
        self.assertEqual(self.told(EXHAUSTED), ["Too many open files"])
