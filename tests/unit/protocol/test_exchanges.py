"""Tests of torknock.protocol.exchanges and torknock.protocol.plan."""

from __future__ import annotations

import json
import random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from torknock.protocol.exchanges import (
    PIECES_AT_MOST,
    REQUEST_AT_MOST,
    BadExchanges,
    Site,
    exchange,
    parse_site,
    write_site,
)
from torknock.protocol.frames import ANSWER_AT_MOST, FRAME_AT_MOST, HEAD
from torknock.protocol.plan import (
    ANSWERS_AT_MOST,
    EXCHANGES,
    PADDING_AT_MOST,
    REQUEST_LIKE,
    THINK_AT_MOST,
    WAIT_AT_MOST,
    Plan,
    Rhythm,
)


def seeded(seed: int) -> random.Random:
    """The same chance each time."""
    return random.Random(seed)  # noqa: S311


exchanges = st.builds(
    exchange,
    st.floats(-1, 100).map(lambda seconds: round(seconds, 6)),
    st.integers(-10, 10_000),
    st.lists(st.integers(0, 200_000), max_size=20),
    st.floats(0, 100).map(lambda seconds: round(seconds, 6)),
)
sites = st.builds(Site, st.text(max_size=20), st.lists(st.lists(exchanges, min_size=1, max_size=9).map(tuple),
                  min_size=1, max_size=5).map(tuple))  # fmt: skip
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


class FileTests(SynchronousTestCase):
    """The file of a site's exchanges."""

    @given(sites)
    def test_what_is_written_is_read(self, site: Site) -> None:
        """Whatever was seen at the site: `exchange` brings it within bounds."""
        self.assertEqual(parse_site(write_site(site)), site)

    @given(st.text(max_size=60) | anything.map(json.dumps))
    def test_any_text_is_read_or_refused(self, text: str) -> None:
        """With one error, in one line."""
        try:
            parse_site(text)
        except BadExchanges as error:
            self.assertNotIn("\n", str(error))

    @given(anything)
    def test_any_page_is_read_or_refused(self, page: Any) -> None:
        """Also where the rest of the file is right."""
        text = json.dumps({"format": "torknock exchanges 1", "taken": "", "pages": [page]})
        try:
            parse_site(text)
        except BadExchanges as error:
            self.assertIn("torknock site learn", error.remedy)

    def test_what_is_out_of_bounds_is_refused(self) -> None:
        """Each number, and by its place."""
        good = [1000, 600, [4000, 100], 300]
        for place, bad in (
            (0, -1), (0, True), (1, 1), (1, REQUEST_AT_MOST + 1), (2, []), (2, [HEAD - 1]), (2, [ANSWER_AT_MOST + 1]),
            (2, [100] * (PIECES_AT_MOST + 1)), (2, 5), (3, 1.5), (3, 10**9),
        ):  # fmt: skip
            text = json.dumps({
                "format": "torknock exchanges 1", "taken": "",
                "pages": [[good], [good, [*good[:place], bad, *good[place + 1 :]]]],
            })  # fmt: skip
            with self.subTest((place, bad)), self.assertRaisesRegex(BadExchanges, "page 2 has an exchange"):
                parse_site(text)

    def test_tickets_that_are_none_are_refused(self) -> None:
        """A file may name none."""
        page = [[[0, 600, [5000], 0]]]
        for tickets in ([], 5, [[265] * 5], [[1]], [265]):
            text = json.dumps({"format": "torknock exchanges 1", "taken": "", "pages": page, "tickets": tickets})
            self.assertRaises(BadExchanges, parse_site, text)
        text = json.dumps({"format": "torknock exchanges 1", "taken": "", "pages": page})
        self.assertEqual(parse_site(text).tickets, ((),))

    def test_a_deep_or_long_file_is_refused(self) -> None:
        """Without a traceback, and without reading all of it."""
        self.assertRaises(BadExchanges, parse_site, "[" * 100_000)
        self.assertRaises(BadExchanges, parse_site, " " * (5 << 20))


