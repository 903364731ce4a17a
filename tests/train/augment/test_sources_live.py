"""Crops, expansions and colours against ChainerCV's and GluonCV's own functions, run live: the same distributions."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssdconv.errors import MissingError
from ssdconv.parity.oracles.environments import environment, install
from ssdconv.train.augment.draw import draw_crop, draw_expand
from ssdconv.train.augment.photometric import apply_changes, draw_changes
from ssdconv.train.augment.sources import CHAINER, GLUON
from ssdconv.train.augment.spec import AugmentSpec

pytestmark = [pytest.mark.slow, pytest.mark.oracle]

COUNT = 1500
SCENES = {
    "two": np.array([[40.0, 60.0, 260.0, 300.0], [200.0, 20.0, 480.0, 310.0]]),
    "three": np.array([[40.0, 60.0, 260.0, 300.0], [300.0, 20.0, 480.0, 200.0], [10.0, 10.0, 60.0, 65.0]]),
    "small": np.array([[60.0, 50.0, 110.0, 90.0]]),
}
PICTURE = np.random.default_rng(2).integers(0, 256, (24, 20, 3), dtype=np.uint8)

CHAINERCV = """
import random, sys, numpy as np
from chainercv.links.model.ssd.transforms import random_crop_with_bbox_constraints, random_distort
from chainercv.transforms import random_expand
data = dict(np.load(sys.argv[1])); count = int(data.pop("count")); picture = data.pop("picture")
random.seed(0); np.random.seed(0)
out = {}
blank = np.zeros((3, 375, 500), np.float32)
for name, boxes in data.items():
    rows = []
    for _ in range(count):
        _, p = random_crop_with_bbox_constraints(blank, boxes[:, [1, 0, 3, 2]], return_param=True)
        rows.append((p["x_slice"].start, p["y_slice"].start, p["x_slice"].stop, p["y_slice"].stop))
    out[name] = np.array(rows, float)
tiny = np.zeros((3, 15, 20), np.float32)
rows = []
for _ in range(count):
    grown, p = random_expand(tiny, max_ratio=4, fill=0, return_param=True)
    rows.append((p["x_offset"], p["y_offset"], grown.shape[2], grown.shape[1]))
out["expand"] = np.array(rows, float)
rgb = picture[..., ::-1].transpose(2, 0, 1).astype(np.float32)
images = [random_distort(rgb.copy()) for _ in range(count)]
out["colours"] = np.array([(i[2].mean(), i[1].mean(), i[0].mean(), i.std(), i.max()) for i in images], float)
np.savez(sys.argv[2], **out)
"""

GLUONCV = """
import random, sys, numpy as np, mxnet as mx
from gluoncv.data.transforms.experimental.bbox import random_crop_with_constraints
from gluoncv.data.transforms.experimental.image import random_color_distort
from gluoncv.data.transforms.image import random_expand
data = dict(np.load(sys.argv[1])); count = int(data.pop("count")); picture = data.pop("picture")
random.seed(0); np.random.seed(0)
out = {}
for name, boxes in data.items():
    rows = []
    for _ in range(count):
        kept, (x, y, w, h) = random_crop_with_constraints(boxes, (500, 375))
        rows.append((x, y, x + w, y + h, len(kept)))
    out[name] = np.array(rows, float)
tiny = mx.nd.zeros((15, 20, 3))
rows = []
for _ in range(count):
    grown, (x, y, w, h) = random_expand(tiny, fill=0)
    rows.append((x, y, grown.shape[1], grown.shape[0]))
out["expand"] = np.array(rows, float)
rgb = mx.nd.array(picture[..., ::-1].copy())
rows = []
for _ in range(count):
    i = random_color_distort(rgb.copy()).asnumpy()
    rows.append((i[..., 2].mean(), i[..., 1].mean(), i[..., 0].mean(), i.std(), i.max()))
