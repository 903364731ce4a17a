"""``ssdconv zoo`` and ``--network NAME`` as users meet them; only files on this machine are touched."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from ssdconv import cli, errors

RES10 = "res10_300x300_ssd"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SSDCONV_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def mirror(shared: Path, tmp_path: Path) -> str:
    folder = tmp_path / "mirror"
    folder.mkdir()
    for path in (shared / "weights" / "res10_face_ssd").iterdir():
        shutil.copy(path, folder / path.name)
    return str(folder)


def run(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    assert cli.main(list(words)) == code
    return capsys.readouterr().out


def run_json(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> Any:
    return json.loads(run(capsys, *words, "--json", code=code))


def test_list_filters(capsys: pytest.CaptureFixture[str]) -> None:
    everything = run_json(capsys, "zoo", "list")
    gluon = run_json(capsys, "zoo", "list", "--source", "gluon", "--dataset", "voc07")
    assert len(everything) > len(gluon) > 5
    assert {(r["source"], r["dataset"]) for r in gluon} == {("gluon", "voc")}
    text = run(capsys, "zoo", "list", "--source", "gluon", "--dataset", "voc07")
    assert f"{len(gluon)} of {len(everything)} sets of weights; 0.0 MB cached" in text
    row = next(line for line in text.splitlines() if line.startswith("ssd_512_resnet50_v1_voc "))
    assert "80.1" in row and "sha1" in row
    assert run_json(capsys, "zoo", "list", "--cached") == []


@pytest.mark.parametrize("words", [("--source", "gluno"), ("--dataset", "vco")])
def test_list_knows_its_words(words: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["zoo", "list", *words]) == errors.EXIT_USAGE
    assert words[1] in capsys.readouterr().err


def test_show_says_what_was_not_measured(capsys: pytest.CaptureFixture[str]) -> None:
    text = run(capsys, "zoo", "show", "caffe/ssd300_voc")
    assert "none was ever published" in text
    assert "never fetched by this project" in text
    assert text.count("not measured") == 2
    assert "77.2" in text
    data = run_json(capsys, "zoo", "show", RES10)
    assert data["measured_here"] == {"layers": "212 of 212 probes (OpenCV 4.14.0)", "mAP": "not measured"}
    assert data["file"]["checksum"]["algorithm"] == "sha256"


def test_an_unknown_name_is_suggested(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["zoo", "show", "res10_300x300"]) == errors.EXIT_USAGE
    assert RES10 in capsys.readouterr().err


@pytest.mark.parametrize("words", [["zoo"], ["zoo", "lst"], ["zoo", "download"], ["zoo", "list", "--sources", "gluon"]])
def test_usage_errors(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == errors.EXIT_USAGE
    assert capsys.readouterr().out == ""


@pytest.mark.shared
def test_download_verify_and_detect(mirror: str, home: Path, tmp_path: Path, capsys: Any) -> None:
    (found,) = run_json(capsys, "zoo", "download", RES10, "--mirror", mirror)
    assert [Path(f["file"]).name for f in found["files"]] == [
        "res10_300x300_ssd_iter_140000.caffemodel",
        "deploy.prototxt",
    ]
    assert all(Path(f["file"]).is_file() and f["trust"] == "published" for f in found["files"])
    (row,) = run_json(capsys, "zoo", "list", "--cached")
    assert row["cached"]["bytes"] == 10_666_211
    (result,) = run_json(capsys, "zoo", "verify", "--no-parity")
    assert result["ok"] and "layers" not in result["checks"]
    image = tmp_path / "grey.png"
    cv2.imwrite(str(image), np.full((60, 80, 3), 128, np.uint8))
    told = run_json(capsys, "detect", str(image), "--network", RES10, "--offline")
    assert told["network"] == "res10_300x300_ssd_iter_140000"
    assert told["weights"] == found["converted"]

    original = Path(found["files"][0]["file"])
    original.write_bytes(original.read_bytes()[:-1] + b"\xff")
    assert cli.main(["zoo", "verify", RES10, "--no-parity"]) == errors.EXIT_PARITY
    out = capsys.readouterr().out
    assert "NOT OK" in out and "DAMAGED: its sha256" in out
    assert cli.main(["zoo", "download", RES10, "--mirror", mirror]) == 0
    assert "checked against the record of the zoo" in capsys.readouterr().out
    assert cli.main(["zoo", "verify", RES10, "--no-parity"]) == 0


@pytest.mark.shared
def test_verify_runs_parity(mirror: str, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "zoo", "download", RES10, "--mirror", mirror)
    (result,) = run_json(capsys, "zoo", "verify", RES10)
    assert result["ok"]
    agree, total = (int(word) for word in result["checks"]["layers"].split() if word.isdigit())
    assert agree == total > 200


@pytest.mark.shared
def test_verify_tells_a_damaged_checkpoint(mirror: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "zoo", "download", RES10, "--mirror", mirror)
    (path,) = (home / "zoo" / "converted").glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-4] + bytes(4))
    (result,) = run_json(capsys, "zoo", "verify", RES10, code=errors.EXIT_PARITY)
    assert "DAMAGED" in result["checks"]["converted"]


def test_verify_of_what_is_not_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["zoo", "verify", RES10]) == errors.EXIT_MISSING
    assert f"ssdconv zoo download {RES10}" in capsys.readouterr().err
    assert "nothing is cached" in run(capsys, "zoo", "verify")


@pytest.mark.parametrize("name", [RES10, "ssd_512_resnet50_v1_voc", "ssd_300_mobilenet0.25_voc"])
def test_offline_and_absent(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["detect", __file__, "--network", name, "--offline"]) == errors.EXIT_MISSING
    assert "network may not be used" in capsys.readouterr().err


def test_weights_or_network(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["detect", __file__]) == errors.EXIT_USAGE
    assert "--weights --network" in capsys.readouterr().err
    assert cli.main(["detect", __file__, "--weights", "a.pth", "--network", RES10]) == errors.EXIT_USAGE


@pytest.mark.shared
def test_a_zoo_of_ones_own(mirror: str, tmp_path: Path, capsys: Any) -> None:
    own, folder = tmp_path / "team.json", Path(mirror)
    words = ["--name", "mine", "--prototxt", str(folder / "deploy.prototxt"), "--zoo", str(own), "--classes", "faces"]
    add = ["zoo", "add", str(folder / "res10_300x300_ssd_iter_140000.caffemodel"), *words]
    data = run_json(capsys, *add)
    assert (data["source"], data["num_classes"], data["input"]) == ("caffe", 2, [300, 300])
    assert data["file"]["origins"] == [
        {"url": "file:mirror/res10_300x300_ssd_iter_140000.caffemodel", "kind": "release"}
    ]
    assert cli.main(add) == errors.EXIT_USAGE
    assert "already" in capsys.readouterr().err
    built_in = [r["name"] for r in run_json(capsys, "zoo", "list", "--dataset", "faces")]
    names = [r["name"] for r in run_json(capsys, "zoo", "list", "--dataset", "faces", "--zoo", str(own))]
    assert RES10 in built_in
    assert names == [*built_in, "mine"]
    (found,) = run_json(capsys, "zoo", "download", "mine", "--zoo", str(own))
    assert Path(found["converted"]).is_file()
    image = tmp_path / "grey.png"
    cv2.imwrite(str(image), np.full((60, 80, 3), 128, np.uint8))
    run(capsys, "detect", str(image), "--network", "mine", "--zoo", str(own), "--offline")


@pytest.mark.parametrize("name", ["", "../up", "a b", "-x"])
@pytest.mark.shared
def test_add_refuses_bad_names(name: str, mirror: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(Path(mirror) / "res10_300x300_ssd_iter_140000.caffemodel")
    zoo = tmp_path / "z.json"
    code = cli.main(["zoo", "add", file, f"--name={name}", "--zoo", str(zoo)])
    assert code == errors.EXIT_USAGE
    assert not zoo.exists()


def test_add_needs_a_zoo_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["zoo", "add", __file__, "--name", "mine"]) == errors.EXIT_USAGE
    assert "--zoo" in capsys.readouterr().err
