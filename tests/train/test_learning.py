"""Real runs: a small SSD from scratch to a held-out mAP of 0.9, and a converted Caffe network fine-tuned for other classes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ssdconv
from ssdconv.data.custom import open_custom
from ssdconv.parity.accuracy.run import Evaluation
from ssdconv.ssd_ref.checkpoint import load
from ssdconv.ssd_ref.model import SSD
from ssdconv.ssd_ref.networks.small import small_ssd
from ssdconv.tools.shapes import write_shapes
from ssdconv.train.loader import TrainingSet
from ssdconv.train.loop import Settings, Training
from ssdconv.train.recipe import Recipe, edited
from ssdconv.train.recipes import recipe_of
from ssdconv.train.run_folder import Identity, RunFolder, describe_data
from ssdconv.train.start import begin, with_classes


@pytest.mark.slow
def test_from_scratch_to_nine_tenths(plain_recipe: Recipe, heard: Any, tmp_path: Path) -> None:
    """400 images of four shapes, covered and of all sizes; 100 others to be found in."""
    root = write_shapes(tmp_path / "data", {"train": 400, "val": 100}) / "VOC2007"
    train, val = (open_custom(root, split) for split in ("train", "val"))
    recipe = edited(plain_recipe, len(train), batch_size=16, lr=0.02, lr_mode="cos", warmup=50, epochs=65)
    config = small_ssd(train.classes, 128, 24)
    model = SSD(config)
    begin(model, recipe, 0)
    folder = RunFolder(tmp_path / "run")
    folder.create(Identity(config, recipe, describe_data(train), 0, "fast", False), {})
    samples = TrainingSet(train, config, recipe, 0, "fast", cache=True)
    evaluation = Evaluation(val, folder.path / "evaluation", 16)
    settings = Settings(workers=1, eval_every=5)
    outcome = Training(folder, model, samples, recipe, settings, heard, evaluate=evaluation).run()
    assert outcome.best is not None
    assert outcome.best >= 0.9
    again = evaluation(load(folder.best))
    assert again.value == pytest.approx(outcome.best, abs=1e-3)


@pytest.mark.slow
@pytest.mark.shared
def test_a_converted_network_learns_other_classes(shared: Path, heard: Any, tmp_path: Path) -> None:
    """OpenCV's face detector, converted from Caffe, fine-tuned for three classes: the loss falls below 0.7 of its start in 80 updates."""
    source = shared / "weights/res10_face_ssd/res10_300x300_ssd_iter_140000.caffemodel"
    ssdconv.convert(source, tmp_path / "faces.pth", prototxt=source.with_name("deploy.prototxt"))
    faces = load(tmp_path / "faces.pth")
    root = write_shapes(tmp_path / "data", {"train": 60}, only=("circle", "cross", "square")) / "VOC2007"
    data = open_custom(root, "train")
    config, renew = with_classes(faces.config, data.classes)
    recipe = recipe_of("caffe")
    recipe = replace(recipe, augment=replace(recipe.augment, expand=None, jpeg=False))
    recipe = edited(recipe, len(data), batch_size=4, lr=0.004, iterations=80, lr_mode="cos", warmup=5)
    model = SSD(config)
    start = begin(model, recipe, 0, faces.state_dict(), renew, "faces.pth")
    assert start.renewed
    folder = RunFolder(tmp_path / "run")
    folder.create(Identity(config, recipe, describe_data(data), 0, "fast", False), {})
    samples = TrainingSet(data, config, recipe, 0, "fast", cache=True)
    Training(folder, model, samples, recipe, Settings(workers=1), heard).run()
    losses = [terms.total for _, terms in heard.steps]
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:5])
    assert load(folder.last).config.class_names == ("background", "circle", "cross", "square")
