"""Tests of torknock.protocol.bridge_line."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from dataclasses import replace
from hashlib import sha256

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from torknock.protocol.bridge_line import (
    BridgeLine,
    Channel,
    Line,
    LineError,
    Scheme,
    arguments,
    parse_address,
    parse_arguments,
    parse_bridge_line,
    write_address,
    write_bridge_line,
)
from torknock.protocol.token import ratchet

SECRET = bytes(range(32))
PIN = bytes(range(100, 132))
KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
PIN_TEXT = urlsafe_b64encode(PIN).decode().rstrip("=")
FINGERPRINT = "4352E58420E68F5E40BF7C74FADDCCD9D1349413"
WRITTEN = f"Bridge torknock 192.0.2.7:443 {FINGERPRINT} key={KEY} pin={PIN_TEXT}"

EPOCHS = st.integers(0, 10**12 - 1)
LABELS = st.from_regex(r"[a-z]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
HOSTS = st.lists(LABELS, min_size=1, max_size=5).map(".".join)
LINES = (
    st.builds(
        Line,
        secret=st.binary(min_size=32, max_size=32)
        | st.builds(ratchet, st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32), EPOCHS),
        pin=st.binary(min_size=32, max_size=32),
        n=st.integers(1, 1024),
        sni=st.none() | HOSTS,
        channel=st.sampled_from(["tls", "raw"]),
    )
    | st.builds(
        Line, secret=st.binary(min_size=32, max_size=32), pin=st.binary(min_size=32, max_size=32), shape=st.booleans()
    )
    | st.builds(
        Line,
        secret=st.binary(min_size=32, max_size=32),
        pin=st.none() | st.binary(min_size=32, max_size=32),
        sni=HOSTS,
        channel=st.just(Channel.WEB),
        path=st.from_regex(r"[A-Za-z0-9_-]{22}", fullmatch=True),
    )
)
BRIDGE_LINES = st.builds(
    BridgeLine,
    address=st.ip_addresses(),
    port=st.integers(1, 65535),
    fingerprint=st.none() | st.from_regex(r"[0-9A-F]{40}", fullmatch=True),
    line=LINES,
)
WORDS = st.sampled_from(
    [
        *WRITTEN.split(),
        *("n=8", "n=0", "sni=a.example", "scheme=knock", "channel=raw", "channel=web", "path=abc", "=", "key=", "é"),
    ]
)


@st.composite
def mutations(draw: st.DrawFn) -> str:
    """A good bridge line that something happened to."""
    text = write_bridge_line(draw(BRIDGE_LINES))
    start = draw(st.integers(0, len(text)))
    end = draw(st.integers(start, len(text)))
    return text[:start] + draw(st.text(max_size=4)) + text[end:]


class ArgumentTests(SynchronousTestCase):
    """The arguments of a bridge line."""

    def refused(self, **given: str) -> str:
        """What is said about these arguments, beside a good key and pin unless they are given."""
        pairs = {"key": KEY, "pin": PIN_TEXT} | given
        said = str(self.assertRaises(LineError, parse_arguments, pairs.items()))
        self.assertNotIn("\n", said)
        for value in filter(None, (pairs["key"], pairs["pin"])):
            self.assertNotIn(value, said)
        return said

    def test_key_and_pin_are_enough(self) -> None:
        """Everything else has the default of the protocol."""
        line = parse_arguments([("pin", PIN_TEXT), ("key", KEY)])
        self.assertEqual(line, Line(SECRET, PIN, n=8, sni=None, scheme=Scheme.TOKEN, channel=Channel.TLS))

    def test_the_name_of_a_site_with_a_public_certificate_replaces_the_pin(self) -> None:
        """Then the name is what tokens are derived for. A bridge of channel `tls` has no such certificate."""
        named = [("key", KEY), ("sni", "bridge.example")]
        line = parse_arguments([*named, ("channel", "web"), ("path", "A" * 22)])
        self.assertEqual(line.pin, None)
        self.assertEqual(line.bridge_name, sha256(b"torknock/1 sni\0bridge.example").digest())
        self.assertIn(" pin;", str(self.assertRaises(LineError, parse_arguments, named)))

    def test_defaults_are_not_written(self) -> None:
        """What says nothing is left out; what is said has one order."""
        self.assertEqual(arguments(Line(SECRET, PIN)), (("key", KEY), ("pin", PIN_TEXT)))
        self.assertEqual(
            arguments(Line(SECRET, PIN, 20, "a.example", channel=Channel.RAW)),
            (("key", KEY), ("pin", PIN_TEXT), ("n", "20"), ("sni", "a.example"), ("channel", "raw")),
        )

    def test_a_shaped_line(self) -> None:
        """It says so, and a line that says nothing is not shaped."""
        self.assertEqual(arguments(Line(SECRET, PIN, shape=True)), (("key", KEY), ("pin", PIN_TEXT), ("shape", "1")))
        self.assertTrue(parse_arguments([("pin", PIN_TEXT), ("key", KEY), ("shape", "1")]).shape)

    @given(LINES, st.randoms())
    def test_the_order_does_not_matter(self, line: Line, random: object) -> None:
        """Arguments that were written are read in any order."""
        pairs = list(arguments(line))
        random.shuffle(pairs)  # type: ignore[attr-defined]
        self.assertEqual(parse_arguments(pairs), line)

    def test_each_fault_names_its_argument(self) -> None:
        """A person sees which argument to mend."""
        for faulty, pairs in [
            ("key", {"key": ""}),
            ("key", {"key": KEY[:-1]}),
            ("key", {"key": KEY + "A"}),
            ("key", {"key": KEY + "="}),
            ("key", {"key": KEY[:-1] + "+"}),
            ("key", {"key": KEY[:-1] + "9"}),
            ("key", {"key": KEY + "\n"}),
            ("key", {"key": KEY[:-1] + "\N{FULLWIDTH LATIN SMALL LETTER A}"}),
            ("pin", {"pin": ""}),
            ("pin", {"pin": PIN_TEXT[1:]}),
            *(("n", {"n": n}) for n in ("", "0", "1025", "-1", "+8", "08", "8.0", "1_0", "٨", "8 ", "9" * 5000)),
            *(
                ("sni", {"sni": name})
                for name in (
                    "", "A.example", "a..b", ".a", "a.", "-a.b", "a-.b", "a_b.c", "192.0.2.7", "2001:db8::1", "a b",
                    "é.example", "a" * 64, ".".join(["a" * 60] * 5), "a\n",
                )
            ),
            *(("scheme", {"scheme": scheme}) for scheme in ("", "Token", "spa")),
            *(("channel", {"channel": channel}) for channel in ("", "TLS", "quic")),
            *(("shape", {"shape": shape}) for shape in ("", "0", "2", "yes")),
            ("shape", {"shape": "1", "channel": "raw"}),
            ("integrity", {"integrity": "0"}),
        ]:  # fmt: skip
            self.assertIn(f" {faulty} ", self.refused(**pairs), pairs)

    def test_a_knock_line(self) -> None:
        """Its secret has any length up to 64; the channel is raw, with or without being named."""
        for secret in (b"s", b"magic", b"s" * 64):
            for integrity in (0, 1, 65535):
                line = Line(secret, None, scheme=Scheme.KNOCK, channel=Channel.RAW, integrity=integrity)
                self.assertEqual(parse_arguments(arguments(line)), line)
                self.assertEqual(parse_arguments([*arguments(line), ("channel", "raw")]), line)

    def test_a_web_line(self) -> None:
        """It has a name and a path, and a pin or none; a usual one is far from tor's limit."""
        path = "AbCdEfGhIjKlMnOpQrSt_-"
        pairs = (("key", KEY), ("sni", "site.example"), ("channel", "web"), ("path", path))
        line = Line(SECRET, None, sni="site.example", channel=Channel.WEB, path=path)
        self.assertEqual((parse_arguments(pairs), arguments(line)), (line, pairs))
        self.assertEqual(parse_arguments([*pairs, ("pin", PIN_TEXT)]).bridge_name, PIN)
        ratcheted = replace(line, secret=ratchet(b"l" * 32, b"d" * 32, 5_900_000))
        address, port = parse_address("192.0.2.7:443")
        self.assertLess(len(write_bridge_line(BridgeLine(address, port, FINGERPRINT, ratcheted))), 260)

    def test_each_fault_of_a_web_line_names_its_argument(self) -> None:
        """What is missing, malformed, or belongs to it alone."""
        web = {"channel": "web", "sni": "site.example", "path": "a" * 22}
        for faulty, pairs in [
            ("path", {"path": "a" * 22}), ("path;", {"channel": "web", "sni": "site.example"}),
            ("sni;", {"channel": "web", "path": "a" * 22}), ("path", web | {"path": "a" * 21}),
            ("path", web | {"path": "a" * 23}), ("path", web | {"path": "a" * 21 + "/"}),
            ("path", web | {"path": "a" * 22 + "\n"}), ("path", web | {"path": ""}),
        ]:  # fmt: skip
            self.assertIn(f" {faulty}", self.refused(**pairs), pairs)

    def test_each_fault_of_a_knock_line_names_its_argument(self) -> None:
        """What belongs to the other scheme, and what is no number."""
        for faulty, pairs in [
            ("key", {"key": ""}), ("key", {"key": "A"}), ("key", {"key": "A" * 87}), ("key", {"key": "AB"}),
            ("key", {"key": "A+"}), ("key", {"key": "A" * 5}), ("key", {"key": "A" * 85}),
            ("pin", {"pin": PIN_TEXT}), ("n", {"n": "8"}), ("sni", {"sni": "a.example"}),
            ("channel", {"channel": "tls"}), ("shape", {"shape": "1"}), ("path", {"path": "a" * 22}),
            *(("integrity", {"integrity": text}) for text in ("", "0", "65536", "-1", "08", "8.0")),
        ]:  # fmt: skip
            given = {"key": "c2VjcmV0", "scheme": "knock"} | pairs
            said = str(self.assertRaises(LineError, parse_arguments, given.items()))
            self.assertIn(f" {faulty} ", said, pairs)

    def test_an_unknown_argument_is_named_but_not_a_secret(self) -> None:
        """A name that may be a secret, or that would break the line of the message, is not shown."""
        self.assertIn(" cert ", self.refused(cert="x"))
        self.assertNotIn(KEY, self.refused(**{KEY: "x"}))
        self.refused(**{"a\nb": "x"})

    def test_what_is_missing_is_named(self) -> None:
        """A line without a key, and one without a pin, are cut short."""
        self.assertIn(" key;", str(self.assertRaises(LineError, parse_arguments, [("pin", PIN_TEXT)])))
        self.assertIn(" pin;", str(self.assertRaises(LineError, parse_arguments, [("key", KEY)])))

    def test_no_argument_comes_twice(self) -> None:
        """Not even with the same value."""
        self.assertRaises(LineError, parse_arguments, [("key", KEY), ("pin", PIN_TEXT), ("key", KEY)])

    @given(st.lists(st.tuples(st.sampled_from(["key", "pin", "n", "sni", "channel", "x"]) | st.text(), st.text())))
    def test_any_arguments_are_a_line_or_an_error(self, pairs: list[tuple[str, str]]) -> None:
        """No input gives a traceback."""
        try:
            parse_arguments(pairs)
        except LineError as error:
            self.assertTrue(str(error).isprintable())

    def test_a_secret_is_not_in_its_repr(self) -> None:
        """A line that ends in a log tells nothing."""
        self.assertNotIn(repr(SECRET), repr(Line(SECRET, PIN)))


