"""Hub folders: three files, bit-identical back, and what happens when they disagree."""

from __future__ import annotations

import hashlib
import json
import runpy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import ssdconv
from ssdconv.converters.inspect import inspect
from ssdconv.errors import FormatError, MissingError, OutputError, UsageError
from ssdconv.export.hub import CardFacts, model_card, write_hub
from ssdconv.ssd_ref.checkpoint import Checkpoint, read
from ssdconv.ssd_ref.model import SSD

PROVENANCE = {"ssdconv": "0.1.0", "source": "gluon", "file": "x.params", "format": "params", "sha256": "ab" * 32}


@pytest.fixture
def checkpoint(small: SSD) -> Checkpoint:
    return Checkpoint(small.config, dict(small.state_dict()), PROVENANCE | {"parity": "not measured"})


def test_the_network_comes_back_bit_for_bit(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = tmp_path / "a" / "hub"
    written = write_hub(checkpoint, folder)
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    back = read(folder)
    assert back.config == checkpoint.config and back.provenance == checkpoint.provenance
    assert back.state_dict.keys() == checkpoint.state_dict.keys()
    for name, tensor in checkpoint.state_dict.items():
        assert back.state_dict[name].numpy().tobytes() == tensor.numpy().tobytes(), name
    assert written.sha256 == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    model = ssdconv.load(folder)
    assert ssdconv.load(str(folder)).config == model.config == checkpoint.config
    assert torch.equal(next(model.parameters()), next(iter(checkpoint.state_dict.values())))


def test_weights_that_lost_their_description_take_that_of_config_json(checkpoint: Checkpoint, tmp_path: Path) -> None:
    write_hub(checkpoint, tmp_path)
    weights = tmp_path / "model.safetensors"
    save_file(load_file(weights), weights)
    assert read(tmp_path).config == checkpoint.config
    (tmp_path / "config.json").unlink()
    with pytest.raises(FormatError, match="no ssdconv config"):
        read(tmp_path)


def test_weights_alone_are_enough(checkpoint: Checkpoint, tmp_path: Path) -> None:
    write_hub(checkpoint, tmp_path)
    (tmp_path / "config.json").unlink()
    assert read(tmp_path).config == checkpoint.config


def test_two_descriptions_must_be_one(checkpoint: Checkpoint, tmp_path: Path) -> None:
    write_hub(checkpoint, tmp_path)
    beside = tmp_path / "config.json"
    about = json.loads(beside.read_text())
    about["config"]["detect"]["nms_threshold"] = 0.6
    beside.write_text(json.dumps(about))
    for look in (read, lambda folder: inspect(folder / "model.safetensors")):
        with pytest.raises(FormatError, match="different networks"):
            look(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", "[" * 100_000, '{"version": 1}', "\udce4"])
def test_a_damaged_config_json_is_named(text: str, checkpoint: Checkpoint, tmp_path: Path) -> None:
    write_hub(checkpoint, tmp_path)
    (tmp_path / "config.json").write_text(text, errors="surrogateescape")
    with pytest.raises(FormatError, match=r"config\.json"):
        read(tmp_path)


def test_an_empty_folder_holds_no_model(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"model\.safetensors"):
        read(tmp_path)


def test_nothing_is_replaced_unasked(checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(UsageError, match="--overwrite"):
        write_hub(checkpoint, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["README.md"] and (tmp_path / "README.md").read_text() == "mine"
    write_hub(checkpoint, tmp_path, overwrite=True)
    assert "mine" not in (tmp_path / "README.md").read_text()


def test_a_file_in_the_way_is_told(checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(OutputError, match="folder"):
        write_hub(checkpoint, tmp_path / "x")


def test_parity_figures_travel_with_the_weights(checkpoint: Checkpoint, tmp_path: Path) -> None:
    write_hub(checkpoint, tmp_path, parity={"passed": True, "probes": 212, "worst_ratio": 1.2345678})
    assert read(tmp_path).provenance["parity"]["probes"] == 212
    card = (tmp_path / "README.md").read_text()
    assert (
        "| probes | 212 |" in card
        and "| worst ratio | 1.235 |" in card
        and "who vouches for what was not recorded" in card
    )


def front_matter(card: str) -> dict[str, object]:
    """The few YAML forms that the card uses: scalars, JSON strings and lists of them."""
    head = card.split("---\n")[1]
    found: dict[str, object] = {}
    last = ""
    for line in head.splitlines():
        if line.startswith("- "):
            values = found[last]
            assert isinstance(values, list)
            values.append(json.loads(line[2:]))
        else:
            last, _, value = line.partition(":")
            found[last] = (json.loads(value) if value.startswith(' "') else value.strip()) if value else []
    return found


def test_the_card_says_what_is_known(checkpoint: Checkpoint) -> None:
    facts = CardFacts("cc-by-4.0", ("pascal-voc", "coco"))
    card = model_card(checkpoint.config, PROVENANCE, "cd" * 32, facts, None)
    head = front_matter(card)
    assert (
        head["license"] == "cc-by-4.0"
        and head["library_name"] == "ssdconv"
        and head["datasets"] == ["pascal-voc", "coco"]
    )
    assert "gluon" in head["tags"]  # type: ignore[operator]
    for text in ("x.params", "ab" * 32, "cd" * 32, "300x300", "2268", "Not measured", "1 aeroplane", 'ssdconv.load("'):
        assert text in card


def test_the_card_says_what_is_unknown(checkpoint: Checkpoint) -> None:
    card = model_card(checkpoint.config, {}, "00", CardFacts(), {"passed": False})
    head = front_matter(card)
    assert head["license"] == "unknown" and "datasets" not in head
    assert "not recorded" in card and "**The check failed.**" in card


def test_names_from_a_file_cannot_write_the_card(checkpoint: Checkpoint) -> None:
    evil = "x`\n# Heading\n<script>|`"
    card = model_card(
        checkpoint.config, {"file": evil, "format": evil, "ssdconv": evil, "sha256": evil}, "0", CardFacts(), None
    )
    assert "\n# Heading" not in card and "&lt;script&gt;" in card
    for line in card.splitlines():
        if line.startswith("| "):
            assert len([k for k in range(1, len(line)) if line[k] == "|" and line[k - 1] != "\\"]) == 2, line


def test_the_example_of_the_card_runs(checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import cv2

    from ssdconv.parity.layers.inputs import synthetic_picture

    write_hub(checkpoint, tmp_path / "this-folder")
    cv2.imwrite(str(tmp_path / "photo.jpg"), synthetic_picture(0))
    monkeypatch.chdir(tmp_path)
    code = (tmp_path / "this-folder" / "README.md").read_text().split("```python\n")[1].split("```")[0]
    (tmp_path / "card.py").write_text(code)
    assert "ssdconv" in runpy.run_path(str(tmp_path / "card.py"))


def test_a_folder_that_cannot_be_written_leaves_no_trace(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ssdconv.export.hub.model_card", full)
    with pytest.raises(OutputError, match="No space left"):
        write_hub(checkpoint, tmp_path / "hub")
    assert list(tmp_path.iterdir()) == []
