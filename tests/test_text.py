"""Nothing that was not written here reaches a terminal raw."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import unicodedata
from argparse import Namespace

import pytest
from rich.table import Table
from rich.text import Text

from ssdconv import cli
from ssdconv.commands.output import print_json
from ssdconv.commands.verb import Verb
from ssdconv.errors import FormatError
from ssdconv.text import console, guarded, printable, printable_json

NASTY = "a\x1b[2Jb\x07c\rd\x9be\u202ef\u2066g\u200bh\ud800i\x7fj"


def hidden(text: str) -> list[str]:
    """Characters that a terminal obeys instead of showing them, or that hide or turn others."""
    return [c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") and c != "\n"]


def test_every_control_and_format_character_is_written_out() -> None:
    everything = "".join(map(chr, range(0x10000)))
    left = {c for c in hidden(printable(everything)) if unicodedata.category(c) != "Cf"}
    assert not left
    assert hidden(printable(NASTY)) == []
    assert printable("naïve 日本 ✓ a\nb") == "naïve 日本 ✓ a\\x0ab"
    assert printable("a\nb\tc", lines=True) == "a\nb\tc"


def test_json_stays_the_same_data() -> None:
    text = json.dumps({"name": NASTY}, ensure_ascii=False)
    assert hidden(printable_json(text)) == []
    assert json.loads(printable_json(text)) == {"name": NASTY}


def test_an_error_with_nasty_names() -> None:
    assert hidden(str(FormatError(NASTY, where=NASTY + "\n", expected=NASTY, got=NASTY, hint=NASTY))) == []


@pytest.mark.parametrize("as_json", [False, True])
def test_a_verb_that_prints_names_as_they_are(
    as_json: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(args: Namespace) -> int:
        print_json({"name": NASTY}) if as_json else print(NASTY)
        print(NASTY, file=sys.stderr)
        raise FormatError(NASTY)

    verb = Verb("planted", "use", "of the tests", (), lambda parser: None, run)
    monkeypatch.setattr(cli, "verbs", lambda: {"planted": verb})
    assert cli.main(["planted"]) == 3
    captured = capsys.readouterr()
    assert hidden(captured.out) == hidden(captured.err) == []
    if as_json:
        assert json.loads(captured.out) == {"name": NASTY}


def test_tables_keep_their_colours_and_lose_the_names_own(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    with guarded():
        out = console()
        table = Table()
        table.add_column("name")
        table.add_row(Text(NASTY, "bold red"))
        out.print(table)
        out.print(Text(NASTY, "green"))
    shown = stream.getvalue()
    assert "\x1b[" in shown
    assert "\x1b[2J" not in shown and "\\x1b[2J" in shown.replace("\n", "")
    assert not [c for c in hidden(shown) if c != "\x1b"]


def test_a_file_name_on_the_command_line() -> None:
    command = [sys.executable, "-m", "ssdconv", "inspect", "no\x1b]0;title\x07such"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 4 and hidden(done.stdout + done.stderr) == []
