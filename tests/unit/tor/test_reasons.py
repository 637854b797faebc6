"""Tests of which of tor's log lines are taken for the reason of a failure; the lines are tor 0.4.9's."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from torknock.tor.reasons import why_failed, why_refused

NOTICE = 'Nov 25 14:22:17.937 [notice] Read configuration file "/etc/tor/torrc".\n'
SUMMARY = "Nov 25 14:22:17.938 [err] Reading config failed--see warnings above.\n"
SANDBOX = (
    'Managed proxies are not compatible with Sandbox mode.(ServerTransportPlugin line was "torknock exec '
    '/usr/local/bin/torknock server")'
)
PROXY = 'Managed proxy "/usr/local/bin/torknock"'


def warned(*texts: str) -> str:
    """Lines of a log."""
    return "".join(f"Nov 25 14:22:17.938 [warn] {text}\n" for text in texts)


levels = st.sampled_from(["[warn] ", "[err] ", "[notice] ", "[", ""])
words = st.sampled_from(["torknock", "Managed proxy", "key=", "key=AAAA", ". ", "; ", "died in state "]) | st.text(
    max_size=9
)
logs = st.lists(st.tuples(levels, st.lists(words, max_size=6).map("".join)).map("".join), max_size=8)


class AnyLogTests(SynchronousTestCase):
    """Whatever tor, or a transport through it, has logged."""

    @given(logs)
    def test_there_is_a_reason_without_secrets(self, lines: list[str]) -> None:
        """Of a refusal always, of a failure if a transport is mentioned; one line where each message is one."""
        refused = why_refused("\n".join(lines))
        self.assertTrue(refused)
        self.assertNotIn("key=A", refused)
        self.assertEqual(len(refused.splitlines()), 1)
        failed = why_failed(lines)
        self.assertNotIn("key=A", failed or "")
        if not any(word in line.lower() for line in lines for word in ("torknock", "managed proxy")):
            self.assertIsNone(failed)


class RefusalTests(SynchronousTestCase):
    """A configuration."""

    def test_the_warnings_that_the_summary_refers_to(self) -> None:
        """Not the summary, nor a warning that was about something else."""
        said = NOTICE + warned("Your ContactInfo config option is not set.") + NOTICE
        said += warned(SANDBOX, "Failed to parse/validate config: Invalid server transport line. See logs for details.")
        told = why_refused(said + SUMMARY)
        self.assertTrue(told.startswith(SANDBOX), told)
        self.assertTrue(told.endswith("Invalid server transport line. See logs for details"), told)
        self.assertNotIn("ContactInfo", told)

    def test_an_option_and_a_file(self) -> None:
        """One line each."""
        for reason in (
            "Failed to parse/validate config: Unknown option 'Nonsense'.  Failing",
            'Error reading included configuration file or directory: "/etc/tor/torrc.d/torknock.conf"',
        ):
            self.assertEqual(why_refused(NOTICE + warned(f"{reason}.") + SUMMARY), reason)

    def test_nothing(self) -> None:
        """It is said, too."""
        self.assertEqual(why_refused(""), "tor gives no reason")

    def test_no_secret(self) -> None:
        """A bridge line that tor does not like keeps its key."""
        self.assertNotIn("AAAA", why_refused(warned(f"Bridge torknock 192.0.2.7:443 key={'A' * 43} is wrong")))


class TransportTests(SynchronousTestCase):
    """A transport."""

    def test_what_it_said_goes_before_what_came_of_it(self) -> None:
        """Its own words, once each, though states change and processes end afterwards."""
        reason = "Server managed proxy encountered a method error. (torknock another torknock guards port 443)"
        self.assertEqual(
            why_failed([
                f"{PROXY} changed state: Launched -> Infant", reason, reason,
                f"{PROXY} having PID 1945 terminated with status code 1",
                f"{PROXY} changed state: Infant -> Waiting",
            ]),
            reason,
        )  # fmt: skip

    def test_standard_error(self) -> None:
        """What Python says before torknock can speak."""
        reason = "Managed proxy at '/usr/local/bin/torknock' reported via standard error: No module named 'attrs'"
        self.assertEqual(why_failed([reason, f"{PROXY} changed state: Infant -> Waiting"]), reason)

    def test_nothing_but_an_end(self) -> None:
        """That is said."""
        ended = f"{PROXY} having PID 1945 terminated with status code 1"
        self.assertEqual(why_failed(["Failed to open GEOIP file /usr/share/tor/geoip.", ended]), ended)

    def test_not_of_the_transport(self) -> None:
        """It is no reason."""
        self.assertIsNone(why_failed(["Failed to open GEOIP file /usr/share/tor/geoip."]))
