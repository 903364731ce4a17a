"""The table that a verdict rests on: what an oracle improves, what stays assumed, and what the headline may say."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ssdconv import cli
from ssdconv.converters.caffe.prototxt import read_prototxt
from ssdconv.converters.caffe.source import write
from ssdconv.converters.convert import convert, open_source
from ssdconv.converters.plan import Request
from ssdconv.errors import UsageError
from ssdconv.parity.config_diff import config_differences
from ssdconv.parity.layers.results import LinkResult, ParityReport, headline, link_results, weak_links
from ssdconv.parity.report.layers import write_report
from ssdconv.parity.report.terminal import show
from ssdconv.parity.verify import verify
from ssdconv.ssd_ref.checkpoint import read, save
from ssdconv.ssd_ref.classes import BACKGROUND, VOC
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.evidence import LINKS, PIXELS_ASSUMED, Basis, Claim, Link, code_of
from ssdconv.ssd_ref.model import seeded_tensors
from ssdconv.ssd_ref.networks.registry import network

ALL: dict[Link, str] = dict.fromkeys(LINKS, "compared")


def settled(**bases: Basis) -> tuple[Claim, ...]:
    """A claim per link: stated, but for those named (``rule`` is the detection rule)."""
    named = {"detection rule": bases.get("rule"), **bases}
    return tuple(Claim(link, named.get(link) or "stated", f"{link} of test") for link in LINKS)


def table(claims: tuple[Claim, ...], ran: tuple[Claim, ...] = (), compared: Any = ALL) -> dict[Link, LinkResult]:
    return {row.link: row for row in link_results(claims, ran, compared, {})}


def test_an_oracle_replaces_what_was_rebuilt_but_not_what_was_assumed() -> None:
    steps = Claim("priors", "assumed", "steps 8, 16", "steps")
    ran = tuple(Claim(link, "source framework", "the framework") for link in ("architecture", "priors"))
    rows = table((*settled(architecture="rebuilt"), steps), ran)
    assert rows["architecture"].basis == "source framework" and rows["architecture"].text == "the framework"
    assert rows["priors"].basis == "assumed" and rows["priors"].text == "steps 8, 16"
    assert len(rows["priors"].claims) == 3, "everything that was settled stays in the table"


def test_original_code_assumes_on_its_own_but_for_what_it_was_told() -> None:
    steps, sizes = Claim("priors", "assumed", "steps 8, 16"), Claim("architecture", "assumed", "padding SAME")
    ran = tuple(Claim(link, "original code", "the project itself") for link in ("architecture", "priors"))
    rows = table((*settled(), steps, sizes), (*ran, steps))
    assert rows["architecture"].basis == "original code" and rows["priors"].basis == "assumed"


def test_a_rebuilt_oracle_makes_a_stated_link_no_better_than_rebuilt() -> None:
    rows = table(settled(), (Claim("architecture", "rebuilt", "built again"),))
    assert rows["architecture"].basis == "rebuilt" and rows["architecture"].weak


def test_an_oracle_has_no_say_in_what_was_not_compared() -> None:
    ran = (Claim("detection rule", "original code", "the project itself"),)
    rows = table(settled(rule="rebuilt"), ran, {k: v for k, v in ALL.items() if k != "detection rule"})
    assert rows["detection rule"].basis == "rebuilt" and not rows["detection rule"].compared


def test_same_network_needs_every_link() -> None:
    assert headline(tuple(table(settled()).values())) == "same network"
    for link in LINKS:
        for basis in ("assumed", "rebuilt"):
            claims = tuple(replace(c, basis=basis) if c.link == link else c for c in settled())
            said = headline(tuple(table(claims).values()))
            assert "same network" not in said and basis in said, (link, said)
    without = headline(tuple(table(settled(), (), {k: v for k, v in ALL.items() if k != "detection rule"}).values()))
    assert without == "same weights, layers, pixels, priors and classes; not compared in this run: detection rule"
    assert "same network" not in headline(())


def test_the_headline_tells_what_was_assumed() -> None:
    claims = (
        *settled(pixels="rebuilt", priors="user"),
        Claim("architecture", "assumed", "padding SAME (since 2018-02)"),
    )
    said = headline(tuple(table(claims).values()))
    assert said == (
        "same weights, detection rule and classes; priors given by the user (priors of test); pixels rebuilt from facts; "
        "layers assumed (padding SAME (since 2018-02))"
    )


def test_many_assumptions_are_counted_in_the_headline() -> None:
    many = tuple(Claim("priors", "assumed", f"setting {number} is the usual one") for number in range(20))
    said = headline(tuple(table((*settled(), *many)).values()))
    assert said.endswith("priors assumed (setting 0 is the usual one; and 19 more, see the table)")


def test_strict_refuses_what_nobody_else_vouches_for() -> None:
    rows = table(settled(pixels="assumed", priors="rebuilt", classes="user"))
    assert [row.link for row in weak_links(tuple(rows.values()))] == ["pixels", "priors"]
    nobody = link_results((), (), ALL, {})
    assert len(weak_links(nobody)) == 6 and "nobody" in nobody[0].says


@pytest.fixture(scope="module")
def stated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small Caffe net of one class whose prototxt states everything, with seeded weights."""
    folder = tmp_path_factory.mktemp("stated")
    (folder / "net.prototxt").write_text(NET)
    return made(folder, "net")


