"""The one error tree of ssdconv and the exit codes of its command line.

Every message says what went wrong, where (file, offset or tensor), what was expected and found, and what to do next.
"""

from __future__ import annotations

from ssdconv.text import printable

EXIT_OK = 0
EXIT_PARITY = 1
EXIT_USAGE = 2
EXIT_INPUT = 3
EXIT_MISSING = 4
EXIT_NOT_COMPARED = 5
EXIT_INTERRUPTED = 130


class SsdconvError(Exception):
    """Base of every error that ssdconv raises on purpose.

    Args:
        what: one sentence: what went wrong.
        where: the file, byte offset, layer or tensor concerned.
        expected: what would have been right.
        got: what was found instead.
        hint: the next step for the user.
    """

    exit_code = EXIT_INPUT

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        expected: object = None,
        got: object = None,
        hint: str | None = None,
    ) -> None:
        self.what = what
        self.where = where
        self.expected = expected
        self.got = got
        self.hint = hint
        super().__init__(str(self))

    def __str__(self) -> str:
        what = printable(self.what, lines=True)
        head = f"{printable(self.where)}: {what}" if self.where else what
        facts = [
            f"{label} {printable(str(value), lines=True)}"
            for label, value in (("expected", self.expected), ("got", self.got))
            if value is not None
        ]
        text = f"{head} ({', '.join(facts)})" if facts else head
        return f"{text}\n  hint: {printable(self.hint, lines=True)}" if self.hint else text

    @property
    def code(self) -> str:
        """Stable name of the kind of error, for ``--json`` output."""
        return type(self).__name__

    def to_json(self) -> dict[str, object]:
        """The error as JSON-ready data: code, what, where, expected, got, hint."""
        return {
            "code": self.code,
            "what": self.what,
            "where": self.where,
            "expected": None if self.expected is None else str(self.expected),
            "got": None if self.got is None else str(self.got),
            "hint": self.hint,
        }


class UsageError(SsdconvError):
    """The command line or a function's arguments do not make sense together."""

    exit_code = EXIT_USAGE


class FormatError(SsdconvError):
    """A file is damaged, hostile, or not of the format it should be."""


class UnsafeFileError(FormatError):
    """A file could run code or reach other files when loaded; it was refused unread."""


class MappingError(SsdconvError):
    """Source and reference tensors do not pair one to one with equal shapes and dtypes."""


class ParityError(SsdconvError):
    """The converted network does not compute what the source computes."""

    exit_code = EXIT_PARITY


class OutputError(SsdconvError):
    """A result could not be written; what stood at the destination before is untouched."""


class MissingError(SsdconvError):
    """An oracle, data set, or weight file that the command needs is not on this machine."""

    exit_code = EXIT_MISSING


class DownloadError(MissingError):
    """A file could not be fetched, or what arrived is not the file that was asked for."""
