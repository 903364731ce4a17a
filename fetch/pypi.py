"""Source archives of Python packages, found by pip where the user's pip configuration points; nothing is ever run or installed.

``pip download`` would run an archive's setup.py, so only pip's search is used: index, extra indexes, local folders, user and
password and certificates are the configured ones.
"""

from __future__ import annotations

import contextlib
import importlib
import io
from dataclasses import dataclass
from typing import Any

from ssdconv.errors import DownloadError, SsdconvError


@dataclass(frozen=True)
class Found:
    """Where an archive is.

    Attributes:
        url: http(s) or file address, with user and password where the index needs them.
        certificates: file with certificate authorities that pip is configured with, None for the system's.
    """

    url: str
    certificates: str | None


def locate(package: str, version: str) -> Found:
    """The source archive ``PACKAGE-VERSION.tar.gz`` on the configured package indexes.

    Raises:
        DownloadError: pip is absent, the index out of reach, or it has no such archive.
    """
    wanted = f"{package}-{version}.tar.gz"
    hint = "check the network and `pip config list`"
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            found = _search(package, version, wanted)
    except SsdconvError:
        raise
    except Exception as error:
        # pip's classes promise nothing to others, and its network layer raises dozens of kinds of errors.
        raise DownloadError(f"pip could not look for {wanted}: {type(error).__name__}: {error}", hint=hint) from error
    if found is None:
        raise DownloadError(f"the package index has no {wanted}, or cannot be reached", hint=hint)
    return found


def _search(package: str, version: str, wanted: str) -> Found | None:
    # pip has no public interface for "search, but run nothing"; these names have been the same from pip 20 to 26.
    commands: Any = importlib.import_module("pip._internal.commands")
    command = commands.create_command("download")
    options, _ = command.parse_args(["--no-deps", "--no-binary", ":all:", package])
    with command.main_context():
        session = command.get_default_session(options)
        finder = command._build_package_finder(options=options, session=session)
        for candidate in finder.find_all_candidates(package):
            if str(candidate.version) == version and candidate.link.filename == wanted:
                return Found(str(candidate.link.url_without_fragment), getattr(options, "cert", None))
    return None
