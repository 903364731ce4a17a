"""Progress as somebody at a terminal sees it: shown when the work is long, on stderr, and gone afterwards."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCRIPT = """
import time
from ssdconv.commands import output
output.SLOW_SECONDS = {slow}
with output.{call} as told:
    for i in range(4):
        time.sleep(0.1)
        if told:
            told({arguments})
print("result")
"""


def at_a_terminal(code: str) -> tuple[str, str]:
    """(stdout through a pipe, stderr as a terminal got it)."""
    leader, follower = os.openpty()
    variables = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=follower, text=True, env=variables, check=True
    )
    os.write(follower, b"\0end")
    os.close(follower)
    shown = b""
    while not shown.endswith(b"\0end"):
        shown += os.read(leader, 65536)
    os.close(leader)
    return done.stdout, shown.decode()


@pytest.mark.parametrize(
    ("call", "arguments"),
    [("working('busy with it')", ""), ("counting('busy with it', 4)", ""), ("following()", "'busy with it', i, 4")],
)
def test_long_work_is_shown_on_stderr(call: str, arguments: str) -> None:
    out, shown = at_a_terminal(SCRIPT.format(slow=0.0, call=call, arguments=arguments))
    assert out == "result\n"
    assert "busy with it" in shown


@pytest.mark.parametrize(("call", "arguments"), [("working('busy')", ""), ("following()", "'busy', i, 4")])
def test_quick_work_is_not(call: str, arguments: str) -> None:
    out, shown = at_a_terminal(SCRIPT.format(slow=60.0, call=call, arguments=arguments))
    assert out == "result\n"
    assert "busy" not in shown