def made(folder: Path, stem: str) -> tuple[Path, Path]:
    """Seeded weights for ``<stem>.prototxt``: (weight file, prototxt)."""
    from ssdconv.converters.caffe.graph import graph_config

    prototxt = folder / f"{stem}.prototxt"
    config = graph_config(read_prototxt(prototxt), name=stem)
    tensors = dict(seeded_tensors(config, 5))
    source, _ = write(config, tensors, folder / f"{stem}.caffemodel", Request(prototxt=folder / "written.prototxt"))
    return source, prototxt


def layer(name: str, kind: str, bottoms: str, body: str = "") -> str:
    given = " ".join(f'bottom: "{b}"' for b in bottoms.split())
    return f'layer {{ name: "{name}" type: "{kind}" {given} top: "{name}" {body} }}\n'


def convolution(name: str, bottom: str, out: int) -> str:
    return layer(name, "Convolution", bottom, f"convolution_param {{ num_output: {out} kernel_size: 3 pad: 1 }}")


DATA = """layer { name: "input" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 32 dim: 32 } }
  transform_param { mean_value: 104 mean_value: 117 mean_value: 123 scale: 0.5 } }
"""
BODY = (
    convolution("conv1", "data", 4)
    + layer("pool1", "Pooling", "conv1", "pooling_param { pool: MAX kernel_size: 4 stride: 4 }")
    + convolution("loc", "pool1", 8)
    + layer("loc_perm", "Permute", "loc", "permute_param { order: 0 order: 2 order: 3 order: 1 }")
    + layer("loc_flat", "Flatten", "loc_perm")
    + convolution("conf", "pool1", 4)
    + layer("conf_perm", "Permute", "conf", "permute_param { order: 0 order: 2 order: 3 order: 1 }")
    + layer("conf_flat", "Flatten", "conf_perm")
    + layer("conf_reshape", "Reshape", "conf_flat", "reshape_param { shape { dim: 0 dim: -1 dim: 2 } }")
    + layer("conf_softmax", "Softmax", "conf_reshape", "softmax_param { axis: 2 }")
    + layer("conf_out", "Flatten", "conf_softmax")
    + layer(
        "priors",
        "PriorBox",
        "pool1 data",
        "prior_box_param { min_size: 8 max_size: 16 step: 4 clip: false variance: 0.1 variance: 0.1 variance: 0.2 variance: 0.2 }",
    )
    + layer(
        "found",
        "DetectionOutput",
        "loc_flat conf_out priors",
        "detection_output_param { num_classes: 2 share_location: true background_label_id: 0 code_type: CENTER_SIZE confidence_threshold: 0.3 keep_top_k: 20 "
        "nms_param { nms_threshold: 0.45 top_k: 50 } }",
    )
)
NET = 'name: "stated"\n' + DATA + BODY
UNTOLD = 'name: "untold"\ninput: "data"\ninput_shape { dim: 1 dim: 3 dim: 32 dim: 32 }\n' + BODY


