"""Tests of torknock.service.sources_table: the text; `tests.kernel` shows with packets what it does."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from torknock.service.sources_table import sources_listing, sources_table


class SourcesTests(SynchronousTestCase):
    """What keeps a user from sending TCP from a foreign address."""

    def test_tcp_of_the_user_from_a_foreign_address_is_dropped_on_its_way_out(self) -> None:
        """What other users send, and what this one sends from an address of this host, goes on."""
        lines = [line.strip() for line in sources_listing(107).splitlines()]
        self.assertEqual(lines[0], f"table inet {sources_table(107)} {{")
        self.assertIn("type filter hook output priority filter; policy accept;", lines)
        dropping = [line for line in lines if "drop" in line]
        self.assertEqual(dropping, ["meta skuid 107 meta l4proto tcp fib saddr type != local drop"])

    def test_each_user_has_a_table_of_their_own(self) -> None:
        """So that one door's end takes nothing from another user's."""
        self.assertEqual([sources_table(uid) for uid in (0, 107)], ["torknock-sources-0", "torknock-sources-107"])
