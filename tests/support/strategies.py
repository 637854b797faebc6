"""hypothesis strategies that several tests share."""

from __future__ import annotations

from hypothesis import strategies as st


def pieces(whole: bytes) -> st.SearchStrategy[list[bytes]]:
    """*whole*, cut anywhere, any number of times."""
    cuts = st.lists(st.integers(0, len(whole)), max_size=8).map(sorted)
    return cuts.map(lambda at: [whole[a:b] for a, b in zip([0, *at], [*at, len(whole)], strict=True)])
