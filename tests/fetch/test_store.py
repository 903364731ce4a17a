"""Files of records: origins in order, mirrors, the lock file, archives, package indexes, no network."""

from __future__ import annotations

import hashlib
import json
import tarfile
import threading
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from ssdconv.errors import DownloadError, FormatError
from ssdconv.fetch import store
from ssdconv.fetch.record import Checksum, File, Origin
from ssdconv.fetch.store import Obtained, Place, obtain


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "files" / "net", tmp_path / "lock.json", "net", tmp_path)


def file(url: str, *more: str, checksum: bytes | None = None, algorithm: str = "sha256") -> File:
    value = None if checksum is None else hashlib.new(algorithm, checksum).hexdigest()
    given = None if value is None else Checksum(algorithm, value, "the tests")  # type: ignore[arg-type]
    return File("weights.bin", tuple(Origin(u, "release") for u in (url, *more)), checksum=given)


def get(what: File, place: Place, lab: Any, **wishes: Any) -> Obtained:
    return obtain(what, place, options=lab.QUICK, **wishes)


def test_a_published_checksum_is_recorded_as_such(server: Any, lab: Any, place: Place) -> None:
    server.script = [lab.good()]
    found = get(file(server.url, checksum=lab.DATA, algorithm="sha1"), place, lab)
    assert (found.trust, found.first_use, found.origin) == ("published", False, server.url)
    pin = store.read_pins(place.lock)["net/weights.bin"]
    assert (pin.sha256, pin.size, pin.trust) == (hashlib.sha256(lab.DATA).hexdigest(), len(lab.DATA), "published")


def test_trust_on_first_use_and_only_then(server: Any, lab: Any, place: Place) -> None:
    server.script = [lab.good()]
    assert get(file(server.url), place, lab).first_use
    assert not get(file(server.url), place, lab).first_use
    server.script = [lab.good(data=bytes(200_000), etag='"new"')]
    (place.folder / "weights.bin").unlink()
    with pytest.raises(DownloadError, match="sha256"):
        get(file(server.url), place, lab)
    assert not (place.folder / "weights.bin").exists()
    server.script = [lab.good()]
    assert get(file(server.url), place, lab).trust == "first use"


def test_a_changed_file_in_the_cache_is_noticed(server: Any, lab: Any, place: Place) -> None:
    server.script = [lab.good()]
    path = get(file(server.url), place, lab).path
    path.write_bytes(lab.DATA[:-1] + b"\0")
    with pytest.raises(DownloadError, match="not on this machine"):
        get(file(server.url), place, lab, offline=True)
    assert get(file(server.url), place, lab).path.read_bytes() == lab.DATA


def test_a_checksum_that_the_record_gained_wins_over_the_lock_file(server: Any, lab: Any, place: Place) -> None:
    server.script = [lab.good(data=bytes(1000))]
    get(file(server.url), place, lab)
    server.script = [lab.good()]
    found = get(file(server.url, checksum=lab.DATA), place, lab)
    assert found.sha256 == hashlib.sha256(lab.DATA).hexdigest()


def test_the_lock_file_is_put_right_by_a_file_that_the_record_vouches_for(server: Any, lab: Any, place: Place) -> None:
    """A sha1 that somebody published settles what the file is; a lock file that says otherwise is wrong, and is corrected."""
    server.script = [lab.good()]
    what = file(server.url, checksum=lab.DATA, algorithm="sha1")
    get(what, place, lab)
    store.write_pin(place.lock, "net/weights.bin", "0" * 64, len(lab.DATA), trust="published", origin=server.url)
    found = get(what, place, lab, offline=True)
    assert found.sha256 == hashlib.sha256(lab.DATA).hexdigest()
    assert store.read_pins(place.lock)["net/weights.bin"].sha256 == found.sha256


def test_a_pin_of_another_size_than_the_record_s_no_longer_counts(server: Any, lab: Any, place: Place) -> None:
    server.script = [lab.good(data=bytes(1000))]
    get(file(server.url), place, lab)
    server.script = [lab.good()]
    known = replace(file(server.url), size=len(lab.DATA))
    assert store.wanted(known, place) == (known.expected, None)
    assert get(known, place, lab).sha256 == hashlib.sha256(lab.DATA).hexdigest()


