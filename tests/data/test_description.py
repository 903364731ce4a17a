"""Descriptions of data sets: the documented ones are read as they stand, and nothing else slips through."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ssdconv.data.custom import Description, Part, read_description
from ssdconv.errors import FormatError

EXAMPLES = re.findall(
    r"^```yaml\n(.*?)^```", (Path(__file__).parents[2] / "docs" / "own_data.md").read_text(), re.MULTILINE | re.DOTALL
)


def test_the_documented_examples(tmp_path: Path) -> None:
    assert len(EXAMPLES) == 2
    (tmp_path / "a.yaml").write_text(EXAMPLES[0])
    assert read_description(tmp_path / "a.yaml") == Description(
        "voc", "/data/shapes", ("circle", "square"), {"train": "train", "val": "lists/held_out.txt"}, "labels", "pictures", 0
    )  # fmt: skip
    (tmp_path / "b.yml").write_text(EXAMPLES[1])
    said = read_description(tmp_path / "b.yml")
    assert said.format == "coco" and said.splits["val"] == Part("val.json", "photos") and said.classes == ("cat", "dog")


def test_an_empty_description_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("\n")
    with pytest.raises(FormatError, match="cannot be used"):
        read_description(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    "text", ["a: &a [x]\n" + "".join(f"k{n}: &k{n} [*{p}, *{p}]\n" for n, p in enumerate(["a"])), "[" * 5000]
)
def test_bombs_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(FormatError):
        read_description(tmp_path / "a.yaml")


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(" " * (1 << 20) + "{}")
    with pytest.raises(FormatError, match="too large"):
        read_description(tmp_path / "a.json")


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    for suffix in (".yaml", ".toml", ".json"):
        (tmp_path / f"a{suffix}").write_bytes(b"\xff\xfe\x00x")
        with pytest.raises(FormatError, match="no text in UTF-8"):
            read_description(tmp_path / f"a{suffix}")
