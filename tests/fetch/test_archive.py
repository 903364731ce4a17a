"""Members of archives: the named one, whole and plain, or an error."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from ssdconv.errors import DownloadError, SsdconvError, UnsafeFileError
from ssdconv.fetch.archive import extract
from ssdconv.fetch.digest import Expected

CONTENT = bytes(range(256)) * 400
RIGHT = Expected(len(CONTENT), "sha256", hashlib.sha256(CONTENT).hexdigest())


def tar(path: Path, members: list[tuple[tarfile.TarInfo, bytes]], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as out:  # type: ignore[call-overload]
        for info, content in members:
            info.size = len(content)
            out.addfile(info, io.BytesIO(content))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_member_of_a_tar(mode: str, tmp_path: Path) -> None:
    archive = tar(tmp_path / "a", [(member("x/other"), b"no"), (member("x/w.bin"), CONTENT)], mode)
    assert extract(archive, "x/w.bin", tmp_path / "w.bin", RIGHT) == RIGHT.value
    assert (tmp_path / "w.bin").read_bytes() == CONTENT
    assert {p.name for p in tmp_path.iterdir()} == {"a", "w.bin"}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_member_of_a_zip(method: int, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a", "w", method) as out:
        out.writestr("other", b"no")
        out.writestr("w.params", CONTENT)
    assert extract(tmp_path / "a", "w.params", tmp_path / "w", RIGHT) == RIGHT.value
    assert (tmp_path / "w").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("kind", "link"), [(tarfile.SYMTYPE, "/etc/hostname"), (tarfile.LNKTYPE, "other"), (tarfile.DIRTYPE, ""),
                       (tarfile.FIFOTYPE, ""), (tarfile.CHRTYPE, "")]
)  # fmt: skip
def test_links_folders_and_devices_are_refused(kind: bytes, link: str, tmp_path: Path) -> None:
    archive = tar(tmp_path / "a", [(member("other"), CONTENT), (member("w", kind, link), b"")])
    with pytest.raises(UnsafeFileError, match="no plain file"):
        extract(archive, "w", tmp_path / "w", Expected())
    assert not (tmp_path / "w").exists()


def test_a_symbolic_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("w")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a", "w") as out:
        out.writestr(info, "/etc/hostname")
    with pytest.raises(UnsafeFileError, match="no plain file"):
        extract(tmp_path / "a", "w", tmp_path / "w", Expected())


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_zip_with_two_members_of_that_name_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a", "w") as out:
        out.writestr("w", b"one")
        out.writestr("w", b"two")
    with pytest.raises(UnsafeFileError, match="several"):
        extract(tmp_path / "a", "w", tmp_path / "w", Expected())


@pytest.mark.parametrize("name", ["../w", "a/../../w", "/etc/w", "..\\w"])
def test_names_that_leave_the_archive_are_refused(name: str, tmp_path: Path) -> None:
    archive = tar(tmp_path / "a", [(member(name), CONTENT)])
    with pytest.raises(UnsafeFileError, match="may be called"):
        extract(archive, name, tmp_path / "w", RIGHT)


def test_other_members_are_never_written(tmp_path: Path) -> None:
    evil = [(member("../evil"), b"x"), (member("/tmp/evil"), b"x"), (member("link", tarfile.SYMTYPE, ".."), b"")]
    inner = tmp_path / "deep"
    inner.mkdir()
    archive = tar(inner / "a", [*evil, (member("w"), CONTENT)])
    extract(archive, "w", inner / "w", RIGHT)
    assert {p.name for p in inner.iterdir()} == {"a", "w"}
    assert {p.name for p in tmp_path.iterdir()} == {"deep"}


def test_an_absent_member_names_the_nearest(tmp_path: Path) -> None:
    archive = tar(tmp_path / "a", [(member("models/VGG_120000.caffemodel"), CONTENT)])
    with pytest.raises(DownloadError, match="VGG_120000") as caught:
        extract(archive, "models/VGG_12000.caffemodel", tmp_path / "w", RIGHT)
    assert "there is models/VGG_120000.caffemodel" in str(caught.value)


@pytest.mark.parametrize(
    ("expected", "error"),
    [
        (Expected(len(CONTENT) + 1), UnsafeFileError),
        (Expected(None, "sha1", "0" * 40), DownloadError),
        (Expected(len(CONTENT), "md5", "0" * 32), DownloadError),
    ],
)
def test_a_member_that_is_not_the_file(expected: Expected, error: type[SsdconvError], tmp_path: Path) -> None:
    archive = tar(tmp_path / "a", [(member("w"), CONTENT)])
    (tmp_path / "w").write_text("old")
    with pytest.raises(error):
        extract(archive, "w", tmp_path / "w", expected)
    assert (tmp_path / "w").read_text() == "old"


def test_a_member_above_the_limit(tmp_path: Path) -> None:
    archive = tar(tmp_path / "a", [(member("w"), bytes(2_000_000))])
    with pytest.raises(UnsafeFileError, match="another size"):
        extract(archive, "w", tmp_path / "w", Expected(), limit=1_000_000)


def test_a_zip_that_lies_about_a_size_is_bounded(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a", "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("w", bytes(1_000_000))
    data = (tmp_path / "a").read_bytes()
    claim = (1_000_000).to_bytes(4, "little")
    assert data.count(claim) == 2
    (tmp_path / "a").write_bytes(data.replace(claim, (1000).to_bytes(4, "little")))
    with pytest.raises(DownloadError):
        extract(tmp_path / "a", "w", tmp_path / "w", Expected())
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_every_cut_is_noticed(kind: str, tmp_path: Path) -> None:
    content = CONTENT[:3000]
    if kind == "tar":
        tar(tmp_path / "whole", [(member("w"), content)])
    else:
        with zipfile.ZipFile(tmp_path / "whole", "w", zipfile.ZIP_DEFLATED) as out:
            out.writestr("w", content)
    data = (tmp_path / "whole").read_bytes()
    right = Expected(len(content), "sha256", hashlib.sha256(content).hexdigest())
    whole = 0
    for size in range(0, len(data), 7):
        (tmp_path / "cut").write_bytes(data[:size])
        try:
            extract(tmp_path / "cut", "w", tmp_path / "w", right)
        except SsdconvError:
            assert not (tmp_path / "w").exists()
        else:  # the end of a tar may be missing: what was asked for is there
            assert (tmp_path / "w").read_bytes() == content
            (tmp_path / "w").unlink()
            whole += 1
    assert whole < len(data) // 14


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"<html>no</html>", b"\x1f\x8b\x08" + bytes(50)])
def test_what_is_no_archive(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(DownloadError, match="damaged"):
        extract(tmp_path / "a", "w", tmp_path / "w", Expected())