def test_offline_touches_no_network(server: Any, lab: Any, place: Place) -> None:
    server.script = [lab.good()]
    with pytest.raises(DownloadError, match="network may not be used") as caught:
        get(file(server.url), place, lab, offline=True)
    assert server.requests == []
    assert "zoo download net" in str(caught.value)
    get(file(server.url), place, lab)
    assert get(file(server.url), place, lab, offline=True).origin == ""


def test_origins_are_tried_in_order(server: Any, lab: Any, place: Place) -> None:
    server.script = [lab.status("404 gone"), lab.good()]
    found = get(file(server.url, server.url + "?b", checksum=lab.DATA), place, lab)
    assert found.origin == server.url + "?b"


def test_a_mirror_is_asked_first(server: Any, lab: Any, place: Place) -> None:
    server.script = [lab.good()]
    what = file("https://weights.invalid/w", checksum=lab.DATA)
    get(what, place, lab, mirror=f"http://127.0.0.1:{server.port}/copies/")
    assert server.requests[0].path == "/copies/weights.bin"


def test_a_folder_is_a_mirror(lab: Any, place: Place, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "weights.bin").write_bytes(lab.DATA)
    what = file("page:https://weights.invalid/", checksum=lab.DATA)
    assert get(what, place, lab, mirror=str(tmp_path / "here")).size == len(lab.DATA)


def test_a_mirror_that_lies_does_not_win(server: Any, lab: Any, place: Place) -> None:
    server.script = [lab.good(data=bytes(10)), lab.good()]
    found = get(file(server.url, checksum=lab.DATA), place, lab, mirror=f"http://127.0.0.1:{server.port}/copies")
    assert found.origin == server.url


