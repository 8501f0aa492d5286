"""Samples that could not be used: counted, named in the log once, and an error when they are too many."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

logger = logging.getLogger(__name__)

FEW = 100
"""Readings before which a share means little: that many are assumed, so one bad sample does not stop a short run."""
NAMED = 10
"""Failures that the error names."""

Source = tuple[str, int]
"""(set, row)."""


class TooManyFailures(ValueError):
    """More samples than allowed cannot be read."""


@dataclass
class FailureLog:
    """Of one process: every worker keeps its own."""

    max_share: float
    num_read: int = 0
    """Samples tried, replacements among them."""
    num_failed: int = 0
    num_shortened: int = 0
    """Readings that showed fewer frames or tiles than asked for, to fit the length."""
    failed: dict[Source, str] = field(default_factory=dict)
    """What is wrong with each sample that failed."""
    shortened: set[Source] = field(default_factory=set)

    def read(self) -> None:
        self.num_read += 1

    def fail(self, source: Source, error: Exception) -> None:
        """Count a failure. TooManyFailures, with the files, when the share is exceeded."""
        self.num_failed += 1
        if source not in self.failed:
            self.failed[source] = str(error)
            logger.warning("%s, row %d cannot be used and is replaced: %s", *source, error)
        if self.num_failed > max(1, self.max_share * max(self.num_read, FEW)):
            raise self.error(f"more than max_failed_share={self.max_share:g} allows")

    def error(self, why: str) -> TooManyFailures:
        """The first failures by name."""
        lines = [f"  {name}, row {row}: {message}" for (name, row), message in list(self.failed.items())[:NAMED]]
        more = f"\n  and {len(self.failed) - NAMED} more" if len(self.failed) > NAMED else ""
        return TooManyFailures(
            f"{self.num_failed} of {self.num_read} samples could not be used, {why}; `videochat-online data check` "
            "lists every problem:\n" + "\n".join(lines) + more
        )

    def shorten(self, source: Source, kept: int, wanted: int, max_length: int) -> None:
        """Count a sample that is shown with fewer pictures."""
        self.num_shortened += 1
        if source not in self.shortened:
            self.shortened.add(source)
            level = logging.WARNING if len(self.shortened) <= NAMED else logging.INFO
            message = "%s, row %d is longer than %d tokens: shown with %d pictures instead of %d (%d such so far)"
            logger.log(level, message, *source, max_length, kept, wanted, len(self.shortened))
