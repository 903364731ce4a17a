"""Zip reading against Python's zipfile and torch's writer, and hostile archives, each with its own refusal."""

from __future__ import annotations

import io
import random
import struct
import zipfile
import zlib
from pathlib import Path

import pytest
import torch

from ssdconv.converters.opened import Archive, open_archive
from ssdconv.errors import FormatError, SsdconvError, UnsafeFileError


def packed(*files: tuple[str, bytes], method: int = zipfile.ZIP_STORED, force: bool = False) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, data in files:
            with archive.open(
                zipfile.ZipInfo(name) if method == 0 else _deflated(name), "w", force_zip64=force
            ) as member:
                member.write(data)
    return stream.getvalue()


def _deflated(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.compress_type = zipfile.ZIP_DEFLATED
    return info


FILES = (("a/b.npy", b"hello" * 1000), ("c.bin", bytes(random.Random(0).randbytes(5000))), ("empty", b""))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("force", [False, True], ids=["plain", "zip64"])
def test_same_as_zipfile(method: int, force: bool) -> None:
    archive = Archive(packed(*FILES, method=method, force=force), "x.zip")
    assert list(archive.members) == [name for name, _ in FILES]
    for name, data in FILES:
        assert bytes(archive.read(archive.members[name])) == data
        assert archive.head(archive.members[name], 7) == data[:7]


def test_stored_members_are_views_of_the_file() -> None:
    data = packed(*FILES)
    view = Archive(data, "x").read(Archive(data, "x").members["c.bin"])
    assert view.obj is data


def test_zip64_end_record_as_torch_writes_it(tmp_path: Path) -> None:
    torch.save({"w": torch.arange(12.0)}, tmp_path / "x.pth")
    assert b"PK\6\6" in (tmp_path / "x.pth").read_bytes()
    file, archive = open_archive(tmp_path / "x.pth")
    with zipfile.ZipFile(tmp_path / "x.pth") as theirs:
        assert {n: bytes(archive.read(m)) for n, m in archive.members.items()} == {
            n: theirs.read(n) for n in theirs.namelist()
        }
    file.close()


def changed(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


def hostile() -> dict[str, tuple[bytes, type[SsdconvError], str]]:
    """Name -> (archive, expected error, part of its message)."""
    one = packed(("a.npy", b"x" * 100))
    directory = one.index(b"PK\1\2")
    two = packed(("a", b"x" * 50), ("b", b"y" * 50))
    second = two.rindex(b"PK\1\2")
    big = packed(("a", bytes(100_000)), method=zipfile.ZIP_DEFLATED)
    deflated = big.index(b"PK\1\2")
    twice = two.replace(b"b", b"a")
    return {
        "empty": (b"", FormatError, "no end of a zip"),
        "no_zip": (b"not a zip" * 100, FormatError, "no end of a zip"),
        "prepended": (b"#!/bin/sh\n" + one, FormatError, "not where its end record says"),
        "appended": (one + b"tail", FormatError, "no end of a zip"),
        "encrypted": (changed(one, directory + 8, b"\1\0"), UnsafeFileError, "encrypted"),
        "bzip2": (changed(one, directory + 10, b"\x0c\0"), FormatError, "unknown method"),
        "duplicate": (twice, UnsafeFileError, "two members"),
        "absolute": (one.replace(b"a.npy", b"/.npy"), UnsafeFileError, "leads out"),
        "parent": (one.replace(b"a.npy", b"../py"), UnsafeFileError, "leads out"),
        "drive": (one.replace(b"a.npy", b"C:npy"), UnsafeFileError, "leads out"),
        "backslash": (one.replace(b"a.npy", b"a\\npy"), UnsafeFileError, "leads out"),
        "nul": (one.replace(b"a.npy", b"a\0npy"), UnsafeFileError, "leads out"),
        "two_names": (changed(one, 30, b"z"), UnsafeFileError, "in two ways"),
        "overlap": (changed(two, second + 42, struct.pack("<L", 0)), UnsafeFileError, "within another"),
        "outside": (changed(two, second + 42, struct.pack("<L", 10_000)), FormatError, "not where the directory says"),
        "into_directory": (changed(two, second + 20, struct.pack("<2L", 5000, 5000)), FormatError, "runs into"),
        "two_sizes": (changed(one, directory + 24, struct.pack("<L", 99)), FormatError, "two sizes"),
        "disks": (changed(one, len(one) - 18, struct.pack("<H", 3)), FormatError, "several"),
        "count": (changed(one, len(one) - 14, struct.pack("<2H", 2, 2)), FormatError, "damaged"),
        "too_many": (changed(one, len(one) - 14, struct.pack("<2H", 60_000, 60_000)), FormatError, "more members"),
        "long_name": (changed(one, directory + 28, struct.pack("<H", 60_000)), FormatError, "runs over"),
        "zip64_missing": (changed(one, directory + 24, b"\xff\xff\xff\xff"), FormatError, "zip64"),
        "zip64_end_missing": (changed(one, len(one) - 6, b"\xff\xff\xff\xff"), FormatError, "zip64 record"),
        "says_less": (changed(big, deflated + 24, struct.pack("<L", 10)), FormatError, "another size"),
        "says_more": (changed(big, deflated + 24, struct.pack("<L", 1 << 30)), FormatError, "another size"),
        "wrong_crc": (changed(one, 40, b"!"), FormatError, "CRC-32"),
        "bad_deflate": (changed(big, 31, b"\xff\xff\xff\xff\xff"), FormatError, "damaged"),
    }


@pytest.mark.parametrize("name", hostile())
def test_hostile_archives_are_refused_with_their_reason(name: str) -> None:
    data, kind, message = hostile()[name]
    with pytest.raises(kind, match=message) as caught:
        archive = Archive(data, "x.zip")
        for member in archive.members.values():
            archive.read(member)
    assert "x.zip" in str(caught.value)


def test_a_bomb_is_stopped_at_the_size_that_it_declares() -> None:
    bomb = packed(("a", bytes(50_000_000)), method=zipfile.ZIP_DEFLATED)
    at = bomb.index(b"PK\1\2")
    lying = Archive(changed(bomb, at + 24, struct.pack("<L", 1000)), "bomb.zip")
    member = lying.members["a"]
    assert len(lying._inflate(member, lying.packed(member))) == 1001
    with pytest.raises(FormatError, match="another size than declared"):
        lying.read(member)


def test_output_that_waits_behind_the_last_input_is_not_lost() -> None:
    # 8 MiB from a few kB: the output buffer fills several times after the last byte of input was taken.
    data = bytes(8 << 20)
    archive = Archive(packed(("a", data), method=zipfile.ZIP_DEFLATED), "x")
    assert zlib.crc32(archive.read(archive.members["a"])) == zlib.crc32(data)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_every_cut_of_a_file_is_an_error(method: int) -> None:
    data = packed(("a.npy", b"x" * 20), ("b.npy", b"y" * 20), method=method)
    for cut in range(len(data)):
        with pytest.raises(FormatError):
            Archive(data[:cut], "cut")
