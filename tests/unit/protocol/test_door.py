"""Tests of torknock.protocol.door."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from torknock.protocol.door import Door, Posture


class DoorTests(SynchronousTestCase):
    """`Door`."""

    def test_both_wildcards_are_one_door(self) -> None:
        """Two processes that would guard every address know each other by the table's name."""
        self.assertEqual(Door("0.0.0.0", 443).table, "torknock-443")  # noqa: S104  compared, not bound
        self.assertEqual(Door("::", 443).table, "torknock-443")

    def test_a_door_of_one_address_has_a_table_of_its_own(self) -> None:
        """Two bridges on one host do not take each other's table away; nft has no `:` in names."""
        self.assertEqual(Door("192.0.2.7", 443).table, "torknock-192.0.2.7-443")
        self.assertEqual(Door("2001:db8::7", 443).table, "torknock-2001.db8..7-443")

    def test_only_silence_hides_that_a_syn_is_judged(self) -> None:
        """An answer that waits for a judge is late, and the time to it shows the port."""
        self.assertEqual([posture for posture in Posture if posture.hides_judging], [Posture.FILTERED])

    def test_every_address_is_of_each_ip_version_that_the_kernel_has(self) -> None:
        """One address is of its own."""
        for host in ("0.0.0.0", "::"):  # noqa: S104  compared, not bound
            self.assertEqual(Door(host, 443).versions(ipv6=True), (4, 6))
            self.assertEqual(Door(host, 443).versions(ipv6=False), (4,))
        for ipv6 in (True, False):
            self.assertEqual(Door("192.0.2.7", 443).versions(ipv6), (4,))
            self.assertEqual(Door("2001:db8::7", 443).versions(ipv6), (6,))
