"""`pluggable.logs`: what tor reads of what Python logs."""

from __future__ import annotations

import warnings
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.logger import Logger, LogLevel, capturedLogs, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from pluggable.logs import LogLines, logging_to
from pluggable.report import Report

_log = Logger()


class Case(SynchronousTestCase):
    """What was said to tor."""

    def setUp(self) -> None:
        self.said: list[bytes] = []
        self.clock = Clock()
        self.report = Report(self.said.append)
        self.observer = LogLines(self.report, self.clock.seconds)

    def log(self, level: Any, text: str, log: Logger = _log, **fields: Any) -> None:
        with capturedLogs() as events:
            log.emit(level, text, **fields)
        self.observer(events[0])


class LogLinesTests(Case):
    """`LogLines`."""

    def test_each_level_has_its_severity(self) -> None:
        """tor knows no `warn` and no `critical`, and debug is not said."""
        for level in LogLevel.iterconstants():
            self.log(level, level.name)
        self.assertEqual(
            self.said,
            [
                b'LOG SEVERITY=notice MESSAGE="info"\n',
                b'LOG SEVERITY=warning MESSAGE="warn"\n',
                b'LOG SEVERITY=error MESSAGE="error"\n',
                b'LOG SEVERITY=error MESSAGE="critical"\n',
            ],
        )

    def test_what_twisted_logs_of_its_ports_is_info(self) -> None:
        """Ports and factories are info, which tor does not write down by default; what went wrong is not less."""
        for namespace in ("twisted.internet.tcp.Port", "log_legacy"):
            twisted = Logger(namespace=namespace)
            self.log(LogLevel.info, "starting", twisted)
            self.log(LogLevel.warn, "trouble", twisted)
        self.log(LogLevel.info, "starting", Logger(namespace="twistedly"))
        severities = [line.split()[1].removeprefix(b"SEVERITY=").decode() for line in self.said]
        self.assertEqual(severities, ["info", "warning", "info", "warning", "notice"])

    def test_space_around_a_message_is_left_out(self) -> None:
        """Some programs log with a line end."""
        self.log(LogLevel.info, " hello\n")
        self.assertEqual(self.said, [b'LOG SEVERITY=notice MESSAGE="hello"\n'])

    def test_an_event_without_fields_is_an_empty_notice(self) -> None:
        """Whoever emits an event may leave out everything."""
        self.observer({})
        self.assertEqual(self.said, [b'LOG SEVERITY=notice MESSAGE=""\n'])

    @given(st.text(), st.sampled_from([LogLevel.info, LogLevel.warn, LogLevel.error]))
    def test_any_text_is_one_line(self, text: str, level: Any) -> None:
        """A quoted one, of ASCII."""
        self.setUp()
        self.log(level, "{what}", what=text)
        (line,) = self.said
        self.assertRegex(line, rb'\ALOG SEVERITY=[a-z]+ MESSAGE="[ -~]*"\n\Z')

    def test_addresses_are_scrubbed_from_messages(self) -> None:
        """Twisted puts them into its errors."""
        self.log(LogLevel.error, "{why}", why="to 192.0.2.1:443")
        self.assertEqual(self.said, [b'LOG SEVERITY=error MESSAGE="to [scrubbed]"\n'])

    def test_a_traceback_is_one_line(self) -> None:
        """With the place of the mistake first."""

        def mistake() -> None:
            raise ZeroDivisionError("a\nb 192.0.2.1")

        try:
            mistake()
        except ZeroDivisionError:
            self.log(LogLevel.critical, "oops", log_failure=Failure())
        self.flushLoggedErrors(ZeroDivisionError)
        self.assertEqual(len(self.said), 1)
        said = rb"oops: ZeroDivisionError: a\?b \[scrubbed\] \[test_logs\.py:\d+ mistake < test_logs\.py:\d+ test_\w+\]"
        self.assertRegex(self.said[0], said)

    def test_a_failure_without_a_traceback_is_logged_without_a_place(self) -> None:
        """Nothing is said of where it was."""
        self.log(LogLevel.error, "oops", log_failure=Failure(ValueError("no")))
        self.flushLoggedErrors(ValueError)
        self.assertEqual(self.said, [b'LOG SEVERITY=error MESSAGE="oops: ValueError: no"\n'])

    def test_a_flood_is_cut_and_counted(self) -> None:
        """And hides nothing of another severity."""
        for _ in range(100):
            self.log(LogLevel.warn, "x")
        self.log(LogLevel.error, "y")
        self.assertEqual(len(self.said), 21)
        self.clock.advance(1)
        self.log(LogLevel.warn, "z")
        self.assertEqual(self.said[-1], b'LOG SEVERITY=warning MESSAGE="z (80 more suppressed before this)"\n')
        self.clock.advance(1)
        self.log(LogLevel.warn, "z")
        self.assertEqual(self.said[-1], b'LOG SEVERITY=warning MESSAGE="z"\n')

    def test_parts_of_a_second_count_for_the_allowance(self) -> None:
        """Two halves are a line."""
        for _ in range(30):
            self.log(LogLevel.warn, "x")
        for _ in range(2):
            self.assertEqual(len(self.said), 20)
            self.clock.advance(0.5)
            self.log(LogLevel.warn, "x")
        self.assertEqual(len(self.said), 21)

    def test_debug_is_not_said_and_takes_no_allowance(self) -> None:
        """However much there is of it; only the level debug is left out."""
        for _ in range(100):
            self.log(LogLevel.debug, "x")
        self.assertEqual(self.said, [])
        self.log(LogLevel.info, "y")
        self.assertEqual(self.said, [b'LOG SEVERITY=notice MESSAGE="y"\n'])

    def test_the_allowance_comes_back_and_does_not_grow(self) -> None:
        """One line a second, up to 20 at once, however long it was quiet."""
        for quiet in (0.0, 5.0, 86_400.0):
            self.clock.advance(quiet)
            before = len(self.said)
            for _ in range(30):
                self.log(LogLevel.warn, "x")
            self.assertEqual(len(self.said) - before, {0.0: 20, 5.0: 5, 86_400.0: 20}[quiet])


class LoggingToTests(Case):
    """`logging_to`."""

    def test_events_and_warnings_are_said_within_it(self) -> None:
        """Python's own warnings name the place, and afterwards everything is as it was."""
        before, show = list(globalLogPublisher._observers), warnings.showwarning
        with logging_to(self.report, self.clock.seconds):
            _log.info("hello")
            warnings.showwarning("old", DeprecationWarning, "/a/b/c.py", 7)
        self.assertEqual(
            self.said,
            [
                b'LOG SEVERITY=notice MESSAGE="hello"\n',
                b'LOG SEVERITY=warning MESSAGE="DeprecationWarning: old [c.py:7]"\n',
            ],
        )
        self.assertEqual((list(globalLogPublisher._observers), warnings.showwarning), (before, show))

    def test_an_error_within_it_leaves_nothing_behind(self) -> None:
        """Neither an observer nor a place for warnings."""
        before, show = list(globalLogPublisher._observers), warnings.showwarning
        with self.assertRaises(ZeroDivisionError), logging_to(self.report, self.clock.seconds):
            raise ZeroDivisionError
        self.assertEqual((list(globalLogPublisher._observers), warnings.showwarning), (before, show))
