"""The folder of a run keeps what it was, and refuses to go on with something else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ssdconv.data.custom import open_custom
from ssdconv.data.records import Dataset
from ssdconv.data.shapes import write_shapes
from ssdconv.errors import FormatError, MissingError, UsageError
from ssdconv.ssd_ref.networks.small import small_ssd
from ssdconv.train.recipes import recipe_of
from ssdconv.train.run_folder import Identity, RunFolder, check_same, describe_data, differences


@pytest.fixture
def identity(shapes: Dataset) -> Identity:
    return Identity(small_ssd(shapes.classes, 64, 4), recipe_of("caffe"), describe_data(shapes), 3, "fast", False)


def test_round_trip(identity: Identity, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "deep" / "run")
    assert not folder.begun
    with pytest.raises(MissingError, match="no run"):
        folder.read()
    folder.create(identity, {"command": ["train", "--x"], "options": {"lr": 0.1}})
    assert folder.begun
    assert not folder.has_states
    back, about = folder.read()
    assert back == identity
    assert about["command"] == ["train", "--x"]
    assert {"torch", "numpy", "python", "ssdconv"} <= about["versions"].keys()
    assert about["data"]["classes"] == ["circle", "cross", "square", "triangle"]
    folder.note_resumption(["train", "--resume"], 7)
    assert folder.read()[1]["resumed"][0]["step"] == 7
    (folder.path / "recipe.json").write_text(json.dumps({"name": 3}))
    with pytest.raises(FormatError, match="not a training recipe"):
        folder.read()
    (folder.path / "run.json").write_text('{"data": 1')
    with pytest.raises(FormatError, match="damaged"):
        folder.read()


def test_what_changed_is_named_with_both_values(identity: Identity, tmp_path: Path) -> None:
    check_same(identity, identity, tmp_path)
    recipe = replace(identity.recipe, optimizer=replace(identity.recipe.optimizer, lr=0.5))
    config = replace(identity.config, detect=replace(identity.config.detect, top_k=7))
    for changed, said in (
        (replace(identity, recipe=recipe), "recipe.optimizer.lr: 0.001 in the run, 0.5 now"),
        (replace(identity, config=config), "config.detect.top_k: 400 in the run, 7 now"),
        (replace(identity, seed=4), "seed: 3 in the run, 4 now"),
        (replace(identity, amp=True), "amp: false in the run, true now"),
        (replace(identity, data={**identity.data, "images": 2}), "data.images: 48 in the run, 2 now"),
    ):
        with pytest.raises(UsageError) as caught:
            check_same(identity, changed, tmp_path)
        assert said in str(caught.value)


def test_differences_in_length_and_missing_keys() -> None:
    found = list(differences({"a": [1, 2], "b": {"c": 1}}, {"a": [1, 2, 3], "b": {}, "d": 0}))
    assert found == [("a", [1, 2], [1, 2, 3]), ("b.c", 1, None), ("d", None, 0)]


def test_the_digest_sees_a_moved_box_and_a_new_flag(tmp_path: Path) -> None:
    root = write_shapes(tmp_path / "s", {"train": 3}) / "VOC2007"
    before = describe_data(open_custom(root, "train"))
    assert describe_data(open_custom(root, "train")) == before
    path = root / "Annotations" / "000002.xml"
    text = path.read_text()
    flag = text.replace("<difficult>0", "<difficult>1", 1)
    moved = text.replace("<xmin>", "<xmin>1", 1).replace("<xmin>1", "<xmin>", 1)
    path.write_text(flag)
    assert describe_data(open_custom(root, "train"))["annotations"] != before["annotations"]
    path.write_text(moved)
    assert describe_data(open_custom(root, "train")) == before
