"""Tests of torknock.bridge.site_keys."""

from __future__ import annotations

from datetime import UTC, datetime

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from torknock.bridge.site_certificate import SiteCertificate, SiteUnusable
from torknock.bridge.site_keys import SiteKeys

HOUR = 3_600.0


def shown(key: bytes, version: str = "TLSv1.3") -> SiteCertificate:
    """What a site shows that has this *key*."""
    return SiteCertificate(key, version, datetime(2027, 1, 1, tzinfo=UTC), True, False)


class SiteKeysTests(SynchronousTestCase):
    """The keys of a site, which shows what a test says."""

    def setUp(self) -> None:
        self.clock, self.looked, self.told = Clock(), list[str](), list[str]()
        self.answer: Deferred[SiteCertificate] | SiteCertificate = shown(b"a")
        self.keys = SiteKeys(self.clock, self.look, self.told.append)

    def look(self, name: str) -> Deferred[SiteCertificate]:
        self.looked.append(name)
        return self.answer if isinstance(self.answer, Deferred) else succeed(self.answer)

    def renewed(self, *names: str) -> frozenset[bytes]:
        found: frozenset[bytes] = self.successResultOf(Deferred.fromCoroutine(self.keys.renew(names)))
        return found

    def test_nothing_is_known_before_the_first_look(self) -> None:
        """Then what the site showed is, for the name that was asked for."""
        self.assertEqual(self.keys.known(["one.example"]), frozenset())
        self.assertEqual(self.renewed("one.example"), {b"a"})
        self.assertEqual(self.keys.known(["one.example"]), {b"a"})
        self.assertEqual(self.keys.known(["two.example"]), frozenset())

    def test_looks_for_one_name_are_seldom(self) -> None:
        """However many wrong proofs come; after 5 s the site is asked again."""
        for _ in range(100):
            self.renewed("one.example")
        self.assertEqual(self.looked, ["one.example"])
        self.clock.advance(5)
        self.answer = shown(b"b")
        self.assertEqual(self.renewed("one.example"), {b"b"})

    def test_all_wait_for_the_look_that_is_going_on(self) -> None:
        """There is one at a time for a name, however long it takes."""
        answer: Deferred[SiteCertificate] = Deferred()
        self.answer = answer
        waiting = [Deferred.fromCoroutine(self.keys.renew(["one.example"])) for _ in range(3)]
        self.clock.advance(60)
        waiting.append(Deferred.fromCoroutine(self.keys.renew(["one.example"])))
        self.assertEqual(len(self.looked), 1)
        answer.callback(shown(b"a"))
        self.assertEqual([self.successResultOf(each) for each in waiting], [{b"a"}] * 4)

    def test_a_site_that_cannot_be_used_is_told(self) -> None:
        """And what was known stays: the web server may be about to start."""
        self.renewed("one.example")
        self.answer = Deferred()
        self.answer.errback(Failure(SiteUnusable("it is down", "start it")))
        self.clock.advance(5)
        self.assertEqual(self.renewed("one.example"), {b"a"})
        self.assertEqual(self.told, ["", "site: it is down; start it"])

    def test_a_fault_is_logged_and_the_looks_go_on(self) -> None:
        """Whatever a web server shows, the next hour's look is made."""
        self.keys.start()
        self.renewed("one.example")
        self.answer = Deferred()
        self.answer.errback(Failure(ValueError("a fault")))
        self.clock.advance(HOUR)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.answer = shown(b"b")
        self.clock.advance(HOUR)
        self.assertEqual(self.keys.known(["one.example"]), {b"b"})
        self.keys.stop()

    def test_an_old_tls_is_told(self) -> None:
        """Clients speak TLS 1.3 alone."""
        self.answer = shown(b"a", "TLSv1.2")
        self.renewed("one.example")
        self.assertIn("TLSv1.2", self.told[0])

    def test_it_looks_every_hour(self) -> None:
        """For the names that it knows, until it is stopped."""
        self.keys.start()
        self.renewed("one.example")
        self.answer = shown(b"b")
        self.clock.advance(HOUR)
        self.assertEqual(self.keys.known(["one.example"]), {b"b"})
        self.keys.stop()
        self.answer = shown(b"c")
        self.clock.advance(HOUR)
        self.assertEqual((self.keys.known(["one.example"]), self.clock.getDelayedCalls()), ({b"b"}, []))