def links_of(report: ParityReport) -> dict[str, Any]:
    return {row.link: row.basis for row in report.links}


def test_a_net_that_states_everything_is_the_same_network(stated: tuple[Path, Path], tmp_path: Path) -> None:
    source, prototxt = stated
    convert(source, tmp_path / "x.pth", prototxt=prototxt)
    report = verify(tmp_path / "x.pth", source, prototxt=prototxt)
    assert report and report.headline == "same network", report.links
    assert links_of(report) == {
        "tensors": "stated",
        "architecture": "source framework",
        "pixels": "stated",
        "priors": "source framework",
        "detection rule": "source framework",
        "classes": "stated",
    }
    assert not report.weak


def test_the_prototxt_is_remembered_and_its_change_is_told(stated: tuple[Path, Path], tmp_path: Path) -> None:
    source, _ = stated
    prototxt = tmp_path / "net.prototxt"
    prototxt.write_text(NET)
    convert(source, tmp_path / "x.pth", prototxt=prototxt)
    held = read(tmp_path / "x.pth").provenance
    assert held["prototxt"]["name"] == "net.prototxt" and str(tmp_path) not in json.dumps(held)
    prototxt.unlink()
    report = verify(tmp_path / "x.pth", source)
    assert report and report.headline == "same network"
    assert any("net.prototxt, which the checkpoint remembers" in note for note in report.notes)
    moved = tmp_path / source.name
    moved.write_bytes(source.read_bytes())
    prototxt.write_text(NET.replace("step: 4", "step: 5"))
    assert any("was changed since" in note for note in verify(tmp_path / "x.pth", moved).notes)
    wrong = verify(tmp_path / "x.pth", source, prototxt=prototxt)
    assert not wrong and any("not the prototxt" in note for note in wrong.notes)
    assert any("priors[0].step" in text for row in wrong.links for text in row.differs)


def test_a_damaged_memory_is_refused(stated: tuple[Path, Path], tmp_path: Path) -> None:
    from ssdconv.errors import FormatError

    source, prototxt = stated
    convert(source, tmp_path / "x.pth", prototxt=prototxt)
    held = read(tmp_path / "x.pth")
    kept = {**held.provenance["prototxt"], "sha256": "0" * 64}
    save(tmp_path / "y.pth", held.config, held.state_dict, {**held.provenance, "prototxt": kept})
    with pytest.raises(FormatError, match="prototxt that the checkpoint remembers is damaged"):
        verify(tmp_path / "y.pth", source)


def test_a_layer_called_region_mean_changes_no_verdict(tmp_path: Path) -> None:
    """Which notices are about pixels goes by their code: a layer's name is no code."""
    dead = layer("region_mean", "Pooling", "data", "pooling_param { pool: AVE global_pooling: true }")
    (tmp_path / "net.prototxt").write_text(UNTOLD + dead)
    source, prototxt = made(tmp_path, "net")
    with open_source(source, "caffe", Request(prototxt=prototxt)).table:
        pass
    convert(source, tmp_path / "x.pth", prototxt=prototxt)
    report = verify(tmp_path / "x.pth", source, prototxt=prototxt)
    assert report and links_of(report)["pixels"] == "assumed"
    opened = open_source(source, "caffe", Request(prototxt=prototxt))
    opened.table.close()
    about = [w for w in opened.plan.warnings if "region_mean" in w]
    assert len(about) == 1 and code_of(about[0]) != PIXELS_ASSUMED
    assert about[0] in report.notes, "it is told, though its text has the word mean"
    assert not any(code_of(w) == PIXELS_ASSUMED for w in report.notes), (
        "the assumed mean is nobody's where pixels are untold"
    )


