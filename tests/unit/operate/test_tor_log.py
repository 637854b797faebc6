"""Tests of what torknock.operate.tor_log makes of the journal, which other programs write to as well."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from torknock.operate.tor_log import from_journal, judge

values = (
    st.none() | st.integers() | st.text(max_size=9) | st.sampled_from(["3", "4", "5"]) | st.lists(st.text(), max_size=2)
)
entries = st.dictionaries(st.sampled_from(["MESSAGE", "PRIORITY", "_PID"]), values).map(json.dumps) | st.text(
    max_size=30
)


class JournalTests(SynchronousTestCase):
    """`from_journal`."""

    @given(st.lists(entries | entries.map(lambda entry: entry[:-2]), max_size=5))
    def test_any_entries_of_the_journal_can_be_judged(self, lines: list[str]) -> None:
        """What is no message of tor's is left out, and what is cut off; of the rest something can be said."""
        judge(from_journal("\n".join(lines)))

    def test_an_entry_that_is_cut_off_hides_no_other(self) -> None:
        """As when the disk of the journal is full."""
        said = '{"MESSAGE": "half a mes\n{"MESSAGE": "torknock: whole", "PRIORITY": "4"}\n' + "{" * 9
        self.assertEqual(from_journal(said), "[warn] torknock: whole")
