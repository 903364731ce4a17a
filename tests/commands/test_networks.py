"""``ssdconv networks``: the published networks with the numbers that their papers and prototxts give."""

from __future__ import annotations

import json

import pytest

from ssdconv import cli
from ssdconv.ssd_ref.networks.registry import networks

# Liu et al. 2016, table 7 (8732 and 24564 boxes); 1917 is MobileNet-SSD's 19x19x3 + (10x10 + 5x5 + 3x3 + 2x2 + 1x1) x 6.
KNOWN = {"ssd300_voc": (300, 21, 8732), "ssd512_coco": (512, 81, 24564), "mobilenet_ssd_voc": (300, 21, 1917)}


def test_json_has_every_network_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["networks", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(r["source"], r["name"]) for r in rows] == [(n.source, n.name) for n in networks()]
    caffe = {r["name"]: (r["width"], r["num_classes"], r["priors"]) for r in rows if r["source"] == "caffe"}
    assert KNOWN.items() <= caffe.items()


def test_table_can_be_limited_to_a_source(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["networks", "--source", "caffe"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.split("\n\n")[0].splitlines()]
    assert rows[0] == ["source", "network", "input", "classes", "priors", "backbone"]
    assert {row[0] for row in rows[1:]} == {"caffe"}
    assert ["caffe", "ssd300_voc", "300x300", "21", "8732", "vgg16"] in rows


def test_an_unknown_source_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["networks", "--source", "darknet"]) == 2
    assert "caffe" in capsys.readouterr().err
