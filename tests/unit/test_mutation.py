"""Tests of the weekly tier's mutants: which there are, and that exactly those which no test notices are found."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from contrib.weekly import mutation
from contrib.weekly.mutants import Mutant, difference, mutants, sample
from contrib.weekly.mutation import Plan, Survivor, Tree

FILE = "pluggable/tiny.py"
MODULE = """
def is_small(number: int) -> bool:
    \"\"\"Whether it is.\"\"\"
    return number < 10


def answered(calls: list[int]) -> None:
    calls.append(1)
"""
TEST = """
from twisted.trial.unittest import SynchronousTestCase

from pluggable.tiny import answered, is_small


class TinyTests(SynchronousTestCase):
    def test_numbers_far_from_the_boundary(self):
        self.assertEqual([is_small(3), is_small(20)], [True, False])

    def test_it_answers(self):
        calls = []
        answered(calls)
        self.assertEqual(calls, [1])
"""
UNTESTED = {"number < 10 -> number <= 10", "10 -> 11"}


def changes(text: str) -> list[str]:
    """What the mutants of *text* change."""
    return [mutant.change for mutant in mutants(text)]


class MutantsTests(SynchronousTestCase):
    """`mutants`, `sample`."""

    def test_each_kind_of_change_is_made(self) -> None:
        """Comparisons, sums, conditions, numbers, what is returned and what is done; not types, not decorators."""
        text = """
@define(slots=1)
class Some:
    size: Literal[7] = field(init=False)

    def some(self, a: Literal[1], b):
        \"\"\"Some.\"\"\"
        if not a and a < b:
            self.done = a - 2
            raise Some(f"{a + 1}")
        return [each for each in b if each]
