"""``ssdconv inspect``: what the file holds, as text and as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ssdconv import cli
from ssdconv.ssd_ref.evidence import LINKS


@pytest.mark.shared
def test_json_and_text_tell_the_same(converted: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for file in (converted.source, converted.checkpoint):
        assert cli.main(["inspect", str(file), "--json"]) == 0
        summary = json.loads(capsys.readouterr().out)
        assert len(summary["tensors"]) == 104
        assert summary["num_classes"] == 2
        assert cli.main(["inspect", str(file)]) == 0
        text = capsys.readouterr().out
        assert str(file) in text
        assert all(tensor["name"] in text for tensor in summary["tensors"])
        assert {claim["link"] for claim in summary["evidence"]} == set(LINKS)
        assert "  classes  stated in the file: 2 conf channels" in text


@pytest.mark.parametrize(("content", "code"), [(None, 4), (b"", 3), (b"<!DOCTYPE html><html>", 3), ("folder", 3)])
def test_what_is_no_weight_file_is_refused(
    content: bytes | str | None, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "x.caffemodel"
    if content == "folder":
        file.mkdir()
    elif isinstance(content, bytes):
        file.write_bytes(content)
    assert cli.main(["inspect", str(file)]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert str(file) in err
