"""Names of strangers in Markdown reports are text: no HTML, no table cells, no links, no control characters."""

from __future__ import annotations

import pytest

from ssdconv.text import Markdown, markdown_code, markdown_table, markdown_text

NASTY = "a|b <script>alert(1)</script> `x` [y](http://z) \x1b[2J\nnext &amp; \u202eend"


@pytest.mark.parametrize("shown", [markdown_text(NASTY), markdown_code(NASTY)])
def test_nothing_is_markup(shown: str) -> None:
    assert "\n" not in shown and "\x1b" not in shown and "\u202e" not in shown
    assert "|" not in shown.replace("\\|", "")
    if not shown.startswith("`"):
        assert "<" not in shown and "[y]" not in shown and "&amp;amp;" in shown
    else:
        assert shown.count("`") == 2


def test_a_backslash_of_theirs_does_not_undo_ours() -> None:
    assert markdown_text(r"\[x](y) *b* _i_") == r"\\\[x\](y) \*b\* \_i\_"


def test_cells_are_text_unless_they_are_markdown() -> None:
    table = markdown_table(("a", "b"), [("x|y", Markdown("**z**")), (1, markdown_code("c|d"))])
    assert table.splitlines() == ["| a | b |", "| --- | ---: |", r"| x\|y | **z** |", "| 1 | `c¦d` |"]
