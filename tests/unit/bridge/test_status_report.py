"""Tests of torknock.bridge.status_report."""

from __future__ import annotations

import contextlib
import json

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from torknock.bridge.status_report import (
    FIGURES,
    LONGEST,
    LineInUse,
    Status,
    StatusError,
    Trouble,
    Warned,
    about,
    from_json,
    odds,
    to_json,
)

NUMBERS = st.integers(0, 2**63 - 1)
TEXTS = st.text().filter(str.isprintable)
STATUSES = st.builds(
    Status,
    version=TEXTS,
    uptime=NUMBERS,
    posture=TEXTS,
    port=NUMBERS,
    connections=NUMBERS,
    opened=NUMBERS,
    let_in=NUMBERS,
    refused=st.none() | NUMBERS,
    given_nothing=NUMBERS,
    lines=NUMBERS,
    tokens=NUMBERS,
    held=st.none() | NUMBERS,
    in_use=st.lists(st.builds(LineInUse, TEXTS, NUMBERS, NUMBERS)).map(tuple),
    warnings=st.lists(st.builds(Warned, st.sampled_from(Trouble), TEXTS)).map(tuple),
)
VALUES: st.SearchStrategy[object] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def status(**changed: object) -> Status:
    """A quiet bridge, *changed*."""
    usual: dict[str, object] = {
        "version": "1", "uptime": 0, "posture": "closed", "port": 443, "connections": 0, "opened": 0, "let_in": 0,
        "refused": 0, "given_nothing": 0, "lines": 1, "tokens": 24, "held": 24, "in_use": (), "warnings": (),
    }  # fmt: skip
    return Status(**{**usual, **changed})  # type: ignore[arg-type]  # of the types that it wants


class StatusTests(SynchronousTestCase):
    """A status as JSON, and in words."""

    @given(STATUSES)
    def test_what_is_written_is_read(self, written: Status) -> None:
        """As it was, from one line of ASCII."""
        octets = to_json(written)
        self.assertEqual((octets.count(b"\n"), octets[-1:], octets.isascii()), (1, b"\n", True))
        self.assertEqual(from_json(octets), written)

    @given(st.binary())
    def test_any_octets_are_read_or_refused(self, octets: bytes) -> None:
        """No other error comes."""
        with contextlib.suppress(StatusError):
            from_json(octets)

    @given(STATUSES, st.data())
    def test_a_member_that_is_another_value_is_read_or_refused(self, written: Status, data: st.DataObject) -> None:
        """Nor for JSON that is nearly right; what is read can be written again."""
        changed = json.loads(to_json(written))
        changed[data.draw(st.sampled_from([*changed, "more"]))] = data.draw(VALUES)
        try:
            read = from_json(json.dumps(changed).encode())
        except StatusError:
            return
        self.assertEqual(from_json(to_json(read)), read)

    def test_what_is_refused(self) -> None:
        """Each for its own reason, and in one line."""
        good = to_json(status()).decode()
        for bad in (
            good.replace('"port": 443', '"port": true'),
            good.replace('"port": 443', '"port": 443.0'),
            good.replace('"port": 443', '"port": -1'),
            good.replace('"port": 443', '"port": NaN'),
            good.replace('"port": 443, ', ""),
            good.replace('"closed"', '"clo\\nsed"'),
            good.replace('"closed"', '"\\ud800"'),
            good.replace('"warnings": []', '"warnings": [{"trouble": "none", "text": ""}]'),
            good.replace('"port": 443', '"port": ' + "9" * 5000),
            "[" * 100_000,
            "[]",
            "",
            " " * (LONGEST + 1),
        ):
            self.assertNotEqual(bad, good)
            error = self.assertRaises(StatusError, from_json, bad.encode())
            self.assertTrue(str(error).isprintable())

    def test_a_status_that_is_too_long_is_refused_before_it_is_read(self) -> None:
        """One of as many octets as there may be is read."""
        octets = to_json(status())
        longest = octets.rstrip().ljust(LONGEST)
        self.assertEqual(from_json(longest), status())
        self.assertIn("too long", str(self.assertRaises(StatusError, from_json, longest + b" ")))

    def test_tokens_are_shown_with_the_odds(self) -> None:
        """Of a random SYN."""
        self.assertEqual(FIGURES["tokens"].words(1024), f"1,024 live: {odds(1024)}")

    def test_the_odds_are_said_in_words(self) -> None:
        """Of one line's tokens, of one token, and of none."""
        self.assertEqual(status().syns_to_a_hit, 178_956_970)
        self.assertEqual(
            odds(24), "1 random SYN in 178,956,970 opens a connection; at 10,000 SYNs a second: about 5 hours"
        )
        self.assertIn("about 5 days", odds(1))
        self.assertIsNone(status(tokens=0).syns_to_a_hit)
        self.assertEqual(odds(0), "no SYN opens a connection")
        self.assertIn("less than a second", odds(2**32))

    def test_times_in_words(self) -> None:
        """One unit is enough."""
        said = [about(seconds) for seconds in (0.2, 1, 1.6, 59, 60, 5400, 86_400, 432_000)]
        self.assertEqual(
            said,
            ["less than a second", "about 1 second", "about 2 seconds", "about 59 seconds", "about 1 minute",
             "about 2 hours", "about 1 day", "about 5 days"],
        )  # fmt: skip
