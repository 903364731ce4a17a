"""The zoo: every record is complete and honest, names lead to converted networks, the cache is never trusted blindly."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

import ssdconv
from ssdconv import zoo
from ssdconv.errors import DownloadError, FormatError, MappingError, MissingError, UsageError
from ssdconv.fetch import record
from ssdconv.fetch.digest import ALGORITHMS
from ssdconv.fetch.record import ZooRecord
from ssdconv.parity.accuracy import published
from ssdconv.ssd_ref.networks.registry import builders, networks

ROOT = Path(__file__).parents[1]
RECORDS = [entry.record for entry in zoo.entries().values()]
RES10 = "res10_300x300_ssd"


def files(r: ZooRecord) -> list[record.File]:
    return [f for f in (r.file, r.prototxt) if f is not None]


def every_record(test: Any) -> Any:
    return pytest.mark.parametrize("r", RECORDS, ids=lambda r: r.name)(test)


def test_every_named_network_has_a_record() -> None:
    have = {(r.source, r.network) for r in RECORDS}
    missing = [f"{n.source}/{n.name}" for n in networks() if (n.source, n.name) not in have]
    assert not missing
    unpublished = [name for name in published.networks() if tuple(name.split("/")) not in have]
    assert not unpublished, "published numbers about weights without record"


@every_record
def test_a_record_fits_its_network(r: ZooRecord) -> None:
    known = builders(r.source)
    if r.network in known:
        config = known[r.network](r.network, None)
        assert (r.num_classes, r.input) == (config.num_classes, config.pixels.size)
    else:
        assert not known or r.parity, "neither a named network nor converted here"


@every_record
def test_a_record_is_complete(r: ZooRecord) -> None:
    assert r.licence.title and r.paper.title
    for file in files(r):
        for origin in file.origins:
            assert origin.note, f"{origin.url}: where does this address come from?"
            assert origin.url.startswith(("https://", "drive:", "pypi:", "page:https://")), origin.url
            if origin.url.startswith("pypi:"):
                assert origin.size and origin.checksum and "#" in origin.url and "==" in origin.url
            if origin.fetched:
                assert file.checksum is not None and file.size
        if file.checksum is not None:
            assert len(file.checksum.value) in (8, ALGORITHMS[file.checksum.algorithm])
            assert len(file.checksum.publisher) > 10
    if r.published is not None:
        assert record.own_rows(r), "a reference to rows that are not in published.json"
    if r.paper_network is not None:
        assert published.rows(r.paper_network, role="primary")
    for run in r.parity:
        assert run.agreeing == run.probes and run.worst < 8 and run.tool == f"ssdconv {ssdconv.__version__}"


def test_gluon_files_carry_their_checksum_in_their_names() -> None:
    named = [r for r in RECORDS if r.source == "gluon" and r.file.checksum and r.file.checksum.algorithm == "sha1"]
    assert len(named) == 10
    for r in named:
        assert r.file.checksum is not None
        assert r.file.name == f"{r.name}-{r.file.checksum.value[:8]}.params"
        assert r.file.origins[0].url.endswith(f"/{r.file.name[:-7]}.zip#{r.file.name}")


def test_names_are_what_the_cache_and_the_networks_allow() -> None:
    keys = [r.name.replace("/", "--") for r in RECORDS]
    assert len({key.lower() for key in keys}) == len(keys)
    assert len({(r.name, f.name) for r in RECORDS for f in files(r)}) == sum(len(files(r)) for r in RECORDS)


def test_nothing_about_accuracy_is_claimed_that_nobody_measured() -> None:
    for r in RECORDS:
        assert record.measured_score(r) == ("not measured" if not r.scores else record.measured_score(r))
        known = r.file.checksum is not None and r.file.checksum.algorithm == "sha256"
        if not known and not any(origin.fetched for origin in r.file.origins):
            assert not r.parity and not r.scores, f"{r.name}: measured here, but nobody can tell on which file"


def test_the_schema_is_the_file_form() -> None:
    schema = record.schema()
    assert set(schema["$defs"]["ZooRecord"]["required"]) >= {"name", "source", "network", "file", "licence", "paper"}
    assert schema["$defs"]["Checksum"]["additionalProperties"] is False
    told = json.loads((ROOT / "fetch" / "zoo.schema.json").read_text())
    assert told == json.loads(json.dumps(schema)), "run: python tools/tables.py"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("records", 0, "surprise"), 1),
        (("records", 0, "source"), "darknet"),
        (("records", 0, "file", "name"), "../../evil"),
        (("records", 0, "file", "origins"), []),
        (("records", 0, "file", "origins", 0, "url"), "http://example.org/x"),
        (("records", 0, "file", "checksum", "value"), "XYZ"),
        (("records", 0, "file", "checksum", "value"), "abc"),
        (("records", 0, "file", "checksum", "algorithm"), "crc32"),
        (("records", 0, "file", "size"), 0),
        (("records", 0, "num_classes"), "2"),
        (("records", 0, "input"), [300]),
        (("records", 1, "name"), RES10),
        (("version",), 2),
    ],
)
def test_a_zoo_file_that_does_not_fit_is_refused(path: tuple[Any, ...], value: object, tmp_path: Path) -> None:
    data = json.loads(zoo.FILE.read_text())
    place = data
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    (tmp_path / "z.json").write_text(json.dumps(data))
    with pytest.raises(FormatError):
        record.read(tmp_path / "z.json")


def test_names_are_found() -> None:
    assert zoo.find(RES10).record.name == RES10
    assert zoo.find("ssd300_voc").record.name == "caffe/ssd300_voc"
    assert zoo.find("chainer/ssd300_voc").record.source == "chainer"
    with pytest.raises(UsageError, match="did you mean 'ssd_512_resnet50_v1_voc'"):
        zoo.find("ssd_512_resnet50_voc")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SSDCONV_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def mirror(shared: Path, tmp_path: Path) -> Path:
    """A folder with the face detector's two files under the names that the record gives them."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    for path in (shared / "weights" / "res10_face_ssd").iterdir():
        shutil.copy(path, folder / path.name)
    return folder


