"""Tests of torknock.protocol.upgrade."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.support.strategies import pieces
from torknock.protocol.upgrade import (
    ASKED_AT_MOST,
    HEAD_AT_MOST,
    HeadReader,
    NotAnUpgrade,
    UpgradeRequest,
    behind_head,
    read_answer,
    read_request,
    write_answer,
    write_request,
)

PATH = "AbCdEfGhIjKlMnOpQrSt_-"
NONCE, PROOF = b"the sample nonce", bytes(range(32))
PEER = b"X-Peer: 192.0.2.7:54321"
REQUEST = write_request(PATH, "site.example", NONCE, PROOF, 150).removesuffix(b"\r\n\r\n") + b"\r\n" + PEER
ANSWER = write_answer(NONCE, PROOF).removesuffix(b"\r\n\r\n")


def without(head: bytes, name: bytes) -> bytes:
    """*head* without the field called *name*."""
    return b"\r\n".join(each for each in head.split(b"\r\n") if not each.startswith(name + b":"))


@st.composite
def mutations(draw: st.DrawFn, head: bytes) -> bytes:
    """A good head that something happened to."""
    start = draw(st.integers(0, len(head)))
    end = draw(st.integers(start, len(head)))
    return head[:start] + draw(st.binary(max_size=6)) + head[end:]


class RequestTests(SynchronousTestCase):
    """A client's request."""

    def refused(self, head: bytes) -> None:
        said = str(self.assertRaises(NotAnUpgrade, read_request, head, PATH))
        self.assertNotIn("192.0.2.7", said)

    def test_what_a_client_writes_is_read(self) -> None:
        """With the field that the site adds, wherever it stands, and in whichever case the names are."""
        wanted = UpgradeRequest("192.0.2.7:54321", NONCE, PROOF)
        self.assertEqual(read_request(REQUEST, PATH), wanted)
        start, *fields = REQUEST.split(b"\r\n")
        self.assertEqual(read_request(b"\r\n".join([start, *reversed(fields)]), PATH), wanted)
        lower = [name.lower() + b":" + value for name, _, value in (each.partition(b":") for each in fields)]
        self.assertEqual(read_request(b"\r\n".join([start, *lower]), PATH), wanted)

    def test_as_many_fields_as_a_browser_may_send_are_read(self) -> None:
        """One hundred, and no more."""
        fields = REQUEST.count(b"\r\n")
        head = REQUEST + b"".join(b"\r\nX-%d: 1" % number for number in range(100 - fields))
        self.assertEqual(read_request(head, PATH).proof, PROOF)
        self.refused(head + b"\r\nX-More: 1")

    def test_a_request_has_the_size_of_a_page_and_asks_for_an_answer(self) -> None:
        """Cookies fill it; what is longer without them stays as it is, and what is not asked for is 0."""
        for size, asked, wanted in ((700, 3210, 3210), (0, 0, 0), (2000, ASKED_AT_MOST + 1, ASKED_AT_MOST)):
            request = write_request(PATH, "site.example", NONCE, PROOF, 150, size=size, asked=asked)
            self.assertTrue(len(request) == size or size == 0)
            head = request.removesuffix(b"\r\n\r\n") + b"\r\n" + PEER
            self.assertEqual(read_request(head, PATH), UpgradeRequest("192.0.2.7:54321", NONCE, PROOF, wanted))
        bare = REQUEST.replace(b"; w=00000; p=", b"")
        self.assertEqual(read_request(bare, PATH).asked, 0)

    def test_an_answer_that_is_too_long_is_refused(self) -> None:
        """The site would not pass it on, nor the client read it."""
        self.refused(REQUEST.replace(b"w=00000", b"w=65537"))
        self.refused(REQUEST.replace(b"w=00000", b"w=99999"))

    def test_an_ipv6_peer(self) -> None:
        """Its address has colons too."""
        head = without(REQUEST, b"X-Peer") + b"\r\nX-Peer: 2001:db8::7:54321"
        self.assertEqual(read_request(head, PATH).peer, "2001:db8::7:54321")

    def test_other_cookies_are_ignored(self) -> None:
        """A browser has many."""
        head = REQUEST.replace(b"Cookie: ", b"Cookie: a=b; session_id=1;").replace(b"; session=", b";session=")
        self.assertEqual(read_request(head, PATH).proof, PROOF)

    def test_each_field_is_needed(self) -> None:
        """Without any one of them it is no request of ours."""
        needed = [b"Upgrade", b"Connection", b"Cookie", b"X-Peer", b"Sec-WebSocket-Key", b"Sec-WebSocket-Version"]
        for name in needed:
            self.refused(without(REQUEST, name))
            line = next(each for each in REQUEST.split(b"\r\n") if each.startswith(name + b":"))
            self.refused(REQUEST + b"\r\n" + line)

    def test_a_run_of_blanks_takes_no_time(self) -> None:
        """In a field that is malformed, and around one that is not."""
        blanks = b" " * 20_000
        self.refused(REQUEST + b"\r\nX:" + blanks + b"\x01")
        self.assertEqual(read_request(REQUEST + b"\r\nX:" + blanks + b"a\t", PATH).proof, PROOF)

    def test_each_fault_is_refused(self) -> None:
        """Other methods and paths, bodies, odd fields, no proof, two of them, one that is malformed."""
        for right, wrong in (
            (b"GET ", b"POST "), (b"GET ", b"get "), (b"GET ", b"GET  "), (PATH.encode(), b"x" * 22),
            (PATH.encode(), PATH.encode() + b"?a=b"), (b"HTTP/1.1", b"HTTP/1.0"), (b"websocket", b"h2c"),
            (b"13", b"12"), (b"session=", b"other="), (b"session=", b"session=A"),
            (b"session=", b"session=; session="), (PEER, b"X-Peer: :"), (PEER, b"X-Peer: unix:"),
            (PEER, b"X-Peer: 192.0.2.7:0"), (PEER, b"X-Peer:"), (PEER, PEER + b"\r\nContent-Length: 1"),
            (PEER, PEER + b"\r\nTransfer-Encoding: chunked"), (PEER, PEER + b"\r\n folded"),
            (PEER, PEER + b"\r\nA b: c"), (PEER, PEER + b"\r\nno field"), (PEER, PEER + b"\r\nA: \x00"),
            (PEER, PEER + b"\nA: b"), (b"Key: ", b"Key: A"), (b"Key: ", b"Key: AA"),
        ):  # fmt: skip
            self.refused(REQUEST.replace(right, wrong, 1))

    def test_a_head_is_bounded(self) -> None:
        """In its length and in its fields; a cookie of 10 KB is none of ours."""
        self.refused(REQUEST + b"\r\nA: " + b"a" * HEAD_AT_MOST)
        self.refused(REQUEST + b"\r\nA: b" * 100)
        self.refused(REQUEST.replace(b"session=", b"session=" + b"a" * 10_000))

    @given(mutations(REQUEST) | st.binary(max_size=400))
    def test_any_octets_are_a_request_or_an_error(self, head: bytes) -> None:
        """No input gives a traceback, and what is read has its lengths."""
        try:
            request = read_request(head, PATH)
        except NotAnUpgrade:
            return
        self.assertEqual((len(request.nonce), len(request.proof)), (16, 32))


