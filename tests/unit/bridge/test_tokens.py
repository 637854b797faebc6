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
        """Only what opens for nobody any more is to be withdrawn."""
        book = TokenBook()
        book.issue(7, "alice", [1, 2])
        book.issue(8, "bob", [1])
        self.assertEqual(book.retire(7, "alice", [1, 2]), [2])
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

    def test_old_epochs_are_torn_out(self) -> None:
        """What was spent long ago needs no room."""
        book = TokenBook()
        book.issue(7, "alice", [1])
        book.spend(1)
        book.issue(8, "alice", [2])
        book.forget(8)
        self.assertEqual(book.epochs, (8,))
        self.assertEqual(book.spend(1), ((), ()))

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