"""
        self.assertEqual(
            changes(text),
            [
                "not a and a < b -> True", "not a and a < b -> False", "not a and a < b -> not a or a < b",
                "not a -> a", "a < b -> a <= b", "self.done = a - 2 -> pass", "a - 2 -> a + 2", "2 -> 3",
                "raise Some(f'{a + 1}') -> pass", "return [each for each in b if each] -> return None", "each -> True",
            ],
        )  # fmt: skip

    def test_a_change_keeps_what_stands_around_it(self) -> None:
        """Also where the new operator binds less, and behind letters of more than one octet."""
        text = "x = 'é', a and b == c, not (a or b) & 7, -(a % b)\n"
        made = {mutant.change: mutant.text for mutant in mutants(text)}
        self.assertEqual(made["a and b == c -> a or b == c"], text.replace("a and b == c", "(a or b == c)"))
        self.assertEqual(made["(a or b) & 7 -> (a or b) | 7"], text.replace("(a or b) & 7", "((a or b) | 7)"))
        self.assertEqual(made["a % b -> a // b"], text.replace("%", "//"))
        self.assertEqual(len(made), len(mutants(text)))

    def test_a_mutant_is_called_by_its_function_and_line(self) -> None:
        """And shown as a diff."""
        [mutant] = [each for each in mutants(MODULE) if "<=" in each.change]
        self.assertEqual(mutant.name, ("is_small", "return number < 10", "number < 10 -> number <= 10"))
        self.assertIn("-    return number < 10\n+    return number <= 10\n", difference(MODULE, mutant, FILE))

    def test_the_sample_of_a_seed_stays_when_lines_move(self) -> None:
        """It is drawn by what is changed, not by where that stands."""
        text = Path(mutation.__file__).read_text()
        drawn = [mutant.name for mutant in sample(mutants(text), 7, 9)]
        moved = sample(mutants(f"# Some.\n\n\n{text}\n\n\n"), 7, 9)
        self.assertEqual([mutant.name for mutant in moved], drawn)
        self.assertEqual(len(drawn), 9)
        self.assertNotEqual([mutant.name for mutant in sample(mutants(text), 8, 9)], drawn)


class SurvivorsTests(SynchronousTestCase):
    """A tree with one module, whose test leaves one line open."""

    def setUp(self) -> None:
        self.root = Path(self.mktemp()).absolute()
        for name, text in (
            (FILE, MODULE), ("pluggable/__init__.py", ""), ("tests/__init__.py", ""), ("tests/unit/__init__.py", ""),
            ("tests/unit/pluggable/__init__.py", ""), ("tests/unit/pluggable/test_tiny.py", TEST),
        ):  # fmt: skip
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).write_text(text)

    def run_(self, *accepted: Survivor) -> tuple[list[float], str]:
        """How many survive that are not accepted, how many are in the list in vain, and what is printed."""
        printed = io.StringIO()
        with contextlib.redirect_stderr(printed):
            found = list(mutation.figures(Plan([FILE], 7, 99, accepted), None, self.root))
        self.assertEqual([figure.held for figure in found], [found[0].value == 0, True])
        return [figure.value for figure in found], printed.getvalue()

    def test_exactly_what_no_test_notices_survives(self) -> None:
        """It makes the run fail, and is shown as a diff and as it would stand in the list."""
        values, printed = self.run_()
        self.assertEqual(values, [2, 0])
        for change in changes(MODULE):
            self.assertEqual(f'change = "{change}"' in printed, change in UNTESTED, change)
        self.assertIn("+    return number <= 10\n", printed)
        self.assertEqual((self.root / FILE).read_text(), MODULE)

    def test_an_accepted_one_is_silent_and_one_that_is_none_any_more_is_reported(self) -> None:
        """Whether a test notices it now, or its line is another."""
        line = "return number < 10"
        accepted = [Survivor(FILE, "is_small", line, change, "Some.") for change in sorted(UNTESTED)]
        self.assertEqual(self.run_(*accepted), ([0, 0], ""))
        noticed = Survivor(FILE, "is_small", line, "return number < 10 -> return None", "Some.")
        gone = Survivor(FILE, "is_large", line, "10 -> 11", "Some.")
        values, printed = self.run_(*accepted, noticed, gone)
        self.assertEqual(values, [0, 2])
        self.assertIn("is_small: a test notices it\n", printed)
        self.assertIn("is_large: its line has changed\n", printed)

    def test_a_mutant_that_does_not_end_is_ended(self) -> None:
        """It counts as noticed: no test passes."""
        endless = Mutant("", "", "", 1, "while True:\n    pass\n")
        with Tree(self.root) as tree:
            self.assertEqual(tree.outcome(FILE, endless, 1.0), "hung")

    def test_tests_that_fail_without_a_mutant_are_said(self) -> None:
        """What they say of mutants is worth nothing."""
        (self.root / FILE).write_text("")
        error = self.assertRaises(RuntimeError, self.run_)
        self.assertIn("tests/unit/pluggable fail without a mutant", str(error))


class PlanTests(SynchronousTestCase):
    """What is run, and the list of survivors."""

    def test_the_recorded_list_is_read(self) -> None:
        """Each survivor has a reason, and is of a file that mutants are made of."""
        plan = Plan.read()
        self.assertLessEqual({survivor.file for survivor in plan.accepted}, {*plan.files})
        for file in ("torknock/protocol/token.py", "torknock/bridge/admission.py", *mutation._ALSO):
            self.assertIn(file, plan.files)
        self.assertEqual(Plan.read(["torknock/redact.py"], 8, 3).files, ["torknock/redact.py"])
        self.assertTrue(all("client" in file for file in Plan.read(["client"]).files))

    def test_a_survivor_without_a_reason_is_refused(self) -> None:
        """And a room without pure files."""
        list_ = Path(self.mktemp())
        list_.write_text(
            'seed = 7\neach = 7\n[[survivor]]\nfile = "a.py"\nfunction = ""\nline = ""\nchange = "1 -> 2"\nreason = " "'
        )
        self.assertRaises(ValueError, Plan.read, ["nonsense"])
        self.patch(mutation, "ACCEPTED", list_)
        self.assertIn("no reason for 1 -> 2 in a.py", str(self.assertRaises(ValueError, Plan.read)))
