"""``ssdconv data check``, and what ``ssdconv train`` says and refuses before its first step: planted faults, each found and named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow

from ssdconv.cli import main
from ssdconv.errors import EXIT_INPUT, EXIT_MISSING, EXIT_OK, EXIT_USAGE
from ssdconv.ssd_ref.networks.small import small_ssd
from ssdconv.tools.shapes import SHAPES, write_shapes


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("clean"), {"train": 12, "val": 4}, size=(80, 64)) / "VOC2007"


@pytest.fixture
def root(clean: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clean, tmp_path / "VOC2007"))


def check(capsys: pytest.CaptureFixture[str], root: Path, *argv: str) -> tuple[int, Any]:
    capsys.readouterr()
    code = main(["data", "check", str(root), *argv, "--json"])
    return code, json.loads(capsys.readouterr().out)


def kinds(said: Any) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for finding in said["findings"]:
        found.setdefault(finding["kind"], []).append(Path(finding["where"].split(":")[0]).name)
    return found


def photos(root: Path, split: str = "train") -> list[Path]:
    return [root / f"JPEGImages/{i}.jpg" for i in (root / f"ImageSets/Main/{split}.txt").read_text().split()]


def notes(root: Path, image: Path) -> Path:
    return root / "Annotations" / f"{image.stem}.xml"


def test_nothing_to_say_about_a_clean_set(clean: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = check(capsys, clean)
    assert (code, said["sound"], said["decoded"], kinds(said)) == (EXIT_OK, True, 16, {})
    assert said["parts"]["train"]["images"] == 12
    assert set(said["parts"]["train"]["objects"]) == set(SHAPES)
    assert main(["data", "check", str(clean)]) == EXIT_OK
    out = capsys.readouterr().out
    assert "train: 12 images, " in out and "16 images decoded: no fault" in out


def test_every_fault_is_named(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut, gone, wide, damaged, strange, *_ = photos(root)
    cut.write_bytes(cut.read_bytes()[:700])
    gone.unlink()
    cv2.imwrite(str(wide), np.zeros((64, 81, 3), np.uint8))
    notes(root, damaged).write_text("<annotation>")
    text = notes(root, strange).read_text()
    notes(root, strange).write_text(text.replace("<xmin>", "<xmin>9999", 1))
    code, said = check(capsys, root)
    assert (code, said["sound"]) == (EXIT_INPUT, False)
    assert kinds(said) == {
        "UnreadableImageError": [cut.name],
        "MissingImageError": [gone.name],
        "SizeMismatchError": [wide.name],
        "AnnotationError": [notes(root, damaged).name],
        "InvertedObjectError": [notes(root, strange).name],
    }
    assert all(f["grave"] and f["repair"] for f in said["findings"])
    assert main(["data", "check", str(root)]) == EXIT_INPUT
    assert "5 faults" in capsys.readouterr().out


def test_notes_that_stop_nothing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    turned, same, copy, empty, *_ = photos(root)
    exif = Pillow.Exif()
    exif[0x0112] = 3
    Pillow.open(turned).save(turned, exif=exif)
    shutil.copy(same, copy)
    other = photos(root, "val")[0]
    shutil.copy(same, other)
    text = notes(root, empty).read_text()
    name = text.split("<name>")[1].split("<")[0]
    box = "<bndbox><xmin>5</xmin><ymin>5</ymin><xmax>5</xmax><ymax>9</ymax></bndbox>"
    thing = f"<object><name>{name.upper()}</name>{box}</object>"
    notes(root, empty).write_text(text.replace("</annotation>", f"{thing}{thing}</annotation>"))
    (root / "ImageSets/Main/test.txt").write_text(f"{same.stem}\n")
    code, said = check(capsys, root)
    assert (code, said["sound"]) == (EXIT_OK, True)
    found = kinds(said)
    absent = found.pop("AbsentClass")
    assert set(absent) == {"val", "test"}
    assert found == {
        "ExifOrientation": [turned.name],
        "SameImage": [same.name],
        "EmptyBox": [empty.name] * 2,
        "SameObject": [empty.name],
        "AlikeClasses": ["classes"],
        "SharedImages": ["test and train"],
    }
    texts = {f["kind"]: f["text"] for f in said["findings"]}
    assert (
        copy.name in texts["SameImage"] and other.name in texts["SameImage"] and "train and val" in texts["SameImage"]
    )
    assert f"'{name.upper()}' and '{name}'" in texts["AlikeClasses"]


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check"]) == EXIT_USAGE
    assert main(["data", "check", "nowhere/at/all"]) == EXIT_MISSING
    assert main(["data", "check", "voc70"]) == EXIT_USAGE
    assert "voc07" in capsys.readouterr().err


@pytest.mark.shared
def test_a_real_set(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """BCCD: sound, but three of its cells have boxes without area."""
    shutil.unpack_archive(shared / "data/bccd_voc.tar.xz", tmp_path)
    code, said = check(capsys, tmp_path / "BCCD", "--workers", "1")
    assert (code, said["decoded"]) == (EXIT_OK, 364)
    assert kinds(said) == {"EmptyBox": ["BloodImage_00338.jpg", "BloodImage_00343.jpg"]}
    assert said["parts"]["test"]["objects"] == {"Platelets": 69, "RBC": 805, "WBC": 71}


def train(root: Path, out: Path, *more: str) -> list[str]:
    (out.parent / "small.json").write_text(small_ssd(SHAPES, 64, 4).to_json())
    given = ["--config", str(out.parent / "small.json"), "--dataset", str(root), "--recipe", "gluon", "--no-eval"]
    return ["train", *given, "--iterations", "2", "--batch-size", "4", "--workers", "0", "--out", str(out), *more]


def test_training_tells_its_data_first(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = notes(root, photos(root)[0]).read_text()
    notes(root, photos(root)[0]).write_text(
        text.replace("<name>circle", "<name>Circle").replace("<name>square", "<name>Square")
    )
    given = train(root, tmp_path / "run")
    (tmp_path / "small.json").write_text(small_ssd(SHAPES, 64, 4).to_json())
    assert main(given) == EXIT_OK
    said = capsys.readouterr().err
    assert "VOC2007-train: 12 images, " in said
    alike = [c for c in ("Circle", "Square") if f"<name>{c}" in notes(root, photos(root)[0]).read_text()]
    for name in alike:
        assert f"warning: '{name}' and '{name.lower()}' are 2 classes" in said
    assert alike, "the first image of this seed has neither circle nor square"


@pytest.mark.parametrize("fault", ["gone", "size"])
def test_training_looks_at_all_images_before_it_begins(
    root: Path, tmp_path: Path, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = photos(root)[5:7]
    for path in bad:
        path.unlink() if fault == "gone" else cv2.imwrite(str(path), np.zeros((64, 81, 3), np.uint8))
    assert main(train(root, tmp_path / "run")) == (EXIT_MISSING if fault == "gone" else EXIT_INPUT)
    said = capsys.readouterr().err
    assert bad[0].name in said and "of 2 problems in all" in said
    assert not (tmp_path / "run/metrics.jsonl").exists()


def test_keep_going_leaves_damaged_samples_out(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two images cannot be decoded though their heads are fine, an annotation is damaged: nine are trained on, and resumed."""
    first, second, third, *_ = photos(root)
    for path in (first, second):
        path.write_bytes(path.read_bytes()[:-300])
    notes(root, third).write_text("<annotation>")
    given = train(root, tmp_path / "run")
    assert main([*given, "--resume"]) == EXIT_INPUT
    capsys.readouterr()
    assert main([*given, "--keep-going", "--json"]) == EXIT_OK
    streams = capsys.readouterr()
    assert "9 images" in streams.err and first.name in streams.err and second.name in streams.err
    assert json.loads(streams.out)["left_out"]["counts"] == {"UnreadableImageError": 2, "AnnotationError": 1}
    about = json.loads((tmp_path / "run/run.json").read_text())
    assert about["data"]["images"] == 9
    assert len(about["left_out"]["errors"]) == 3
    assert main(["train", "--resume", "--out", str(tmp_path / "run")]) == EXIT_OK
