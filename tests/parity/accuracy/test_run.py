"""Running over a data set: resumed and parallel runs give the bytes of one uninterrupted run; errors name their file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import ANY

import cv2
import numpy as np
import pytest
import torch

from ssdconv.cli import main
from ssdconv.data.catalog import open_dataset
from ssdconv.data.records import MissingImageError, Problems, UnreadableImageError
from ssdconv.errors import EXIT_OK, EXIT_USAGE, UsageError
from ssdconv.parity.accuracy.files import read_stream
from ssdconv.parity.accuracy.run import class_map, run_detector
from ssdconv.ssd_ref import checkpoint
from ssdconv.ssd_ref.model import SSD, seeded_tensors
from ssdconv.ssd_ref.networks.caffe import vgg
from ssdconv.ssd_ref.networks.registry import network

XML = """<annotation><filename>{id}.jpg</filename><size><width>{w}</width><height>{h}</height><depth>3</depth></size>
<object><name>dog</name><difficult>0</difficult><bndbox><xmin>5</xmin><ymin>6</ymin><xmax>40</xmax><ymax>50</ymax></bndbox>
</object></annotation>"""


@pytest.fixture(scope="module")
def devkit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "VOCdevkit"
    voc = root / "VOC2007"
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (voc / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    ids = [f"{i:06d}" for i in range(1, 12)]
    for number, name in enumerate(ids):
        w, h = 60 + 7 * number, 90 - 3 * number
        cv2.imwrite(str(voc / "JPEGImages" / f"{name}.jpg"), rng.integers(0, 255, (h, w, 3), dtype=np.uint8))
        (voc / "Annotations" / f"{name}.xml").write_text(XML.format(id=name, w=w, h=h))
    (voc / "ImageSets/Main/test.txt").write_text("\n".join(ids) + "\n")
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = vgg("ssd300_voc", width=4)
    return checkpoint.save(tmp_path_factory.mktemp("net") / "net.safetensors", config, seeded_tensors(config, 2))


@pytest.fixture(scope="module")
def model(weights: Path) -> SSD:
    return checkpoint.load(weights)


def lines(folder: Path) -> list[str]:
    found = [line for path in folder.glob("*.jsonl") for line in path.read_text().splitlines()[1:]]
    return sorted(found)


@pytest.fixture(scope="module")
def whole(model: SSD, devkit: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("whole")
    calls: list[tuple[int, int]] = []
    stats = run_detector(
        model, open_dataset("voc07", devkit), folder, batch_size=4, workers=0, progress=lambda *a: calls.append(a)
    )
    assert (stats.images, stats.resumed) == (11, 0)
    assert calls[-1] == (11, 11)
    assert 0 <= stats.waiting <= stats.seconds
    return lines(folder)


def test_detections_are_those_of_the_model(model: SSD, devkit: Path, whole: list[str], tmp_path: Path) -> None:
    (tmp_path / "detections.0.jsonl").write_text("")
    dataset = open_dataset("voc07", devkit)
    run_detector(model, dataset, tmp_path, batch_size=1, workers=0)
    _, found = read_stream(sorted(tmp_path.glob("*.jsonl")))
    direct = model.detect([dataset[3].path])[0]
    image = found.image_ids.index(dataset.image_ids[3])
    mine = found.scores[found.image == image]
    np.testing.assert_array_equal(np.sort(mine), np.sort(direct.scores.numpy().astype(np.float64)))
    np.testing.assert_array_equal(
        np.sort(found.boxes[found.image == image], 0), np.sort(direct.boxes.numpy().astype(np.float64), 0)
    )
    assert set(found.labels[found.image == image]) == {int(v) - 1 for v in direct.labels}


def test_workers_change_nothing(model: SSD, devkit: Path, whole: list[str], tmp_path: Path) -> None:
    run_detector(model, open_dataset("voc07", devkit), tmp_path, batch_size=4, workers=2)
    assert lines(tmp_path) == whole


@pytest.mark.parametrize("kept", [1, 4, 6, 11])
def test_an_interrupted_run_resumes_without_redoing(
    kept: int, model: SSD, devkit: Path, whole: list[str], tmp_path: Path
) -> None:
    dataset = open_dataset("voc07", devkit)
    run_detector(model, dataset, tmp_path, batch_size=4, workers=0)
    stream = tmp_path / "detections.0.jsonl"
    done = stream.read_bytes().splitlines(keepends=True)
    stream.write_bytes(b"".join(done[: kept + 1]) + b'{"image_id": "0000')
    stats = run_detector(model, dataset, tmp_path, batch_size=4, workers=0)
    assert (stats.images, stats.resumed) == (11 - kept, kept)
    assert lines(tmp_path) == whole


def test_two_processes_give_the_bytes_of_one(weights: Path, devkit: Path, whole: list[str], tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; import torch; torch.set_num_threads(1)\n"
        "from ssdconv.ssd_ref.checkpoint import load; from ssdconv.data.catalog import open_dataset\n"
        "from ssdconv.parity.accuracy.run import run_detector\n"
        "run_detector(load(sys.argv[1]), open_dataset('voc07', sys.argv[2]), Path(sys.argv[3]), batch_size=4, workers=0)"
    )
    children = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(weights), str(devkit), str(tmp_path)],
            env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2"},
        )
        for rank in range(2)
    ]
    assert [child.wait() for child in children] == [0, 0]
    assert len(list(tmp_path.glob("*.jsonl"))) == 2
    assert lines(tmp_path) == whole


def test_bad_images_stop_or_are_counted(model: SSD, devkit: Path, tmp_path: Path) -> None:
    (tmp_path / "kit").mkdir()
    root = tmp_path / "kit" / "VOCdevkit"
    subprocess.run(["cp", "-r", str(devkit), str(root)], check=True)
    (root / "VOC2007/JPEGImages/000002.jpg").unlink()
    (root / "VOC2007/JPEGImages/000007.jpg").write_bytes(b"no image")
    with pytest.raises(MissingImageError, match=r"000002\.jpg"):
        run_detector(model, open_dataset("voc07", root), tmp_path / "a", batch_size=4, workers=0)
    problems = Problems()
    stats = run_detector(
        model, open_dataset("voc07", root), tmp_path / "b", batch_size=4, workers=0, keep_going=problems
    )
    assert stats.images == 9
    assert {type(e) for e in problems.errors} == {MissingImageError, UnreadableImageError}


def test_another_runs_folder_is_refused(model: SSD, devkit: Path, tmp_path: Path) -> None:
    dataset = open_dataset("voc07", devkit)
    run_detector(model, dataset.take(dataset.image_ids[:2]), tmp_path, workers=0)
    with pytest.raises(UsageError, match="holds detections already"):
        run_detector(model, dataset, tmp_path, workers=0, resume=False)


def test_classes_are_matched_by_name() -> None:
    voc = network("ssd300_voc")
    assert class_map(voc, voc.class_names[1:]) == (-1, *range(20))
    coco = class_map(network("ssd300_coco"), voc.class_names[1:])
    assert coco[1] == 14  # COCO's person is VOC's 15th class
    assert coco[5] == 0  # airplane is aeroplane
    assert coco.count(-1) == 81 - 20
    wide = class_map(network("ssd_pytorch_ssd300_coco201"), network("ssd300_coco").class_names[1:])
    assert wide == (-1, *range(80), *(-1,) * 120), "ssd.pytorch's 201 channels: 80 classes, the rest unused"
    with pytest.raises(UsageError, match="none of the data set's classes"):
        class_map(voc, ("face",))
    with pytest.raises(UsageError, match="count is not the data set's"):
        class_map(vgg("ssd300_voc", 5, width=4), voc.class_names[1:])


def test_torch_threads_are_left_alone(model: SSD, devkit: Path, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    dataset = open_dataset("voc07", devkit)
    run_detector(model, dataset.take(dataset.image_ids[:1]), tmp_path, workers=1)
    assert torch.get_num_threads() == before


def test_verify_runs_a_network_and_then_scores_what_it_stored(
    weights: Path, devkit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = [
        "--dataset",
        "voc07",
        "--data-root",
        str(devkit),
        "--resamples",
        "10",
        "--limit",
        "3",
        "--convention",
        "devkit",
    ]
    work, report = str(tmp_path / "work"), str(tmp_path / "report")
    assert main(["verify", str(weights), *data, "--work", work, "--report", report, "--json"]) == EXIT_OK
    ran = json.loads(capsys.readouterr().out)
    assert (ran["images"], ran["of_images"]) == (3, 11)
    assert ran.pop("run") == {"images": 3, "resumed": 0, "stream": work} | dict.fromkeys(("seconds", "waiting"), ANY)
    assert {p.name for p in Path(report).iterdir()} == {f"evaluation.{end}" for end in ("html", "json", "md")}
    assert main(["verify", *data, "--detections", work, "--json"]) == EXIT_OK
    again = json.loads(capsys.readouterr().out)
    assert {k for k in ran if ran[k] != again[k]} <= {"network", "source", "seconds", "input_size", "verdicts"}
    assert main(["verify", str(weights), *data, "--work", work]) == EXIT_OK
    assert "ran 0 images (3 from an earlier run)" in capsys.readouterr().out
    assert main(["verify", str(weights), *data, "--work", work, "--fresh"]) == EXIT_USAGE
