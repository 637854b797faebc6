"""What a classifier is told of a connection: sizes, directions and times of its first TLS records."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from contrib.bench.records import Record

FIRST = 20
"""Records that a classifier sees."""

_CELL, _AROUND = 514, 39
_BURSTS = 8


def rule(records: Sequence[Record]) -> bool:
    """Whether three of the first 30 records have the length of tor's cells in TLS in TLS, 514 k + 39 octets."""
    return sum(one.length > _AROUND and (one.length - _AROUND) % _CELL == 0 for one in records[:30]) >= 3


def features(records: Sequence[Record], times: bool) -> dict[str, float]:
    """The features by name: each record's length, negative from the server, sums, bursts; and pauses with *times*."""
    first = list(records[:FIRST])
    signed = [one.length if one.from_client else -one.length for one in first]
    signed += [0] * (FIRST - len(signed))
    found: dict[str, float] = {f"length of record {number}": length for number, length in enumerate(signed, 1)}
    for count in (5, 10, FIRST):
        there = [one.length for one in first[:count] if one.from_client]
        back = [one.length for one in first[:count] if not one.from_client]
        found |= {
            f"octets there in {count}": sum(there),
            f"octets back in {count}": sum(back),
            f"records there in {count}": len(there),
        }
    lengths = [one.length for one in first] or [0]
    found |= {
        "longest": max(lengths),
        "shortest": min(lengths),
        "median length": statistics.median(lengths),
        "spread of lengths": statistics.pstdev(lengths),
        "different lengths": len(set(lengths)),
        "lengths of cells": sum((length - _AROUND) % _CELL == 0 for length in lengths),
    }
    bursts = _bursts(first) + [0] * _BURSTS
    found |= {f"burst {number}": octets for number, octets in enumerate(bursts[:_BURSTS], 1)}
    if times:
        for number in range(1, FIRST):
            pause = first[number].time - first[number - 1].time if number < len(first) else 0.0
            found[f"pause before record {number + 1}"] = math.log10(max(pause, 1e-5))
    return found


def _bursts(records: Sequence[Record]) -> list[int]:
    """The octets of each run of records of one direction, negative from the server."""
    bursts: list[int] = []
    before = None
    for one in records:
        signed = one.length if one.from_client else -one.length
        if one.from_client == before:
            bursts[-1] += signed
        else:
            bursts.append(signed)
        before = one.from_client
    return bursts