@pytest.mark.shared
def test_first_use_converts_and_later_uses_take_the_cache(home: Path, mirror: Path, monkeypatch: Any) -> None:
    path = zoo.weights(RES10, mirror=str(mirror))
    assert path.is_relative_to(home)
    assert zoo.local() == [RES10]
    import ssdconv.converters.convert as module

    monkeypatch.setattr(module, "convert", None)
    assert zoo.weights(RES10, offline=True) == path
    model = ssdconv.load(RES10)
    assert model.config.num_classes == 2
    state = zoo.cached(zoo.find(RES10))
    assert (state.converted, state.size, state.trust) == (path, 10_666_211, "published")


@pytest.mark.shared
def test_a_flipped_bit_in_the_cache_is_never_served(home: Path, mirror: Path) -> None:
    path = zoo.weights(RES10, mirror=str(mirror))
    right = path.read_bytes()
    path.write_bytes(right[:-5] + bytes([right[-5] ^ 4]) + right[-4:])
    assert zoo.weights(RES10, offline=True).read_bytes() == right
    source = zoo.cached(zoo.find(RES10)).original
    assert source is not None
    source.write_bytes(source.read_bytes()[:-1] + b"\xff")
    path.unlink()
    with pytest.raises(DownloadError):
        zoo.weights(RES10, offline=True)


@pytest.mark.shared
def test_another_version_converts_anew(home: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = zoo.weights(RES10, mirror=str(mirror))
    monkeypatch.setattr(zoo, "__version__", "9.9")
    assert zoo.weights(RES10, offline=True) != old


@pytest.mark.shared
def test_a_file_of_another_network_is_refused(home: Path, mirror: Path, tmp_path: Path) -> None:
    entry = zoo.find(RES10)
    other = msgspec.structs.replace(entry.record, name="mine", num_classes=5)
    data = {"version": 1, "records": [msgspec.to_builtins(other)]}
    (tmp_path / "z.json").write_text(json.dumps(data))
    with pytest.raises(MappingError, match="another network"):
        zoo.weights("mine", zoo=tmp_path / "z.json", mirror=str(mirror))
    assert not list((home / "zoo" / "converted").glob("*.safetensors"))


def test_load_tells_files_from_names(home: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no such file"):
        ssdconv.load(tmp_path / "absent.pth")
    with pytest.raises(MissingError, match="no such file"):
        ssdconv.load("absent.caffemodel")
    with pytest.raises(UsageError, match="neither a file nor a name"):
        ssdconv.load("res10_300x300_sdd")
    with pytest.raises(DownloadError, match="network may not be used"):
        zoo.load("ssd_512_mobilenet1.0_voc", offline=True)


def test_listing_names_does_without_torch(home: Path) -> None:
    code = "import sys; from ssdconv import zoo; zoo.local(); assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
