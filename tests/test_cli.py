"""The command as its users meet it: exit codes, clean streams, helpful errors."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path

import pytest

import ssdconv
from ssdconv import cli, errors
from ssdconv.commands.verb import GROUPS, Verb

VERBS = list(cli.verbs().values())


def every_verb(test: Callable[..., None]) -> Callable[..., None]:
    return pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)(test)


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Namespace], int]], None]:
    """Adds a verb ``planted`` that does what the test wants."""

    def configure(parser: ArgumentParser) -> None:
        parser.add_argument("rest", nargs="*")

    def plant(run: Callable[[Namespace], int]) -> None:
        verb = Verb("planted", "use", "a verb of the tests", ("ssdconv planted",), configure, run)
        table = {**cli.verbs(), "planted": verb}
        monkeypatch.setattr(cli, "verbs", lambda: table)

    return plant


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"ssdconv {ssdconv.__version__}\n"
    assert cli.main(["--version", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"ssdconv": ssdconv.__version__}


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_help_lists_every_verb_under_its_group(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 0
    out = capsys.readouterr().out
    headings = [line[:-1] for line in out.splitlines() if line.endswith(":") and line[:-1] in GROUPS]
    assert headings == [g for g in GROUPS if any(v.group == g for v in VERBS)]
    group = ""
    listed = {}
    for line in out.splitlines():
        if line.removesuffix(":") in GROUPS:
            group = line[:-1]
        elif line.startswith("  ") and group:
            listed[line.split()[0]] = group
        elif not line:
            group = ""
    assert listed == {verb.name: verb.group for verb in VERBS}


@every_verb
def test_help_of_a_verb_has_json_and_examples(verb: Verb, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([verb.name, "--help"]) == 0
    out = capsys.readouterr().out
    assert "--json" in out
    assert verb.examples
    for example in verb.examples:
        assert example in out
        found, _ = cli.parse(example.split()[1:])
        assert example.split()[0] == "ssdconv"
        assert found.name == verb.name


@pytest.mark.parametrize(
    ("typed", "meant"), [("verfy", "verify"), ("Inspect", "inspect"), ("cafe2pt", "caffe2pt"), ("netwroks", "networks")]
)
def test_a_misspelt_verb_is_suggested(typed: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([typed]) == errors.EXIT_USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert f"`ssdconv {meant}`" in err


def test_a_misspelt_option_is_suggested(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["caffe2pt", "a", "b", "--prototext", "c"]) == errors.EXIT_USAGE
    assert "--prototxt" in capsys.readouterr().err


def test_options_are_not_abbreviated(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["networks", "--sour", "caffe"]) == errors.EXIT_USAGE
    assert "--source" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["1.5", "-0.1", "much", "nan"])
def test_a_threshold_outside_0_to_1_is_refused(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["detect", "a.jpg", "--weights", "b", f"--threshold={value}"]) == errors.EXIT_USAGE
    assert value in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ParityError("differs"), 1),
        (errors.UsageError("what?"), 2),
        (errors.FormatError("bad"), 3),
        (errors.UnsafeFileError("unsafe"), 3),
        (errors.MappingError("no place"), 3),
        (errors.OutputError("full"), 3),
        (errors.MissingError("absent"), 4),
        (errors.DownloadError("cut"), 4),
        (FileNotFoundError(2, "No such file or directory", "lost.bin"), 3),
        (OSError(28, "No space left on device", "out.pth"), 3),
        (MemoryError(), 3),
        (ModuleNotFoundError("no", name="torch"), 4),
        (KeyboardInterrupt(), 130),
        (RuntimeError("never"), 70),
        (ModuleNotFoundError("no", name="ssdconv.lost"), 70),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_every_error_has_its_exit_code_and_one_message(
    error: BaseException, code: int, planted: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    def run(args: Namespace) -> int:
        raise error

    planted(run)
    assert cli.main(["planted"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert "Traceback" not in err
    assert len(err.splitlines()) <= 2


def test_a_bug_shows_its_traceback_with_debug_only(
    planted: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    planted(lambda args: {}["absent"])
    assert cli.main(["planted"]) == 70
    assert "--debug" in capsys.readouterr().err
    assert cli.main(["planted", "--debug"]) == 70
    assert "Traceback" in capsys.readouterr().err


def test_json_errors_are_json_on_stdout(planted: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    def run(args: Namespace) -> int:
        raise errors.MappingError("no place", where="x.caffemodel", expected=(3,), got=(4,), hint="look there")

    planted(run)
    assert cli.main(["planted", "--json"]) == 3
    out, err = capsys.readouterr()
    assert json.loads(out) == {
        "error": {
            "code": "MappingError",
            "what": "no place",
            "where": "x.caffemodel",
            "expected": "(3,)",
            "got": "(4,)",
            "hint": "look there",
            "exit_code": 3,
        }
    }
    assert "no place" in err


@pytest.mark.parametrize("arguments", [["verfy", "--json"], ["verify", "--json"], ["inspect", "absent", "--json"]])
def test_usage_and_input_errors_are_json_too(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.main(arguments)
    error = json.loads(capsys.readouterr().out)["error"]
    assert code == error["exit_code"] != 0
    assert error["what"]


def test_the_exit_code_of_a_verb_is_passed_on(planted: Callable[..., None]) -> None:
    planted(lambda args: 1)
    assert cli.main(["planted"]) == 1


def child(code: str, **kwargs: object) -> subprocess.Popen[str]:
    """A process whose ``networks`` verb runs ``code`` (the body of ``run(args)``)."""
    script = (
        # A job in the background ignores SIGINT, and so would this child of it.
        "import signal, sys, time\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from ssdconv import cli\nfrom ssdconv.commands import networks\n"
        f"def run(args):\n    {code}\n    return 0\n"
        "networks.run = run\nsys.exit(cli.main(['networks']))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)])
def test_signals_end_with_one_line_and_clean_up(number: signal.Signals, code: int, tmp_path: Path) -> None:
    kept = tmp_path / "temporary"
    process = child(
        f"import pathlib; p = pathlib.Path({str(kept)!r}); p.touch()\n"
        "    try: print('ready', flush=True); time.sleep(30)\n    finally: time.sleep(0.3); p.unlink()"
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.05)
    process.send_signal(number)
    time.sleep(0.05)
    process.send_signal(signal.SIGTERM)  # a second one finds the first one's cleaning under way
    _, err = process.communicate(timeout=20)
    assert process.returncode == code
    assert len(err.splitlines()) == 1
    assert not kept.exists()


def test_a_closed_pipe_is_no_error() -> None:
    process = child("\n    for i in range(100000): print('a line', i)")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait(20) == 141


@pytest.mark.parametrize(("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_colour_on_a_terminal_unless_no_color(environment: dict[str, str], coloured: bool) -> None:
    leader, follower = os.openpty()
    variables = {k: v for k, v in os.environ.items() if k != "NO_COLOR"} | environment
    command = [sys.executable, "-m", "ssdconv", "verfy"]
    done = subprocess.run(command, stderr=follower, env=variables, check=False)
    os.close(follower)
    shown = os.read(leader, 10_000).decode()
    os.close(leader)
    assert done.returncode == errors.EXIT_USAGE
    assert "there is no command" in shown
    assert ("\x1b[" in shown) is coloured