def test_untold_pixels_are_assumed_and_strict_refuses_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], stated: tuple[Path, Path]
) -> None:
    (tmp_path / "net.prototxt").write_text(UNTOLD)
    source, prototxt = made(tmp_path, "net")
    convert(source, tmp_path / "x.pth", prototxt=prototxt)
    words = ["verify", str(tmp_path / "x.pth"), "--source", str(source), "--prototxt", str(prototxt)]
    assert cli.main(words) == 0
    told = capsys.readouterr()
    assert "pixels assumed" in told.out and "same network" not in told.out
    assert cli.main([*words, "--strict"]) == 1
    assert "strict: not vouched for by anybody else: pixels (assumed)" in capsys.readouterr().err
    convert(stated[0], tmp_path / "y.pth", prototxt=stated[1])
    assert cli.main(["verify", str(tmp_path / "y.pth"), "--source", str(stated[0]), "--strict", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["headline"] == "same network"


def test_every_report_carries_the_table(stated: tuple[Path, Path], tmp_path: Path) -> None:
    source, prototxt = stated
    convert(source, tmp_path / "x.pth", prototxt=prototxt)
    report = verify(tmp_path / "x.pth", source, prototxt=prototxt)
    write_report(tmp_path / "report", report)
    out = Console(file=io.StringIO(), width=200, highlight=False)
    show(report, out)
    texts = [(tmp_path / "report" / f"parity.{kind}").read_text() for kind in ("html", "md", "json")]
    for text in (*texts, out.file.getvalue()):  # type: ignore[attr-defined]
        for words in (*LINKS, "run by the source framework from the file", "stated in the file"):
            assert words in text.replace("’", "'"), words
    data = json.loads(texts[2])
    assert [row["link"] for row in data["links"]] == list(LINKS) and data["headline"] == "same network"
    assert ParityReport.from_json(texts[2]).links == report.links


def test_reports_of_older_versions_have_no_table_and_no_claim(stated: tuple[Path, Path], tmp_path: Path) -> None:
    source, prototxt = stated
    convert(source, tmp_path / "x.pth", prototxt=prototxt)
    data = verify(tmp_path / "x.pth", source, prototxt=prototxt).to_json()
    del data["links"]
    old = ParityReport.from_json(data)
    assert old and "same network" not in old.headline


def test_class_names_come_from_whoever_states_them(stated: tuple[Path, Path], tmp_path: Path) -> None:
    source, prototxt = stated
    assert convert(source, tmp_path / "x.pth", prototxt=prototxt).config.class_names == ()
    given = convert(source, tmp_path / "x.pth", prototxt=prototxt, classes="face")
    assert given.config.class_names == (BACKGROUND, "face")
    (tmp_path / "names.txt").write_text("nothing\nface\n")
    read_in = convert(source, tmp_path / "x.pth", prototxt=prototxt, classes=str(tmp_path / "names.txt"))
    assert read_in.config.class_names == ("nothing", "face")
    assert (
        read_in.config
        == convert(source, tmp_path / "y.pth", prototxt=prototxt, settings={"classes": "nothing,face"}).config
    )
    assert [c.basis for c in read_in.evidence if c.link == "classes"] == ["user"]
    for wrong in ("voc", "a,b,c", "a,a"):
        with pytest.raises(UsageError):
            convert(source, tmp_path / "z.pth", prototxt=prototxt, classes=wrong)
    assert verify(tmp_path / "x.pth", source)


def test_a_count_of_21_names_nothing(tmp_path: Path) -> None:
    """A VGG SSD of 20 classes is VOC's only if somebody says so: the user, the network's name, or the net's label map."""
    config = network("mobilenet_ssd_voc", "caffe")
    source, prototxt = write(config, dict(seeded_tensors(config, 1)), tmp_path / "x.caffemodel", Request())
    text = prototxt.read_text()
    unnamed = tmp_path / "unnamed.prototxt"
    unnamed.write_text(text.replace("mobilenet_ssd_voc", "my_detector"))
    assert open_names(source, Request(prototxt=unnamed)) == ()
    assert open_names(source, Request(prototxt=unnamed, classes=VOC)) == (BACKGROUND, *VOC)
    labelled = tmp_path / "labelled.prototxt"
    map_file = 'save_output_param { label_map_file: "data/VOC0712/labelmap_voc.prototxt" } keep_top_k'
    labelled.write_text(unnamed.read_text().replace("keep_top_k", map_file))
    assert open_names(source, Request(prototxt=labelled)) == (BACKGROUND, *VOC)
    assert open_names(source, Request("mobilenet_ssd_voc")) == (BACKGROUND, *VOC)


def open_names(source: Path, request: Request) -> tuple[str, ...]:
    opened = open_source(source, "caffe", request)
    opened.table.close()
    return opened.plan.config.class_names


def changes() -> list[tuple[str, SSDConfig]]:
    base = network("ssd300_voc", "caffe")
    first = base.priors[0]
    stages = base.staged.extras.stages
    padded = (stages[0][0], replace(stages[0][1], padding="same"))
    extras = replace(base.staged.extras, stages=(padded, *stages[1:]))
    return [
        ("conv6_2.padding", replace(base, layers=replace(base.staged, extras=extras))),
        ("extras.conv6_2.padding", replace(base, layers=replace(base.staged, extras=extras))),
        ("heads.kernel", replace(base, layers=replace(base.staged, heads=replace(base.staged.heads, kernel=1)))),
        ("pixels.mean", replace(base, pixels=replace(base.pixels, mean=(1.0, 2.0, 3.0)))),
        (
            "priors[0].box_sizes",
            replace(base, priors=(replace(first, box_sizes=first.box_sizes[::-1]), *base.priors[1:])),
        ),
        ("priors[5]", replace(base, priors=base.priors[:5])),
        ("detect.nms_eta", replace(base, detect=replace(base.detect, nms_eta=0.9))),
        ("class_names", replace(base, class_names=base.class_names[::-1])),
    ]


@pytest.mark.parametrize(("field", "config"), changes())
def test_a_field_that_differs_is_named(field: str, config: SSDConfig) -> None:
    found = config_differences(config, network("ssd300_voc", "caffe"))
    assert found and all(field in d.field or d.field.startswith(field) for d in found), found


def test_a_config_of_an_older_version_has_the_defaults_of_new_fields() -> None:
    base = network("ssd300_voc", "caffe")
    data = json.loads(base.to_json())
    for entry in data["priors"]:
        del entry["clip"], entry["offset"]
    del data["detect"]["nms_margin"], data["pixels"]["scale"]
    assert config_differences(SSDConfig.from_json(json.dumps(data)), base) == ()


def test_names_and_rounding_are_no_differences() -> None:
    base = network("ssd300_voc", "caffe")
    close = replace(base, name="mine", source="keras", pixels=replace(base.pixels, scale=1.00000001), class_names=())
    assert config_differences(close, base) == () == config_differences(base, base)


def test_what_was_compared_on_no_input_is_not_passed() -> None:
    from ssdconv.parity.layers.results import Gap, InputResult

    class Same:
        """A probe that agrees."""

        source = "conv1"

    gap = Gap("conv2", "architecture", "oracle cannot", "it has no such layer")
    one = InputResult("noise", (Same(),), None, (gap,))  # type: ignore[arg-type]
    report = ParityReport("n", "caffe", "o.pth", "a" * 64, "x", "b" * 64, "Caffe", (one,))
    assert (report.outcome, report.gaps) == ("not compared", (gap,))
    compared = replace(one, gaps=(replace(gap, part="conv1"),))
    assert replace(report, inputs=(compared,)).outcome == "passed"
