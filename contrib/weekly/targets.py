"""Every parser that is fuzzed, by name."""

from __future__ import annotations

from contrib.weekly import file_targets, text_targets, wire_targets

TARGETS = {target.name: target for part in (text_targets, wire_targets, file_targets) for target in part.TARGETS}
