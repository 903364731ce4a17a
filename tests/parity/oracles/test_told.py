"""Weights-only files with settings: the Keras oracle is given the same word, and finds a checkpoint that was converted without it."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from ssdconv.converters.convert import convert
from ssdconv.parity.verify import verify

pytestmark = [pytest.mark.oracle, pytest.mark.shared]
FILES = {
    "real/ssd7_weights.h5.gz": {"heads.padding": "valid"},
    "ssd7/o09_dfb8655_valid_lambda.weights_only.h5.gz": {
        "heads.padding": "valid", "input.size": "256x200", "pixels.order": "BGR", "priors.clip": "pixels",
        "detect.keep_top_k": "50",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_what_the_user_said_holds_on_both_sides(shared: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "x.h5").write_bytes(gzip.decompress((shared / "golden" / "keras_tf" / name).read_bytes()))
    convert(tmp_path / "x.h5", tmp_path / "o.pth", settings=FILES[name])
    report = verify(tmp_path / "o.pth", tmp_path / "x.h5")
    assert report.passed, report.first_divergent
    links = {link.link: link for link in report.links}
    assert not links["architecture"].independent and any(c.key == "heads.padding" for c in links["architecture"].claims)
