"""What can be wrong with a data set, one error type per cause, and the collector of a ``--keep-going`` run."""

from __future__ import annotations

from collections import Counter

from ssdconv.errors import FormatError, MissingError, SsdconvError


class WrongRootError(MissingError):
    """The folder given as a data set's root does not hold that data set."""


class MissingImageError(MissingError):
    """An annotated image is not on disk."""


class UnreadableImageError(FormatError):
    """An image file cannot be decoded."""


class SizeMismatchError(FormatError):
    """Width and height of an image file differ from its annotation."""


class AnnotationError(FormatError):
    """An annotation file is damaged, hostile, or lacks something it must have."""


class NoObjectsError(AnnotationError):
    """A VOC annotation without any object."""


class UnknownClassError(AnnotationError):
    """An object's class is not one of the data set's classes."""


class InvertedObjectError(AnnotationError):
    """An object's box has its right or bottom edge before its left or top edge, or numbers that are not finite."""


class OutsideImageError(AnnotationError):
    """An object's box lies outside its image, wholly or by more than rounding."""


class EmptySetError(AnnotationError):
    """A data set without images, classes, or objects to train on."""


class Problems:
    """Collects errors instead of stopping at the first.

    Readers take ``keep_going: Problems | None``. With None they raise; with a collector they record the error, leave
    the offending item out (or keep the record without objects) and go on.
    """

    def __init__(self) -> None:
        self.errors: list[SsdconvError] = []

    def __len__(self) -> int:
        return len(self.errors)

    def add(self, error: SsdconvError) -> None:
        """Record one error."""
        self.errors.append(error)

    def hand_over(self, keep_going: Problems | None) -> None:
        """Give everything to a collector; without one raise the first, which then counts the others, so that they can be
        mended together.
        """
        if keep_going is not None:
            keep_going.errors += self.errors
        elif self.errors:
            first = self.errors[0]
            if len(self) > 1:
                kinds = ", ".join(f"{count} x {code}" for code, count in self.counts.items())
                first.hint = "; ".join(
                    filter(None, [first.hint, f"of {len(self)} problems in all ({kinds}) this is the first"])
                )
                first.args = (str(first),)
            raise first

    @property
    def counts(self) -> dict[str, int]:
        """Error code -> how often, most frequent first."""
        return dict(Counter(e.code for e in self.errors).most_common())

    def lines(self, limit: int = 20) -> list[str]:
        """Counts first, then the first ``limit`` errors, each on one line."""
        head = [f"{count} x {code}" for code, count in self.counts.items()]
        shown = [str(e).replace("\n", " ") for e in self.errors[:limit]]
        rest = len(self.errors) - len(shown)
        return head + shown + ([f"... and {rest} more"] if rest > 0 else [])

    def to_json(self) -> dict[str, object]:
        """Counts and every error, JSON-ready."""
        return {"counts": self.counts, "errors": [e.to_json() for e in self.errors]}


def report(error: SsdconvError, keep_going: Problems | None) -> None:
    """Raise ``error``, or record it where a collector is given."""
    if keep_going is None:
        raise error
    keep_going.add(error)