class PlanTests(SynchronousTestCase):
    """What is drawn of a site."""

    @given(sites, st.integers(0, 2**32))
    def test_a_plan_is_of_the_sites_answers_and_within_bounds(self, site: Site, seed: int) -> None:
        """Twelve exchanges, or as many as the octets of their answers allow; no pause is long."""
        plan = list(Plan(site, seeded(seed)).exchanges)
        known = {one.answers for page in site.pages for one in page}
        self.assertTrue(all(one.answers in known for one in plan))
        self.assertTrue(2 <= len(plan) <= EXCHANGES)
        self.assertTrue(len(plan) == 2 or sum(sum(one.answers) for one in plan) <= ANSWERS_AT_MOST)
        self.assertTrue(all(0 <= one.think <= THINK_AT_MOST for one in plan))
        self.assertTrue(all(one.request >= HEAD * len(one.answers) for one in plan))

    @given(sites, st.integers(0, 2**32), st.integers(0, FRAME_AT_MOST - HEAD))
    def test_free_frames_hold_their_data(self, site: Site, seed: int, data: int) -> None:
        """A client's small ones are as long as a request, others have up to 1,200 octets of padding."""
        plan, rhythm = Plan(site, seeded(seed)), Rhythm(site, seeded(seed))
        requests = {one.request for page in site.pages for one in page}
        small = data < REQUEST_LIKE and HEAD + data <= min(requests)
        if small:
            self.assertIn(plan.free_frame(data), requests)
        for size in (rhythm.free_frame(data), *([] if small else [plan.free_frame(data)])):
            most = max(HEAD + data + PADDING_AT_MOST, *(requests if data < REQUEST_LIKE else ()), 0)
            self.assertTrue(HEAD + data <= size <= min(FRAME_AT_MOST, most))
        self.assertTrue(0 <= rhythm.wait() <= WAIT_AT_MOST)

    def test_a_pause_that_is_too_long_is_drawn_from_those_that_are_allowed(self) -> None:
        """From the longer ones of them: where a reader thinks, no request follows at once."""
        site = Site("", ((exchange(30.0, 600, [100], 10.0),),))
        for seed in range(20):
            for one in Plan(site, seeded(seed)).exchanges:
                self.assertTrue(0.4 * THINK_AT_MOST <= one.think <= THINK_AT_MOST)
            self.assertTrue(0.2 * WAIT_AT_MOST <= Rhythm(site, seeded(seed)).wait() <= WAIT_AT_MOST)

    def test_tickets_come_before_the_first_answer(self) -> None:
        """As the site sends them: a connection that is resumed has fewer."""
        pages = ((exchange(0, 600, [5000], 0), exchange(0, 600, [700], 0)),)
        site = Site("", pages, ((265, 265), (265,)))
        first = {Plan(site, seeded(seed), tickets=True).exchanges[0].answers for seed in range(20)}
        self.assertEqual(first, {(265, 265, 5000), (265, 5000)})
        self.assertEqual(Plan(site, seeded(1)).exchanges[0].answers, (5000,))

    def test_a_first_answer_that_fits_is_preferred(self) -> None:
        """The head of an HTTP answer has its limit."""
        pages = tuple((exchange(0, 600, [size], 0), exchange(0, 600, [700], 0)) for size in (50_000, 900))
        for seed in range(20):
            self.assertEqual(Plan(Site("", pages), seeded(seed), first_at_most=1000).exchanges[0].answers, (900,))

    def test_a_plan_begins_with_a_page_of_nine_records_or_more(self) -> None:
        """Where the site has one: a connection that goes on for as long as tor's is no short one."""
        short = (exchange(0.01, 500, [100], 0.001),) * 4
        long = (*(exchange(0.01, 900, [100], 0.001),) * 3, exchange(0.01, 900, [100, 100], 0.001))
        for seed in range(20):
            self.assertGreater(Plan(Site("", (short, long)), seeded(seed)).exchanges[0].request, 800)

    def test_two_plans_differ(self) -> None:
        """Also of one page: cookies and pauses are drawn."""
        site = Site("", ((exchange(0.01, 600, [5000], 0.001), exchange(0.02, 580, [900], 0.001)),))
        one, other = (list(Plan(site, seeded(seed)).exchanges) for seed in (1, 2))
        self.assertNotEqual([each.request for each in one], [each.request for each in other])
        self.assertNotEqual([each.think for each in one], [each.think for each in other])
