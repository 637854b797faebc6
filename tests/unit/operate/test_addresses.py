"""Tests of `torknock.operate.addresses`, and of the commands that are given an address."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address

from click.testing import CliRunner
from hypothesis import assume, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from torknock.cli import torknock
from torknock.operate.addresses import refusal, warning

REFUSED = {
    "0.0.0.0": "every address",  # noqa: S104  a text
    "0.1.2.3": "reserved",
    "127.0.0.1": "loopback",
    "127.255.255.254": "loopback",
    "169.254.1.1": "link-local",
    "224.0.0.1": "multicast",
    "239.255.255.255": "multicast",
    "240.0.0.1": "reserved",
    "255.255.255.255": "broadcast",
    "::": "every address",
    "::1": "loopback",
    "::2": "reserved",
    "::ffff:127.0.0.1": "127.0.0.1",
    "::ffff:8.8.8.8": "8.8.8.8",
    "64:ff9b::808:808": "reserved",
    "fe80::1": "link-local",
    "fec0::1": "reserved",
    "ff02::1": "multicast",
    "2001:db8::1%eth0": "interface",
}
"""What no client can connect to, and a word of the reason."""

WARNED = ("10.0.0.7", "172.16.0.1", "192.168.1.1", "100.64.0.1", "192.0.2.7", "198.18.0.1", "203.0.113.1", "fd00::1",
          "2001:db8::7")  # fmt: skip
"""What labs use, and hosts behind address translation have."""


class AddressTests(SynchronousTestCase):
    """Which addresses may stand in a line."""

    def test_what_no_client_reaches_is_refused(self) -> None:
        """With the reason."""
        for address, word in REFUSED.items():
            self.assertIn(word, refusal(ip_address(address)), address)

    def test_what_some_clients_reach_is_warned_of(self) -> None:
        """Documentation addresses too: a line that was copied from a manual."""
        for address in WARNED:
            self.assertEqual(refusal(ip_address(address)), "")
            self.assertIn("not a public address", warning(ip_address(address)))

    @given(st.ip_addresses(v=4))
    def test_a_public_address_is_neither(self, address: IPv4Address) -> None:
        """By IANA's registry of special-purpose addresses."""
        assume(address.is_global and not address.is_multicast)
        self.assertEqual((refusal(address), warning(address)), ("", ""))


class CommandTests(SynchronousTestCase):
    """`--address` of every command that puts it into a line."""

    def test_each_command_refuses_an_unreachable_address(self) -> None:
        """Before tor or a keyring is looked at."""
        for address, word in REFUSED.items():
            where = f"[{address}]:443" if ":" in address else f"{address}:443"
            for command in (
                ["setup", "bridge", "--yes", "--address", address],
                ["line", "add", "alice", "--address", where, "--keyring", "/nonexistent"],
                ["line", "show", "alice", "--address", where, "--keyring", "/nonexistent"],
                ["line", "card", "alice", "--address", where, "--keyring", "/nonexistent"],
            ):
                done = CliRunner().invoke(torknock, command)
                self.assertEqual(done.exit_code, 2, f"{command}: {done.output}")
                if "%" not in address or command[0] == "setup":  # a line's address has no place for an interface
                    self.assertIn(word, done.output.replace("\n", " "), command)
