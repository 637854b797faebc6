"""A disk that is full."""

from __future__ import annotations

from pathlib import Path


def fill(directory: Path) -> Path:
    """Take all the room of the file system that holds *directory*; the file that takes it, for a test to remove."""
    filler = directory / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return filler
