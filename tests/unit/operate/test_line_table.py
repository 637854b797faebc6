"""Tests of torknock.operate.line_table."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from torknock.keyring.issued import Issued
from torknock.operate.line_table import as_json, as_table, state
from torknock.protocol.bridge_line import Channel, Line, Scheme

NOW = 20_000 * 86_400.0
LINE = Line(bytes(32), bytes(32))
KNOCK = Line(b"secret", None, scheme=Scheme.KNOCK, channel=Channel.RAW)

ALICE = Issued("alice", LINE, 19_000 * 86_400, None, None, "für Alice", 19_999, 1234)
BOB = Issued("bob-with-a-long-name", KNOCK, 1, 86_400, None)
CAROL = Issued("carol", LINE, 1, 86_400, 19_999 * 86_400 + 61, "lost", None, 0, True)


class JsonTests(SynchronousTestCase):
    """What scripts read."""

    def test_every_fact_has_its_key(self) -> None:
        """Times are UTC; null is what never was."""
        self.assertEqual(
            json.loads(as_json([ALICE, BOB, CAROL], NOW)),
            [
                {
                    "name": "alice", "state": "live", "scheme": "token", "channel": "tls",
                    "created": "2022-01-08T00:00:00Z", "expires": None, "revoked": None,
                    "last_used": "2024-10-03", "connections": 1234, "note": "für Alice",
                },
                {
                    "name": "bob-with-a-long-name", "state": "expired", "scheme": "knock", "channel": "raw",
                    "created": "1970-01-01T00:00:01Z", "expires": "1970-01-02T00:00:00Z", "revoked": None,
                    "last_used": None, "connections": 0, "note": "",
                },
                {
                    "name": "carol", "state": "revoked", "scheme": "token", "channel": "tls",
                    "created": "1970-01-01T00:00:01Z", "expires": "1970-01-02T00:00:00Z",
                    "revoked": "2024-10-03T00:01:01Z", "last_used": None, "connections": 0, "note": "lost",
                },
            ],
        )  # fmt: skip
        self.assertEqual(as_json([], NOW), "[]")

    def test_json_is_ascii_alone(self) -> None:
        """Whatever a script takes stdout for."""
        self.assertTrue(as_json([ALICE], NOW).isascii())


class TableTests(SynchronousTestCase):
    """What people read."""

    def test_a_revoked_line_that_would_have_expired_is_revoked(self) -> None:
        """A revoked line that would have expired is revoked."""
        self.assertEqual([state(each, NOW) for each in (ALICE, BOB, CAROL)], ["live", "expired", "revoked"])
        self.assertEqual(state(BOB, 86_399.9), "live")

    def test_a_row_is_a_line(self) -> None:
        """Where there is no terminal; each opens, or opened, until the time in its row."""
        self.assertEqual(
            as_table([ALICE, BOB, CAROL], NOW, None).splitlines(),
            [
                "NAME                  STATE    CREATED     ENDS (UTC)        LAST USED   USES  NOTE",
                "alice                 live     2022-01-08  never             2024-10-03  1234  für Alice",
                "bob-with-a-long-name  expired  1970-01-01  1970-01-02 00:00  never          0",
                "carol                 revoked  1970-01-01  2024-10-03 00:01  never          0  lost",
            ],
        )

    def test_only_notes_are_folded(self) -> None:
        """At the width of the terminal, if the rest of the row leaves room."""
        note = "this note is much too long for the row that it stands in"
        heading, *rows = as_table([Issued("alice", LINE, 1, None, None, note)], NOW, 80).splitlines()
        self.assertGreater(len(rows), 1)
        self.assertTrue(all(len(row) <= 80 for row in rows))
        start = heading.index("NOTE")
        self.assertEqual(" ".join(row[start:] for row in rows), note)
        self.assertEqual([row[:start].strip() != "" for row in rows], [True] + [False] * (len(rows) - 1))

    @given(
        names=st.lists(st.from_regex(r"[A-Za-z0-9._][A-Za-z0-9._-]{0,63}", fullmatch=True), min_size=1, max_size=4),
        note=st.text(st.characters(exclude_categories=["C", "Z"]), max_size=200),
        width=st.none() | st.integers(0, 300),
    )
    def test_names_are_whole(self, names: list[str], note: str, width: int | None) -> None:
        """However narrow the terminal is, and whatever is noted; no note leaves its column."""
        lines = [Issued(name, LINE, 1, None, None, note, 3, 7) for name in names]
        rows = as_table(lines, NOW, width).splitlines()
        start = rows[0].index("NOTE")
        self.assertEqual([name for row in rows[1:] if (name := row[:start].split(" ")[0])], names)
        self.assertEqual("".join(row[start:].strip() for row in rows[1:]), note * len(names))