def test_a_page_for_people_is_named(lab: Any, place: Place) -> None:
    with pytest.raises(DownloadError, match=r"see https://weights\.invalid/page.*--mirror FOLDER") as caught:
        get(file("page:https://weights.invalid/page"), place, lab)
    assert "weights.bin" in str(caught.value)


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_a_member_of_an_archive(kind: str, server: Any, lab: Any, place: Place, tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(lab.DATA)
    if kind == "tar":
        with tarfile.open(tmp_path / "a", "w:gz") as out:
            out.add(tmp_path / "w", "deep/w.bin")
    else:
        with zipfile.ZipFile(tmp_path / "a", "w") as out:
            out.write(tmp_path / "w", "deep/w.bin")
    server.script = [lab.cut(90_000, (tmp_path / "a").read_bytes()), lab.good((tmp_path / "a").read_bytes())]
    found = get(file(server.url + "#deep/w.bin", checksum=lab.DATA), place, lab)
    assert found.path.read_bytes() == lab.DATA
    assert found.path.name == "weights.bin"
    store.forget_archives(place)
    names = {p.name for p in place.folder.iterdir() if p.suffix not in (".lock", ".busy")}
    assert names == {"weights.bin"}


def test_offline_still_looks_into_a_folder(lab: Any, place: Place, tmp_path: Path) -> None:
    (tmp_path / "copies").mkdir()
    (tmp_path / "copies" / "weights.bin").write_bytes(lab.DATA)
    asked = file("http://127.0.0.1:9/weights.bin", checksum=lab.DATA)
    with pytest.raises(DownloadError, match="may not be used"):
        get(asked, place, lab, offline=True, mirror="http://127.0.0.1:9")
    assert get(asked, place, lab, offline=True, mirror=str(tmp_path / "copies")).path.read_bytes() == lab.DATA


def test_a_refused_copy_is_named_with_both_checksums(lab: Any, place: Place, tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"other")
    with pytest.raises(DownloadError) as caught:
        get(file("http://127.0.0.1:9/w", checksum=lab.DATA), place, lab, offline=True, mirror=str(tmp_path))
    said = str(caught.value)
    assert str(tmp_path / "weights.bin") in said
    assert hashlib.sha256(b"other").hexdigest() in said and hashlib.sha256(lab.DATA).hexdigest() in said


def test_a_damaged_archive_falls_to_the_next_origin(server: Any, lab: Any, place: Place, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_LZMA) as out:
        out.writestr("w.bin", lab.DATA[:50_000])
    damaged = bytearray((tmp_path / "a.zip").read_bytes())
    damaged[60:2000] = bytes(len(damaged[60:2000]))
    server.script = [lab.good(bytes(damaged)), lab.good(lab.DATA[:50_000])]
    asked = file(server.url + "#w.bin", server.url, checksum=lab.DATA[:50_000])
    assert get(asked, place, lab).path.read_bytes() == lab.DATA[:50_000]


def test_a_folder_that_takes_no_archive_falls_to_the_next_origin(server: Any, lab: Any, place: Place) -> None:
    server.script = [lab.good()]
    address = server.url.replace("weights.bin", "a.tar")
    place.folder.mkdir(parents=True)
    (place.folder / f"archive-{hashlib.sha256(address.encode()).hexdigest()[:12]}.lock").mkdir()
    asked = file(address + "#w.bin", server.url, checksum=lab.DATA)
    assert get(asked, place, lab).path.read_bytes() == lab.DATA


def test_names_of_records_end_where_they_end() -> None:
    for name in ("weights.bin\n", "../w", "a b"):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({"name": name, "origins": [{"url": "https://a", "kind": "release"}]}, File)


def test_an_archive_has_a_checksum_of_its_own(server: Any, lab: Any, place: Place) -> None:
    server.script = [lab.good()]
    wrong = Origin(server.url + "#w", "release", size=len(lab.DATA), checksum=Checksum("sha1", "0" * 40, "x"))
    with pytest.raises(DownloadError, match="its sha1 is"):
        get(File("weights.bin", (wrong,)), place, lab)


def test_a_package_archive(lab: Any, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "w").write_bytes(lab.DATA)
    with tarfile.open(tmp_path / "thing-1.2.tar.gz", "w:gz") as out:
        out.add(tmp_path / "w", "thing-1.2/w.bin")
    asked = []

    def locate(package: str, version: str, wheel: str) -> store.PackageArchive:
        asked.append((package, version))
        return store.PackageArchive((tmp_path / "thing-1.2.tar.gz").as_uri(), None)

    monkeypatch.setattr(store, "locate", locate)
    found = get(file("pypi:thing==1.2#thing-1.2/w.bin", checksum=lab.DATA), place, lab)
    assert found.path.read_bytes() == lab.DATA
    assert asked == [("thing", "1.2")]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_pip_finds_source_archives_where_it_is_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tarfile.open(tmp_path / "ssdconvthing-1.2.tar.gz", "w:gz"):
        pass
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    assert store.locate("ssdconvthing", "1.2").url == (tmp_path / "ssdconvthing-1.2.tar.gz").as_uri()
    with pytest.raises(DownloadError, match=r"no ssdconvthing-1\.3"):
        store.locate("ssdconvthing", "1.3")


@pytest.mark.parametrize("url", ["drive:0Bz_x-1", "https://drive.google.com/open?id=0Bz_x-1"])
def test_drive_ids_become_addresses(url: str, lab: Any, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(store, "fetch", lambda urls, *rest, **wishes: asked.extend(urls) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        get(file(url), place, lab)
    assert asked == ["https://drive.google.com/uc?export=download&id=0Bz_x-1"]


def test_a_damaged_lock_file_is_an_error(lab: Any, place: Place) -> None:
    place.lock.write_text('{"version": 1, "files": {"net/weights.bin": {"sha256": 5}}}')
    with pytest.raises(FormatError, match="lock file"):
        get(file("page:https://weights.invalid/"), place, lab)


def test_many_writers_lose_no_pin(tmp_path: Path) -> None:
    lock = tmp_path / "lock.json"

    def write(i: int) -> None:
        store.write_pin(lock, f"n{i}/w", "0" * 64, i, trust="first use", origin="")

    threads = [threading.Thread(target=write, args=(i,)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {key: pin.size for key, pin in store.read_pins(lock).items()} == {f"n{i}/w": i for i in range(12)}
    assert list(json.loads(lock.read_text())["files"]) == sorted(f"n{i}/w" for i in range(12))
