"""Files that are damaged, hostile, or not Caffe's: each gets an error of its own and costs bounded time and memory."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ssdconv.converters.caffe.reader import read_caffemodel
from ssdconv.errors import FormatError

BAD_MODELS: dict[str, tuple[Callable[..., bytes], str]] = {
    "empty": (lambda e: b"", "the file is empty"),
    "html": (lambda e: b"<!DOCTYPE html>\n<html><head><title>Quota exceeded</title>", "web page"),
    "html_bom": (lambda e: b"\xef\xbb\xbf\r\n  <HTML lang=en>", "web page"),
    "xml": (lambda e: b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "web page"),
    "zip": (lambda e: b"PK\x03\x04" + bytes(60), "zip archive"),
    "hdf5": (lambda e: b"\x89HDF\r\n\x1a\n" + bytes(60), "HDF5"),
    "gzip": (lambda e: b"\x1f\x8b\x08" + bytes(60), "gzip"),
    "lfs": (lambda e: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
    "prototxt": (lambda e: b'name: "VGG"\nlayer {\n  name: "data"\n}\n', "this is a text file"),
    "zeros": (lambda e: bytes(4096), "invalid field number"),
    "text": (lambda e: b"hello, I am no model\n" * 10, "offset"),
    "header_only": (lambda e: e.sub(1, "VGG") + e.sub(3, "data"), "no layers"),
    "length_past_end": (lambda e: e.small() + e.tag(100, 2) + e.varint(10**6), "reaches past the end"),
    "length_2_to_63": (lambda e: e.tag(100, 2) + e.varint(2**63), "reaches past the end"),
    "inner_length_past_layer": (lambda e: e.sub(100, e.tag(7, 2) + e.varint(50)) + bytes(99), "reaches past the end"),
    "blob_length_past_blob": (
        lambda e: e.layer("a", blobs=(e.shape(9) + e.tag(5, 2) + e.varint(36) + bytes(35),)),
        "reaches past the end",
    ),
    "unpacked_cut": (lambda e: e.layer("a", blobs=(e.shape(2) + e.floats_unpacked(1, 2)[:-1],)), "cut off"),
    "varint_overflow": (lambda e: e.int(5, 1)[:1] + b"\xff" * 10 + b"\x01", "varint overflow"),
    "varint_endless": (lambda e: b"\x80" * 100_000, "varint overflow"),
    "field_zero": (lambda e: e.small() + b"\x02\x00", "invalid field number"),
    "wire_six": (lambda e: e.small() + b"\x0e", "invalid wire type"),
    "stray_end_group": (lambda e: e.small() + b"\x0c", "group that never began"),
    "wrong_end_group": (lambda e: e.small() + b"\x0b\x14", "another group's end"),
    "open_group": (lambda e: e.small() + b"\x0b", "never ends"),
    "million_groups": (lambda e: e.small() + b"\x0b" * 10**6 + b"\x0c" * 10**6, "nested too deeply"),
    "deep_groups_in_layer": (lambda e: e.layer("a", "X", b"\x63" * 5000 + b"\x64" * 5000), "nested too deeply"),
    "negative_dim": (lambda e: e.layer("a", blobs=(e.shape(-3, 1) + e.floats(1),)), "negative side"),
    "negative_legacy": (lambda e: e.layer("a", blobs=(e.legacy(1, 1, -1, 1) + e.floats(1),)), "negative side"),
    "huge_dim": (lambda e: e.layer("a", blobs=(e.shape(2**40) + e.floats(1),)), "too large"),
    "wrapping_dims": (lambda e: e.layer("a", blobs=(e.shape(2**32, 2**32),)), "too large"),
    "terabyte_shape": (lambda e: e.layer("a", blobs=(e.shape(2**20, 2**20) + e.floats(1),)), "does not fit its shape"),
    "product_past_64_bits": (lambda e: e.layer("a", blobs=(e.shape(*[2**31 - 1] * 32) + e.floats(1),)), "does not fit"),
    "blob_too_short": (lambda e: e.layer("a", blobs=(e.shape(3) + e.floats(1, 2),)), "does not fit its shape"),
    "blob_too_long": (lambda e: e.layer("a", blobs=(e.shape(1) + e.floats(1, 2),)), "does not fit its shape"),
    "blob_odd_bytes": (lambda e: e.layer("a", blobs=(e.shape(1) + e.sub(5, b"abc"),)), "not a whole count"),
    "blob_wide_numbers": (lambda e: e.layer("a", blobs=(e.shape(1) + e.tag(5, 1) + bytes(8),)), "wrong width"),
    "blob_empty": (lambda e: e.layer("a", blobs=(b"",)), "neither shape nor data"),
    "blob_many_dims": (lambda e: e.layer("a", blobs=(e.shape(*[1] * 100_000) + e.floats(1),)), "too many dimensions"),
    "blob_many_runs": (lambda e: e.layer("a", blobs=(e.floats(1) * 300_000,)), "too many runs"),
    "blob_alternating_runs": (
        lambda e: e.layer("a", blobs=((e.floats_unpacked(1) + e.doubles_unpacked(1)) * 2_000_000,)),
        "too many runs",
    ),
    "blob_empty_runs": (lambda e: e.layer("a", blobs=(e.floats() * 3_000_000,)), "more fields than any network"),
    "many_blobs": (lambda e: e.layer("a", blobs=(e.shape(0),) * 65), "too many blobs"),
    "many_blobs_in_all": (
        lambda e: b"".join(e.layer(f"l{i}", blobs=(e.shape(0),) * 64) for i in range(400)),
        "too many blobs",
    ),
    "million_empty_layers": (lambda e: e.sub(100) * 10**6, "more layers than any network"),
    "million_empty_v1_layers": (lambda e: e.sub(2) * 10**6, "more layers than any network"),
    "30_mb_of_empty_layers": (lambda e: e.sub(100) * 10**7, "more layers than any network"),
    "million_unknown_fields": (lambda e: e.int(50, 1) * 10**6 + e.small(), "more fields than any network"),
    "million_inputs": (lambda e: e.sub(3) * 10**6 + e.small(), "more fields than any network"),
    "million_empty_params": (lambda e: e.layer("a", "X", e.sub(6) * 10**6), "parameters are too large"),
    "empty_samplers": (
        lambda e: b"".join(e.layer(f"l{i}", "X", e.sub(200, e.sub(1) * 100_000)) for i in range(30)),
        "more values than any network",
    ),
    "unknown_inside": (
        lambda e: b"".join(e.layer(f"l{i}", "X", e.sub(106, e.int(77, 1) * 80_000)) for i in range(30)),
        "",  # tolerated up to the limits, or refused: but bounded
    ),
    "30_mb_of_text": (
        lambda e: b"".join(e.layer("l", "X", e.sub(3, "b" * 200_000)) for _ in range(150)),
        "too much besides",
    ),
    "net_name_30_mb": (lambda e: e.sub(1, "n" * 30_000_000) + e.small(), "too much besides"),
    "layer_parameters_300_kb": (lambda e: e.layer("a", "X", e.sub(50, bytes(300_000))), "parameters are too large"),
    "long_name": (lambda e: e.layer("n" * 1025), "too long"),
    "long_type": (lambda e: e.layer("n", "t" * 1025), "too long"),
    "name_not_utf8": (lambda e: e.layer(b"\xff\xfe"), "not UTF-8"),
    "same_name_twice": (lambda e: e.layer("conv9", blobs=(e.shape(1) + e.floats(1),)) * 2, "layers #0 and #1"),
    "v1_and_v2": (lambda e: e.layer("a") + e.v1_layer("b", 4), "mixes V1"),
    "v0": (lambda e: e.sub(2, e.sub(1, e.sub(1, "conv1"), e.sub(2, "conv"))), "oldest form"),
    "broken_submessage": (lambda e: e.layer("a", "X", e.sub(106, b"\x08")), "a message inside is damaged"),
    "input_dim_count": (lambda e: e.sub(3, "data") + e.int(4, 1) + e.layer("a"), "input_dim does not fit"),
    "input_negative": (lambda e: e.sub(3, "data") + e.sub(8, e.int(1, -5)) + e.layer("a"), "impossible shape"),
}

BAD_TEXTS: dict[str, tuple[Callable[[], str], str]] = {
    "empty.prototxt": (lambda: "", "the file is empty"),
    "page.prototxt": (lambda: "\n<html><body>404</body></html>", "web page"),
    "comments.prototxt": (lambda: "#\n" * 2_000_000, "more lines than any network's"),
    "half_a_million_lines.prototxt": (lambda: "#   \n" * 499_000, "no layers"),
    "comments_between.prototxt": (lambda: "a:1#\n" * 400_000, "longer than any network's"),
    "one_string.prototxt": (lambda: "layer { name: '" + "n" * 4_000_000 + "' }", "a string is too long"),
    "escapes.prototxt": (lambda: "layer { name: '" + "\\n" * 1_900_000 + "' }", "a string is too long"),
    "open_string.prototxt": (lambda: "layer { name: '" + "n" * 4_000_000, "string is not closed"),
    "one_word.prototxt": (lambda: "n" * 4_000_000, "a word is too long"),
    "blanks.prototxt": (lambda: " " * 4_000_000, "no layers"),
    "braces.prototxt": (lambda: "layer {" * 500_000, "nested too deeply"),
    "unknown_braces.prototxt": (lambda: "x {" * 1_000_000, "nested too deeply"),
    "layers.prototxt": (lambda: "layer{}" * 20_000, "more layers than any network"),
    "params.prototxt": (lambda: "layer{" + "param{}" * 70_000 + "}", ""),
    "unknown.prototxt": (lambda: "layer{" + "x{}" * 80_000 + "}", ""),
    "list.prototxt": (lambda: "layer { loss_weight: [" + "1," * 240_000 + "] }", "longer than any network's"),
    "large.prototxt": (lambda: "#" * 30_000_000, "larger than any prototxt"),
}

CHILD = """if True:
    import json, resource, sys, time
    from pathlib import Path
    from ssdconv.converters.caffe.prototxt import read_prototxt
    from ssdconv.converters.caffe.reader import read_caffemodel
    from ssdconv.converters.caffe.schema import messages
    messages()
    import numpy  # noqa: F401

    def status(key):
        text = Path("/proc/self/status").read_text()
        return int(next(line for line in text.splitlines() if line.startswith(key)).split()[1])

    out = {}
    for path in map(Path, sys.argv[1:]):
        Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
        base = status("VmRSS")
        start = time.process_time()
        try:
            if path.suffix == ".prototxt":
                read_prototxt(path)
            else:
                read_caffemodel(path).close()
            said = ["", ""]
        except Exception as error:
            said = [type(error).__name__, str(error)]
        out[path.name] = [*said, time.process_time() - start, (status("VmHWM") - base) / 1024]
    print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def verdicts(emit, tmp_path_factory) -> dict[str, tuple[str, str, float, float]]:
    """Every bad file read in one child process: error class, message, seconds, MiB above the state before."""
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("memory is measured through /proc")
    folder = tmp_path_factory.mktemp("hostile")
    paths = []
    for name, (build, _) in BAD_MODELS.items():
        (folder / name).write_bytes(build(emit))
        paths.append(str(folder / name))
    for name, (text, _) in BAD_TEXTS.items():
        (folder / name).write_text(text())
        paths.append(str(folder / name))
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *paths], check=False, capture_output=True, text=True, timeout=300
    )
    for path in paths:
        Path(path).unlink()
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", [*BAD_MODELS, *BAD_TEXTS])
def test_bad_file(verdicts, name):
    kind, message, seconds, mebibytes = verdicts[name]
    wanted = {**BAD_MODELS, **BAD_TEXTS}[name][1]
    if wanted:
        assert kind == "FormatError", message
        assert wanted in message and f"/{name}" in message
    assert kind in ("", "FormatError"), message
    assert mebibytes <= 64, f"{mebibytes:.0f} MiB"
    assert seconds < 2  # of processor time


