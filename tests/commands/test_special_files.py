"""Pipes, devices, sockets and folders in the place of every argument that takes a path, of every verb: refused at once.

The cases come from the parsers, so that a new option is among them without anybody's doing. An option is taken for a path unless its
metavar says that it is something else.
"""

from __future__ import annotations

import argparse
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ssdconv import cli
from ssdconv.commands.verb import verb_parser

NO_PATHS = {"NAME", "NETWORK", "WORD", "TEXT", "ID", "STAGE", "KEY=VALUE", "N", "S", "RATE", "SCORE", "K"}
NO_PATH_OPTIONS = {"--source", "--device", "--dataset", "--name"}
"""Of the verbs that give them no metavar, or a name's."""
INPUT_FILES = {"FILE", "IMG", "SRC", "WEIGHTS"}
"""Metavars of files that are read; a folder is none."""
WRITTEN = {("export", "--onnx")}
GOOD = "good"
NEEDS: dict[str, list[str]] = {
    "gluon2pt-spec": [GOOD],
    "gluon2pt-symbol": [GOOD],
    "inspect-prototxt": ["--spec-template"],
    "verify-positional": ["--source", GOOD],
    "verify-source": [GOOD],
    "verify-prototxt": [GOOD, "--source", GOOD],
    "verify-symbol": [GOOD, "--source", GOOD],
    "verify-image": ["--weights", GOOD, "--source", GOOD],
    "verify-weights": ["--source", GOOD],
    "verify-annotations": [GOOD],
    "verify-zoo": ["--dataset", "voc07", "--network", "x"],
    "export-weights": ["--onnx", "x.onnx"],
    "export-image": ["--onnx", "x.onnx"],
    "export-parity": ["--hub", "x"],
    "train-config": ["--out", "x"],
    "train-finetune": ["--out", "x"],
    "train-backbone_weights": ["--out", "x"],
    "train-annotations": ["--out", "x", "--network", "ssd300_voc"],
    "zoo-add-file": ["--zoo", "x.json"],
    "zoo-add-prototxt": ["--zoo", "x.json"],
}
"""What else a command line needs before it looks at the argument."""
SPECIAL = ("pipe", "zero", "socket")


def actions() -> Iterator[tuple[list[str], argparse.ArgumentParser]]:
    """The words of every verb, with its actions, and the parser that parses what follows."""
    for name, verb in cli.verbs().items():
        parser = verb_parser(verb)
        below = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
        if below:
            for action, sub in below[0].choices.items():
                yield [name, action], sub
        else:
            yield [name], parser


def takes_path(action: argparse.Action) -> bool:
    if isinstance(action, argparse._SubParsersAction) or action.nargs == 0 or action.choices or action.type is not None:
        return False
    metavar = str(action.metavar or "")
    return not (
        metavar in NO_PATHS or (not metavar and set(action.option_strings) & NO_PATH_OPTIONS) or metavar == "URL"
    )


def line_with(
    words: list[str], parser: argparse.ArgumentParser, action: argparse.Action, bad: str, good: str
) -> list[str]:
    """A complete command line with ``bad`` for one argument and ``good`` for the others that it needs."""
    line = list(words)
    groups = [g._group_actions for g in parser._mutually_exclusive_groups if g.required]
    needed = [a for a in parser._actions if a.option_strings and a.required]
    needed += [next((a for a in g if a is action), g[0]) for g in groups]
    for one in dict.fromkeys([*needed, *([action] if action.option_strings else [])]):
        line += [one.option_strings[-1], bad if one is action else good]
    positionals = [a for a in parser._actions if not a.option_strings]
    last = max((i for i, a in enumerate(positionals) if a is action or a.nargs not in ("?", "*")), default=-1)
    values = [bad if a is action else next(iter(a.choices)) if a.choices else good for a in positionals[: last + 1]]
    return [*words, *values, *line[len(words) :]]


CASES = [
    pytest.param(words, action.dest, id=f"{'-'.join(words)}-{action.dest}")
    for words, parser in actions()
    for action in parser._actions
    if takes_path(action)
]


@pytest.fixture(scope="module", autouse=True)
def warm() -> None:
    """What a verb imports does not count as its time."""
    import torch  # noqa: F401


@pytest.fixture
def special(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A pipe, a device without end, a socket, a folder, and a file of nonsense."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "good").write_bytes(b"nonsense")
    before = Path.cwd()
    os.chdir(tmp_path)  # a socket's path may have about a hundred bytes
    with socket.socket(socket.AF_UNIX) as held:
        held.bind("socket")
        yield {"zero": "/dev/zero", **{name: str(tmp_path / name) for name in ("pipe", "socket", "folder", "good")}}
    os.chdir(before)


def found(words: list[str], dest: str) -> tuple[argparse.ArgumentParser, argparse.Action]:
    parser = next(p for w, p in actions() if w == words)
    return parser, next(a for a in parser._actions if a.dest == dest)


def test_the_cases_are_all_there() -> None:
    """A few that must be among them, and what must not."""
    known = {case.id for case in CASES}
    assert {
        "convert-src",
        "convert-dst",
        "detect-images",
        "train-config",
        "verify-report",
        "zoo-add-file",
        "compare-b",
    } <= known
    assert {"pt2caffe-dst", "caffe2pt-spec", "export-onnx", "train-preview", "oracle-add-original-checkout"} <= known
    assert not any("threshold" in one or "device" in one or "-seed" in one for one in known)
    assert len(known) > 90


@pytest.mark.parametrize(("words", "dest"), CASES)
def test_pipes_devices_and_sockets(
    words: list[str], dest: str, special: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    parser, action = found(words, dest)
    for kind in SPECIAL:
        line = line_with(words, parser, action, special[kind], special["good"])
        start = time.monotonic()
        assert cli.main(line) == 3, (line, capsys.readouterr().err)
        told = capsys.readouterr().err
        assert special[kind] in told and "pipe, device or socket" in told, (line, told)
        assert time.monotonic() - start < 2


@pytest.mark.parametrize(("words", "dest"), CASES)
def test_folders_in_the_place_of_files(
    words: list[str], dest: str, special: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    parser, action = found(words, dest)
    if str(action.metavar) not in INPUT_FILES or (words[-1], f"--{dest}") in WRITTEN:
        return
    line = line_with(words, parser, action, special["folder"], special["good"])
    line += NEEDS.get("-".join([*words, dest]), [])
    if words == ["detect"] and dest == "zoo":
        line = ["detect", special["good"], "--network", "x", "--zoo", special["folder"]]
    start = time.process_time()
    code, told = cli.main(line), capsys.readouterr().err
    assert time.process_time() - start < 2
    assert code == 3 and special["folder"] in told, (line, told)
