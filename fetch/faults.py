"""What can go wrong while one address is fetched; ``download`` decides what follows, users see ``DownloadError`` only."""

from __future__ import annotations


class Fault(Exception):  # noqa: N818 - caught inside this package only
    """Base of both kinds."""


class Transient(Fault):
    """Trying the same address again may help: a timeout, a cut connection, a busy server.

    Args:
        text: what happened.
        wait: seconds that the server asked to wait, None where it did not.
    """

    def __init__(self, text: str, wait: float | None = None) -> None:
        super().__init__(text)
        self.wait = wait


class Refused(Fault):
    """Trying again does not help: this address does not give the file."""