def test_every_damage_has_its_own_words():
    assert len(BAD_MODELS) >= 30 and len({text for _, text in BAD_MODELS.values()}) >= 30


@pytest.mark.parametrize("make", ["folder", "pipe", "device", "locked_name"])
def test_what_is_no_file(tmp_path, make):
    path = {"device": Path("/dev/zero"), "locked_name": tmp_path / ("n" * 300)}.get(make, tmp_path / make)
    if make == "folder":
        path.mkdir()
    elif make == "pipe":
        os.mkfifo(path)
    with pytest.raises(FormatError, match=r"not a regular file|cannot be opened") as caught:
        read_caffemodel(path)
    assert caught.value.where == str(path)


def test_truncation_at_every_offset(emit, save):
    """Cuts between two layers leave a well-formed shorter net, which only the network's tensor list can tell."""
    data = emit.small()
    ends = {len(emit.sub(1, "small"))}
    at = ends.copy().pop()
    while at < len(data):
        at += 3 + data[at + 2]  # tag of two bytes, length of one: every layer here is shorter than 128 bytes
        ends.add(at)
    assert max(ends) == len(data) and len(ends) == 5
    for cut in range(len(data)):
        path = save(data[:cut])
        if cut in ends and cut > min(ends):
            assert len(read_caffemodel(path)) < 4
            continue
        with pytest.raises(FormatError) as caught:
            read_caffemodel(path)
        assert str(path) in str(caught.value.where)


@pytest.mark.shared
def test_200_truncations_of_a_real_file(shared: Path, tmp_path: Path):
    data = (shared / "weights/res10_face_ssd/res10_300x300_ssd_iter_140000.caffemodel").read_bytes()
    path = tmp_path / "cut.caffemodel"
    path.write_bytes(data)
    for i in range(200, 0, -1):
        os.truncate(path, len(data) * i // 201 + i % 7)
        with pytest.raises(FormatError, match=r"truncated|cut off") as caught:
            read_caffemodel(path)
        assert "offset " in str(caught.value.where)
