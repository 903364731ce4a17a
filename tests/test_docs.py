"""The documents say what the program does: commands parse, Python code names what exists, tables are complete."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest

import ssdconv
from ssdconv import cli, errors
from ssdconv.converters.registry import SOURCES

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
README = (ROOT / "README.md").read_text()


def fences(text: str, language: str) -> list[str]:
    """Contents of the code fences of a language ("" for plain ones)."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def command_lines(document: Path) -> list[str]:
    """Lines in fences that start with ``ssdconv`` (or ``$ ssdconv``) and are no output of one."""
    lines = []
    for fence in re.findall(r"^```\w*\n(.*?)^```", document.read_text(), re.MULTILINE | re.DOTALL):
        for line in fence.replace("\\\n", " ").splitlines():
            stripped = line.removeprefix("$ ")
            if stripped.startswith("ssdconv "):
                lines.append(stripped.split("  #")[0])
    return lines


LINES = [(document.name, line) for document in DOCUMENTS for line in command_lines(document)]


def test_there_are_command_lines() -> None:
    assert len(LINES) > 8


@pytest.mark.parametrize(("document", "line"), LINES)
def test_every_command_line_parses(document: str, line: str) -> None:
    words = shlex.split(line)[1:]
    if words[0].startswith("-"):
        assert words[0] in ("--help", "--version")
        return
    cli.parse(words)


def test_every_verb_is_in_the_readme() -> None:
    used = {line.split()[1] for name, line in LINES if name == "README.md"}
    assert used >= set(cli.verbs())


def test_the_table_of_sources_is_the_registry() -> None:
    rows = re.findall(r"^\| [^|]+ \| [^|]+ \| `(\w+)` \| `(\w+)` \|", README, re.MULTILINE)
    assert sorted(rows) == sorted((source.verb, source.reverse) for source in SOURCES.values())


def test_the_table_of_exit_codes_is_complete() -> None:
    told = {int(code) for code in re.findall(r"^\| (\d+) \|", README, re.MULTILINE)}
    known = {value for name, value in vars(errors).items() if name.startswith("EXIT_")} | {cli.EXIT_INTERNAL}
    assert told == known


def test_python_examples_use_what_exists() -> None:
    examples = fences(README, "python")
    assert examples
    for example in examples:
        tree = ast.parse(example)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "ssdconv":
                assert hasattr(ssdconv, node.attr), f"ssdconv.{node.attr} is in the README"


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    phony = set(re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split())  # type: ignore[index]
    assert targets == phony
    told = {t for d in DOCUMENTS for t in re.findall(r"(?:^|`)make ([a-z-]+)", d.read_text(), re.MULTILINE)}
    assert told <= targets
    assert {"demo", "test", "test-all", "bench", "lint"} <= targets


def test_links_to_files_exist() -> None:
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_documents_name_no_place_of_one_machine(document: Path) -> None:
    text = document.read_text()
    assert not re.findall(r"/(?:work|root|home|opt|tmp)/\S+", text)


def test_the_named_tests_exist() -> None:
    """Those of docs/security.md: a name without a folder lies in the folder of the name before."""
    folder = ROOT
    for name in re.findall(r"`([\w/]*test_\w+\.py|tests/[\w/]+/)`", (ROOT / "docs" / "security.md").read_text()):
        path = ROOT / name if "/" in name else folder / name
        assert path.exists(), f"docs/security.md names {name}"
        folder = path.parent
