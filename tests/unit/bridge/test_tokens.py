"""Tests of torknock.bridge.tokens."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from torknock.bridge.tokens import TokenBook

ISNS = st.lists(st.integers(1, 12), unique=True, max_size=5)
CHANGES = st.lists(
    st.tuples(st.sampled_from(["issue", "retire", "spend"]), st.integers(7, 9), st.sampled_from("ab"), ISNS),
    max_size=20,
)


class TokenBookTests(SynchronousTestCase):
    """Who an ISN opens for."""

    def test_a_token_opens_for_its_line_once(self) -> None:
        """The second connection with the same token finds nobody."""
        book = TokenBook()
        book.issue(7, "alice", [1, 2])
        self.assertEqual(book.spend(1), ((7,), ("alice",)))
        self.assertEqual(book.spend(1), ((), ()))
        self.assertEqual(set(book.unspent(7)), {2})

    def test_nobodys_isn_opens_nothing(self) -> None:
        """An ISN that no line derives belongs to nobody."""
        self.assertEqual(TokenBook().spend(1), ((), ()))

    def test_a_word_of_two_lines_belongs_to_both(self) -> None:
        """The proof behind the door says whose it was."""
        book = TokenBook()
        book.issue(7, "alice", [1])
        book.issue(8, "bob", [1])
        self.assertEqual(book.spend(1), ((7, 8), ("alice", "bob")))

    def test_a_revoked_line_leaves_the_other_its_word(self) -> None:
        """And nothing of its own is left."""
        book = TokenBook()
        book.issue(7, "alice", [1, 2])
        book.issue(8, "bob", [1])
        book.retire(7, "alice", [1, 2])
        self.assertEqual(list(book.unspent(7)), [])
        self.assertEqual(book.spend(1), ((8,), ("bob",)))

    def test_a_spent_token_is_not_issued_again(self) -> None:
        """A gate that is filled anew, and a process that starts anew, do not open what was used."""
        book = TokenBook()
        book.remember_spent([(7, 1)])
        book.issue(7, "alice", [1, 2])
        book.spend(2)
        book.clear()
        book.issue(7, "alice", [1, 2, 3])
        self.assertEqual(list(book.unspent(7)), [3])

    def test_the_epoch_before_can_still_be_spent_from(self) -> None:
        """Its connection may come late; the one before that is forgotten, spent or not."""
        book = TokenBook()
        self.assertEqual(book.turn(range(7, 9)), [7, 8])
        book.issue(7, "alice", [1, 2])
        book.issue(8, "alice", [3])
        book.spend(1)
        self.assertEqual(book.turn(range(8, 10)), [9])
        self.assertEqual(book.epochs, (8, 9))
        self.assertEqual(book.spend(2), ((7,), ("alice",)))
        self.assertEqual(book.spend(1), ((), ()))
        book.turn(range(9, 11))
        self.assertEqual(book.spend(2), ((), ()))
        self.assertEqual(book.spent, set())

    def test_an_epoch_that_does_not_count_any_more_opens_nothing(self) -> None:
        """As when the clock goes back: what was spent in it stays spent when it comes again."""
        book = TokenBook()
        book.turn(range(7, 10))
        book.issue(9, "alice", [1, 2])
        book.spend(1)
        book.turn(range(7, 9))
        self.assertEqual(book.spend(2), ((), ()))
        self.assertEqual(book.turn(range(7, 10)), [9])
        book.issue(9, "alice", [1, 2])
        self.assertEqual(list(book.unspent(9)), [2])

    def test_an_edition_is_told_once(self) -> None:
        """It is another when a token has come or was taken away, also after `clear`; not when one is spent."""
        book = TokenBook()
        book.turn(range(7, 8))
        told = [book.edition(7)]
        book.issue(7, "alice", [1, 2])
        told.append(book.edition(7))
        book.spend(1)
        self.assertEqual(book.edition(7), told[-1])
        book.retire(7, "alice", [2])
        told.append(book.edition(7))
        book.clear()
        book.turn(range(7, 8))
        told.append(book.edition(7))
        self.assertEqual(len(set(told)), 4)

    def test_the_edition_of_an_epoch_that_goes_on_is_the_same(self) -> None:
        """So a gate need not be told its tokens again."""
        book = TokenBook()
        book.turn(range(7, 9))
        told = book.edition(8)
        book.turn(range(8, 10))
        self.assertEqual((book.edition(8), book.edition(7)), (told, 0))
        self.assertNotEqual(book.edition(9), 0)

    @given(CHANGES)
    def test_no_token_of_an_epoch_ever_opens_twice(self, changes: list[tuple[str, int, str, list[int]]]) -> None:
        """Whatever comes in whatever order, an (epoch, ISN) is spent at most once."""
        book = TokenBook()
        spent: list[tuple[int, int]] = []
        for change, epoch, name, isns in changes:
            if change == "issue":
                book.issue(epoch, name, isns)
            elif change == "retire":
                book.retire(epoch, name, isns)
            else:
                for isn in isns:
                    spent += [(opened, isn) for opened in book.spend(isn)[0]]
        self.assertEqual(len(spent), len(set(spent)))
        self.assertFalse({(epoch, isn) for epoch in book.epochs for isn in book.unspent(epoch)} & set(spent))
