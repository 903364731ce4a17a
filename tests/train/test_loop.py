"""The loop: it learns, tells, evaluates, keeps the best, and stops where the loss is no number."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssdconv.data.custom import open_custom
from ssdconv.data.records import Dataset
from ssdconv.errors import EXIT_PARITY, UsageError
from ssdconv.ssd_ref.checkpoint import load, read
from ssdconv.ssd_ref.model import SSD
from ssdconv.ssd_ref.networks.small import small_ssd
from ssdconv.tools.shapes import write_shapes
from ssdconv.train.distributed import Rank
from ssdconv.train.loader import TrainingSet
from ssdconv.train.loop import DivergedError, Settings, Training, TrainScore
from ssdconv.train.recipe import Recipe, edited
from ssdconv.train.run_folder import Identity, RunFolder, describe_data
from ssdconv.train.start import begin


def _training(
    folder: Path, data: Dataset, recipe: Recipe, listener: Any, size: int = 64, width: int = 8, **options: Any
) -> Training:
    config = small_ssd(data.classes, size, width)
    model = SSD(config)
    begin(model, recipe, 0)
    place = RunFolder(folder)
    place.create(Identity(config, recipe, describe_data(data), 0, "fast", False), {})
    settings = Settings(workers=1, eval_every=options.pop("eval_every", 1), log_every=1, amp=options.pop("amp", False))
    samples = TrainingSet(data, config, recipe, 0, "fast", cache=True)
    return Training(place, model, samples, recipe, settings, listener, **options)


def test_two_epochs_lower_the_loss(plain_recipe: Recipe, heard: Any, tmp_path: Path) -> None:
    """From scratch, 200 images twice: the last ten updates' mean loss is below 0.7 of the first five's."""
    root = write_shapes(tmp_path / "data", {"train": 200}, size=(96, 80)) / "VOC2007"
    recipe = edited(plain_recipe, 200, lr=0.015, epochs=2, lr_mode="cos", warmup=5)
    outcome = _training(tmp_path / "run", open_custom(root, "train"), recipe, heard).run()
    losses = [terms.total for _, terms in heard.steps]
    assert outcome.steps == len(losses) == 50
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:5])
    assert outcome.loss == pytest.approx(np.mean(losses[25:]))


@pytest.mark.parametrize("amp", [False, True])
def test_log_states_and_checkpoints(
    amp: bool, shapes: Dataset, plain_recipe: Recipe, heard: Any, tmp_path: Path
) -> None:
    recipe = edited(plain_recipe, 48, iterations=8, lr=0.001)  # an epoch has six updates
    scores = iter([0.5, 0.25])

    def evaluate(model: SSD) -> TrainScore:
        assert not model.training
        return TrainScore(next(scores), others={"AP:circle": 0.1})

    outcome = _training(tmp_path, shapes, recipe, heard, evaluate=evaluate, amp=amp, about={"data": "shapes"}).run()
    assert (outcome.steps, outcome.epochs, outcome.best, outcome.best_epoch) == (8, 2, 0.5, 1)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [(line["epochs"], line["mAP"], line["AP:circle"]) for line in lines if "mAP" in line] == [
        (1, 0.5, 0.1),
        (2, 0.25, 0.1),
    ]
    for line in lines:
        if "loss" in line:
            assert line["loss"] == pytest.approx(line["loc"] + line["conf"])
            assert line["negatives"] <= 3 * line["positives"]
    assert [p.stem for p in sorted((tmp_path / "states").iterdir())] == ["step-000000006", "step-000000008"]
    best, last = read(tmp_path / "best.pth"), read(tmp_path / "last.pth")
    assert best.provenance["training"]["mAP"] == 0.5
    assert (best.provenance["training"]["step"], last.provenance["training"]["step"]) == (6, 8)
    assert last.provenance["training"]["data"] == "shapes"
    name = "backbone.conv1.conv.weight"
    assert not torch.equal(best.state_dict[name], last.state_dict[name])
    assert load(tmp_path / "last.pth").detect([np.zeros((50, 40, 3), np.uint8)])


def test_a_loss_that_is_no_number_stops_and_keeps_the_batch(
    shapes: Dataset, plain_recipe: Recipe, heard: Any, tmp_path: Path
) -> None:
    training = _training(tmp_path, shapes, edited(plain_recipe, 48, epochs=2, lr=0.001), heard)
    batches = training.loader.epoch

    def poisoned(epoch: int, start: int = 0) -> Any:
        for number, batch in enumerate(batches(epoch, start)):
            images = batch.images.clone()
            if number == 3:
                images[2, 0, 5, 5] = float("nan")
            yield replace(batch, images=images)

    training.loader.epoch = poisoned  # type: ignore[method-assign]
    with pytest.raises(DivergedError, match="step 4") as caught:
        training.run()
    assert caught.value.exit_code == EXIT_PARITY
    (kept,) = tmp_path.glob("diverged-*.npz")
    with np.load(kept) as file:
        names = file["image_ids"].tolist()
        assert np.isnan(file["images"][2, 0, 5, 5])
        assert np.isnan(file["images"]).sum() == 1
        assert file["boxes"].shape[0] == len(names) == 8
    assert all(name in str(caught.value) for name in names)
    assert names == [shapes.image_ids[i] for i in list(training.loader.sampler.batches(0))[3]]
    assert len(heard.steps) == 3
    assert all(torch.isfinite(p).all() for p in training.model.parameters())  # the broken step was not taken
    assert not (tmp_path / "last.pth").exists()


def test_a_broken_weight_is_never_written(shapes: Dataset, plain_recipe: Recipe, heard: Any, tmp_path: Path) -> None:
    training = _training(tmp_path, shapes, edited(plain_recipe, 48, epochs=1, lr=0.001), heard)
    step = training.optimizer.step

    def breaking(*args: Any) -> Any:
        result = step(*args)
        if len(heard.steps) == 5:
            next(training.model.heads.loc[3].parameters()).data[0] = float("inf")
        return result

    training.optimizer.step = breaking  # type: ignore[method-assign]
    with pytest.raises(DivergedError, match="is no number"):
        training.run()
    assert not (tmp_path / "last.pth").exists()
    assert not list((tmp_path / "states").iterdir())


def test_a_batch_has_to_be_shared_evenly(shapes: Dataset, plain_recipe: Recipe, heard: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="evenly"):
        _training(tmp_path, shapes, plain_recipe, heard, place=Rank(0, 3, 0))


def test_resuming_a_finished_run_does_nothing(
    shapes: Dataset, plain_recipe: Recipe, heard: Any, tmp_path: Path
) -> None:
    recipe = edited(plain_recipe, 48, iterations=3, lr=0.001)
    _training(tmp_path, shapes, recipe, heard).run()
    before = (tmp_path / "last.pth").read_bytes()
    again = _training(tmp_path, shapes, recipe, heard)
    assert again.resume() == 3
    outcome = again.run()
    assert outcome.steps == 3
    assert outcome.loss is None
    assert (tmp_path / "last.pth").read_bytes() == before