out["colours"] = np.array(rows, float)
np.savez(sys.argv[2], **out)
"""


def live(name: str, script: str, folder: Path) -> dict[str, np.ndarray]:
    try:
        install(name, print)
    except MissingError as error:
        pytest.skip(f"no {name}: {error}")
    (folder / "script.py").write_text(script)
    np.savez(folder / "in.npz", count=COUNT, picture=PICTURE, **SCENES)
    command = [environment(name).python, folder / "script.py", folder / "in.npz", folder / "out.npz"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(np.load(folder / "out.npz"))


@pytest.fixture(scope="module", params=["chainer", "gluon"])
def source(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[AugmentSpec, dict[str, Any]]:
    script = CHAINERCV if request.param == "chainer" else GLUONCV
    found = live(request.param, script, tmp_path_factory.mktemp(request.param))
    return (CHAINER if request.param == "chainer" else GLUON), found


def distance(first: np.ndarray, second: np.ndarray) -> float:
    places = np.concatenate([first, second])
    ranks = [np.searchsorted(np.sort(sample), places, side="right") / len(sample) for sample in (first, second)]
    return float(np.abs(ranks[0] - ranks[1]).max())


LIMIT = 1.95 * (2 / COUNT) ** 0.5
"""Kolmogorov-Smirnov, once in a thousand by chance; seeds are fixed."""


def crops(spec: AugmentSpec, boxes: np.ndarray, seed: int = 1) -> np.ndarray:
    assert spec.crop is not None
    rng = np.random.default_rng(seed)
    drawn = [draw_crop(spec.crop, (500, 375), boxes, rng, 0.0) for _ in range(COUNT)]
    return np.array([[0, 0, 500, 375] if d is None else d.frame for d in drawn], float)


def rows(frames: np.ndarray) -> dict[str, np.ndarray]:
    wide, high = frames[:, 2] - frames[:, 0], frames[:, 3] - frames[:, 1]
    return {"left": frames[:, 0], "top": frames[:, 1], "width": wide, "height": high, "area": wide * high}


@pytest.mark.parametrize("scene", SCENES)
def test_crops(source: tuple[AugmentSpec, dict[str, Any]], scene: str) -> None:
    spec, found = source
    wanted, got = rows(found[scene]), rows(crops(spec, SCENES[scene]))
    for name, values in wanted.items():
        assert distance(values, got[name]) < LIMIT, name
    whole = [np.mean(r["area"] == 500 * 375) for r in (wanted, got)]
    assert abs(whole[0] - whole[1]) < 0.06  # four standard deviations of the difference


def test_caffes_rule_would_be_noticed(source: tuple[AugmentSpec, dict[str, Any]]) -> None:
    spec, found = source
    assert spec.crop is not None
    wanted = rows(found["three"])
    for change in ({"meets": "any"}, {"scale": (0.5, 1.0)}, {"whole": False}):
        other = rows(crops(replace(spec, crop=replace(spec.crop, **change)), SCENES["three"]))  # type: ignore[arg-type]
        assert max(distance(values, other[name]) for name, values in wanted.items()) > LIMIT, change


def test_expansion(source: tuple[AugmentSpec, dict[str, Any]]) -> None:
    spec, found = source
    assert spec.expand is not None
    rng = np.random.default_rng(1)
    places = [draw_expand(replace(spec.expand, probability=1.0), (20, 15), rng) for _ in range(COUNT)]
    got = np.array([(p.left, p.top, p.width, p.height) for p in places if p is not None], float)
    for column in range(4):
        assert distance(found["expand"][:, column], got[:, column]) < LIMIT


def test_colours(source: tuple[AugmentSpec, dict[str, Any]]) -> None:
    spec, found = source
    assert spec.photometric is not None
    rng = np.random.default_rng(1)
    images = [apply_changes(PICTURE, draw_changes(spec.photometric, rng), spec.photometric) for _ in range(COUNT)]
    got = np.array([(*i.reshape(-1, 3).mean(0), i.std(), i.max()) for i in images], float)
    for column, name in enumerate(("blue", "green", "red", "deviation", "largest")):
        assert distance(found["colours"][:, column].round(3), got[:, column].round(3)) < LIMIT, name