class BridgeLineTests(SynchronousTestCase):
    """Bridge lines as people paste them."""

    def test_the_line_of_the_specification(self) -> None:
        """It is written exactly so, and read with or without its first word."""
        _, _, rest = WRITTEN.partition(" ")
        bridge_line = parse_bridge_line(WRITTEN)
        self.assertEqual(write_bridge_line(bridge_line), WRITTEN)
        self.assertEqual(bridge_line.line, Line(SECRET, PIN))
        self.assertEqual(parse_bridge_line(rest), bridge_line)
        self.assertEqual(parse_bridge_line(f"  bridge\t{rest} \r\n"), bridge_line)

    def test_port_and_fingerprint_may_be_missing(self) -> None:
        """tor takes 443 then, and checks no identity."""
        for text in ("192.0.2.7", "[2001:db8::7]"):
            bridge_line = parse_bridge_line(f"torknock {text} key={KEY} pin={PIN_TEXT}")
            self.assertEqual((bridge_line.port, bridge_line.fingerprint), (443, None))

    def test_two_lines_at_once_are_refused(self) -> None:
        """Whatever the second one is; empty ones around a line are none."""
        self.assertEqual(parse_bridge_line(f"\n{WRITTEN}\n\n"), parse_bridge_line(WRITTEN))
        for second in ("n=4", WRITTEN):
            error = self.assertRaises(LineError, parse_bridge_line, f"{WRITTEN}\n{second}")
            self.assertIn("more than one line", str(error))

    def test_what_is_no_bridge_line_of_ours_is_refused(self) -> None:
        """Each in one line of text."""
        good = f"key={KEY} pin={PIN_TEXT}"
        for text in (
            "", "Bridge", "Bridge torknock", f"Bridge obfs4 192.0.2.7:443 {FINGERPRINT} {good}",
            f"torknock bridge.example:443 {good}", f"torknock 2001:db8::7 {good}", f"torknock [192.0.2.7]:443 {good}",
            f"torknock 192.0.2.7:0 {good}", f"torknock 192.0.2.7:65536 {good}", f"torknock 192.0.2.7: {good}",
            f"torknock 192.0.2.07:443 {good}", f"torknock [fe80::1%eth0]:443 {good}",
            f"torknock 192.0.2.7:443 ${FINGERPRINT} {good}", f"torknock 192.0.2.7:443 {FINGERPRINT[1:]} {good}",
            f"torknock 192.0.2.7:443 {good} {FINGERPRINT}", f"torknock 192.0.2.7:443 {good} =x",
            f"torknock 192.0.2.7:443 {good} # mine", f"torknock 192.0.2.7:443 {good} x={'a' * 500}",
            f"{WRITTEN}\n{WRITTEN}",
        ):  # fmt: skip
            error = self.assertRaises(LineError, parse_bridge_line, text)
            self.assertTrue(str(error).isprintable())
            self.assertNotIn(KEY, str(error))

    @given(BRIDGE_LINES)
    def test_what_was_written_is_read(self, bridge_line: BridgeLine) -> None:
        """And it fits what tor passes on."""
        text = write_bridge_line(bridge_line)
        self.assertEqual(parse_bridge_line(text), bridge_line)
        self.assertLessEqual(len(";".join(f"{name}={value}" for name, value in arguments(bridge_line.line))), 510)

    @given(st.text() | st.binary().map(lambda octets: octets.decode("latin-1")) | st.lists(WORDS).map(" ".join))
    def test_any_text_is_a_bridge_line_or_an_error(self, text: str) -> None:
        """No input gives a traceback."""
        try:
            parse_bridge_line(text)
        except LineError as error:
            self.assertTrue(str(error).isprintable())

    @given(mutations())
    def test_a_line_that_was_changed_is_read_or_an_error(self, text: str) -> None:
        """Whatever is read again is written and read the same."""
        try:
            bridge_line = parse_bridge_line(text)
        except LineError as error:
            self.assertTrue(str(error).isprintable())
        else:
            self.assertEqual(parse_bridge_line(write_bridge_line(bridge_line)), bridge_line)

    @given(st.ip_addresses(), st.integers(1, 65535))
    def test_addresses_are_read_as_written(self, address: object, port: int) -> None:
        """IPv6 stands in brackets."""
        self.assertEqual(parse_address(write_address(address, port)), (address, port))  # type: ignore[arg-type]
