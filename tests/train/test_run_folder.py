"""The folder of a run keeps what it was, and refuses to go on with something else.

States on disk: whole, or recognised as damaged and passed over. The metrics file: one object a line, continued after a
kill. A run that is killed again and again ends with the very weights of a run that is left alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ssdconv.data.custom import open_custom
from ssdconv.data.records import Dataset
from ssdconv.errors import FormatError, MissingError, UsageError
from ssdconv.ssd_ref.networks.small import small_ssd
from ssdconv.tools.shapes import write_shapes
from ssdconv.train.optimizer import VelocitySGD
from ssdconv.train.recipes import recipe_of
from ssdconv.train.run_folder import (
    Identity,
    MetricsLog,
    RunFolder,
    RunProgress,
    check_same,
    describe_data,
    differences,
    newest_state,
    read_state,
    restore,
    write_state,
)


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


def _trained(steps: int) -> tuple[nn.Module, VelocitySGD]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    optimizer = VelocitySGD([{"params": list(model.parameters()), "lr": 0.1, "initial_lr": 0.1, "names": ["a"]}])
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(5, 3)).square().sum().backward()
        optimizer.step()
    return model, optimizer


def test_restored_training_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    model, optimizer = _trained(3)
    path = write_state(tmp_path, model, optimizer, RunProgress(3, 1, 2, 0.5, 4, 0.25, 1), keep=2)
    drawn = torch.rand(3)
    other, empty = _trained(0)
    progress = restore(read_state(path), other, empty)
    assert progress == RunProgress(3, 1, 2, 0.5, 4, 0.25, 1)
    assert torch.equal(torch.rand(3), drawn)  # the random state is that of the moment of writing
    data = torch.ones(5, 3) * torch.arange(5)[:, None]
    for m, o in ((model, optimizer), (other, empty)):
        m.zero_grad()
        m(data).square().sum().backward()
        o.step()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


def test_only_the_last_ones_stay(tmp_path: Path) -> None:
    model, optimizer = _trained(1)
    for step in (5, 10, 1000, 20):
        write_state(tmp_path, model, optimizer, RunProgress(step), keep=2)
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["step-000000020.state", "step-000001000.state"]


def test_any_cut_and_any_flipped_bit_is_seen(tmp_path: Path) -> None:
    path = write_state(tmp_path, *_trained(1), RunProgress(1), keep=1)
    whole = path.read_bytes()
    for cut in [0, 1, 20, 79, 80, 81, *range(100, len(whole), 997), len(whole) - 1]:
        path.write_bytes(whole[:cut])
        with pytest.raises(FormatError):
            read_state(path)
    for place in range(0, len(whole), 211):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(FormatError):
            read_state(path)
    path.write_bytes(whole)
    assert read_state(path)["progress"]["step"] == 1


def test_a_damaged_newest_state_falls_back_and_says_so(tmp_path: Path) -> None:
    model, optimizer = _trained(1)
    for step in (1, 2, 3):
        write_state(tmp_path, model, optimizer, RunProgress(step), keep=3)
    newest = tmp_path / "step-000000003.state"
    newest.write_bytes(newest.read_bytes()[:-10])
    (tmp_path / ".step-000000004.state.1.aa.tmp").write_bytes(b"half")
    said: list[str] = []
    state = newest_state(tmp_path, said.append)
    assert state is not None
    assert state["progress"]["step"] == 2
    assert len(said) == 1
    assert "step-000000003.state" in said[0]
    assert "step-000000002.state" in said[0]
    assert not list(tmp_path.glob(".*"))  # what a killed process left is gone
    for path in tmp_path.glob("*.state"):
        path.write_bytes(b"")
    with pytest.raises(FormatError, match="no older state"):
        newest_state(tmp_path, said.append)
    assert newest_state(tmp_path / "none", said.append) is None


def test_a_state_of_another_network_is_refused(tmp_path: Path) -> None:
    path = write_state(tmp_path, *_trained(1), RunProgress(1), keep=1)
    with pytest.raises(FormatError, match="another network"):
        restore(read_state(path), nn.Linear(2, 2), _trained(0)[1])


def test_a_resumed_run_writes_on_where_its_state_stands(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    for step in (1, 2, 3):
        log.write(step, {"loss": step / 2})
    with open(log.path, "a") as file:
        file.write('{"step": 2, "lo')  # cut short by a kill
    log.rewind(2)
    log.write(3, {"loss": float("nan")})
    lines = [json.loads(line) for line in log.path.read_text().splitlines()]
    assert lines == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 1.0}, {"step": 3, "loss": "nan"}]


def test_a_new_run_has_nothing_to_rewind(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.rewind(0)
    assert not log.path.exists()


def test_tensorboard_is_asked_for_by_name_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingError, match="pip install tensorboard"):
        MetricsLog(tmp_path / "metrics.jsonl", tmp_path / "tb")


WORKER = Path(__file__).with_name("kill_worker.py")
SEED = 2
"""Of deaths in steps, at openings and at renames; the same on every machine."""


def _run(data: Path, folder: Path, seed: int, kills: int, moments: int = 40) -> dict[str, Any]:
    command = [sys.executable, str(WORKER), str(data), str(folder), str(seed), str(kills), str(moments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_kills_do_not_change_the_weights(shapes_root: Path, tmp_path: Path) -> None:
    alone = _run(shapes_root, tmp_path / "alone", 0, 0)
    killed = _run(shapes_root, tmp_path / "killed", SEED, 8)
    assert len(killed["deaths"]) == 8
    assert len(set(killed["states"])) >= 3
    assert {death.split()[0] for death in killed["deaths"]} >= {"step", "open", "rename"}
    assert killed["weights"] == alone["weights"]
    assert killed["log"] == alone["log"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_many_kills(seed: int, shapes_root: Path, tmp_path: Path) -> None:
    alone = _run(shapes_root, tmp_path / "alone", 0, 0)
    killed = _run(shapes_root, tmp_path / "killed", seed, 40, 20)
    assert len(killed["deaths"]) >= 8
    assert (killed["weights"], killed["log"]) == (alone["weights"], alone["log"])
