"""`pluggable.report`."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pluggable.errors import EnvironmentFault, ProxyError, VersionFault
from pluggable.report import Report


def said(say: Callable[[Report], None]) -> bytes:
    """What a report writes."""
    written: list[bytes] = []
    say(Report(written.append))
    assert len(written) == 1
    return written[0]


class ReportTests(SynchronousTestCase):
    """`Report`."""

    def test_each_line_is_as_the_specification_has_it(self) -> None:
        """pt-spec §3.3, word for word."""
        lines: dict[bytes, Callable[[Report], None]] = {
            b"VERSION 1\n": Report.version,
            b"VERSION-ERROR no-version\n": lambda report: report.failed(VersionFault()),
            b"ENV-ERROR why\n": lambda report: report.failed(EnvironmentFault("why")),
            b"PROXY-ERROR why\n": lambda report: report.failed(ProxyError("why")),
            b"PROXY DONE\n": Report.proxy_done,
            b"CMETHOD rot socks5 127.0.0.1:80\n": lambda report: report.cmethod("rot", "127.0.0.1", 80),
            b"CMETHOD-ERROR rot why\n": lambda report: report.cmethod_error("rot", "why"),
            b"CMETHODS DONE\n": Report.cmethods_done,
            b"CMETHOD rot socks5 127.0.0.1:1\n": lambda report: report.cmethod("rot", "127.0.0.1", 1),
            b"CMETHOD rot socks5 127.0.0.1:65535\n": lambda report: report.cmethod("rot", "127.0.0.1", 65_535),
            b"SMETHOD rot [::1]:80\n": lambda report: report.smethod("rot", "::1", 80, {}),
            b"SMETHOD rot 192.0.2.1:80 ARGS:a=b,c=d\n": lambda report: report.smethod(
                "rot", "192.0.2.1", 80, {"a": "b", "c": "d"}
            ),
            b"SMETHOD-ERROR rot why\n": lambda report: report.smethod_error("rot", "why"),
            b"SMETHODS DONE\n": Report.smethods_done,
            b'STATUS TYPE=version TRANSPORT=rot IMPLEMENTATION="a b" VERSION="1.0"\n': lambda report: report.status(
                "rot", "a b", "1.0"
            ),
            b'LOG SEVERITY=warning MESSAGE="a \\"b\\" \\\\"\n': lambda report: report.log("warning", 'a "b" \\'),
        }
        for line, say in lines.items():
            self.assertEqual(said(say), line)

    def test_what_tor_would_destroy_us_for_is_never_said(self) -> None:
        """A host name, ports 0 and 65,536, arguments that need an escape, a version with a space."""
        report = Report(lambda line: self.fail(str(line)))
        self.assertRaises(ValueError, report.cmethod, "rot", "127.0.0.1", 65_536)
        self.assertRaises(ValueError, report.cmethod, "rot", "localhost", 80)
        self.assertRaises(ValueError, report.smethod, "rot", "127.0.0.1", 0, {})
        self.assertRaises(ValueError, report.smethod, "rot", "127.0.0.1", 80, {"a": "b c"})
        self.assertRaises(ValueError, report.status, "rot", "rot", "1 0")

    @given(st.text())
    def test_no_text_forges_a_line(self, text: str) -> None:
        """One line, printable, and the quotation ends where it should."""
        line = said(lambda report: report.log("error", text))
        inside = line.removeprefix(b'LOG SEVERITY=error MESSAGE="').removesuffix(b'"\n')
        self.assertTrue(all(0x20 <= octet <= 0x7E for octet in inside))
        self.assertNotIn(b'"', inside.replace(b"\\\\", b"").replace(b'\\"', b""))
        self.assertNotIn(b"\\", inside.replace(b"\\\\", b"").replace(b'\\"', b""))

    @given(st.text())
    def test_no_error_forges_a_line(self, text: str) -> None:
        """Errors are not quoted, and still one line."""
        line = said(lambda report: report.smethod_error("rot", text))
        self.assertEqual(line.count(b"\n"), 1)
        self.assertTrue(line.isascii() and line[:-1].decode().isprintable())
