"""Questions to a peer that have no answer yet."""

from __future__ import annotations

from collections import deque

from twisted.internet.defer import Deferred, fail

from torknock.errors import TorknockError

_UNANSWERED = 16


class PeerGone(TorknockError):
    """A peer that was asked does not answer any more."""

    def __init__(self, why: str) -> None:
        super().__init__(f"the program that asked this service does not answer: {why}")


class Questions:
    """Those to one peer, which answers them in their order."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[str, Deferred[str]]] = deque()

    def ask(self, first_word: str) -> Deferred[str]:
        """The answer, a line that begins with *first_word*, to a question that is sent now.

        Has failed with `PeerGone` if too many have no answer. It may be given up (`addTimeout`): an answer that comes
        late is dropped.
        """
        if len(self._waiting) >= _UNANSWERED:
            return fail(PeerGone("it leaves too much unanswered"))
        answered: Deferred[str] = Deferred()
        self._waiting.append((first_word, answered))
        return answered

    def is_answer(self, line: str) -> bool:
        """Whether *line* answers the oldest question."""
        return bool(self._waiting) and line.partition(" ")[0] == self._waiting[0][0]

    def answer(self, line: str) -> None:
        """Answer the oldest question with *line*."""
        _, answered = self._waiting.popleft()
        if not answered.called:
            answered.callback(line)

    def fail(self, error: PeerGone) -> None:
        """Have every question fail with *error*."""
        waiting, self._waiting = self._waiting, deque()
        for _, answered in waiting:
            if not answered.called:
                answered.errback(error)