class AnswerTests(SynchronousTestCase):
    """The bridge's answer."""

    def test_what_a_bridge_writes_is_read(self) -> None:
        """With what the site adds to it, however often."""
        for more in (b"", b"\r\nServer: nginx\r\nDate: now", b"\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d"):
            self.assertEqual(read_answer(ANSWER + more, NONCE), PROOF)

    def test_an_answer_has_the_size_that_was_asked_for(self) -> None:
        """At the client, once nginx has added its name and the date."""
        added = b"Server: nginx/1.22.1\r\nDate: Wed, 25 Nov 2026 20:39:16 GMT\r\n"
        for asked in (400, 3210, 16_384, 16_392, ASKED_AT_MOST):
            answer = write_answer(NONCE, PROOF, asked)
            self.assertEqual(len(answer) + len(added) + behind_head(asked), asked)
            self.assertEqual(read_answer(answer.removesuffix(b"\r\n\r\n"), NONCE), PROOF)
        self.assertEqual(write_answer(NONCE, PROOF, 100), write_answer(NONCE, PROOF))

    def test_the_sample_of_the_rfc(self) -> None:
        """RFC 6455 §1.3."""
        self.assertIn(b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", write_answer(NONCE, PROOF))

    def test_a_run_of_blanks_takes_no_time(self) -> None:
        """In a field that is malformed, and around one that is not."""
        blanks = b" " * 20_000
        self.assertRaises(NotAnUpgrade, read_answer, ANSWER + b"\r\nX:" + blanks + b"\x01", NONCE)
        self.assertEqual(read_answer(ANSWER + b"\r\nX:" + blanks + b"a\t", NONCE), PROOF)

    def test_each_fault_is_refused(self) -> None:
        """Another status, another request's, no proof, and what is no HTTP."""
        for right, wrong in (
            (b"101", b"200"), (b"101", b"1010"), (b"HTTP/1.1", b"HTTP/2"), (b"Accept: ", b"Accept: A"),
            (b"X-Request-Id: ", b"X-Request-Id: A"), (b"X-Request-Id", b"X-Other"),
            (b"Upgrade: websocket", b"X-Request-Id: " + b"A" * 43),
        ):  # fmt: skip
            self.assertRaises(NotAnUpgrade, read_answer, ANSWER.replace(right, wrong, 1), NONCE)
        self.assertRaises(NotAnUpgrade, read_answer, ANSWER, b"n" * 16)
        self.assertRaises(NotAnUpgrade, read_answer, b"", NONCE)

    @given(mutations(ANSWER) | st.binary(max_size=400))
    def test_any_octets_are_an_answer_or_an_error(self, head: bytes) -> None:
        """No input gives a traceback."""
        try:
            proof = read_answer(head, NONCE)
        except NotAnUpgrade:
            return
        self.assertEqual(len(proof), 32)


class HeadReaderTests(SynchronousTestCase):
    """The end of a head."""

    @given(st.data())
    def test_pieces_of_any_size(self, data: st.DataObject) -> None:
        """Where they are cut changes nothing, and nothing behind the head is lost."""
        reader = HeadReader()
        for piece in data.draw(pieces(REQUEST + b"\r\n\r\nbehind")):
            reader.feed(piece)
        self.assertEqual((reader.head, reader.rest), (REQUEST, b"behind"))

    def test_a_head_without_an_end(self) -> None:
        """It is kept up to its bound and no further, however slowly it comes."""
        reader = HeadReader()
        for _ in range(HEAD_AT_MOST - 1):
            reader.feed(b"a")
        self.assertRaises(NotAnUpgrade, reader.feed, b"a")
        self.assertRaises(NotAnUpgrade, HeadReader().feed, b"a" * HEAD_AT_MOST + b"\r\n\r\n")
