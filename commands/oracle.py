"""``ssdconv oracle``: install, list and remove the source frameworks that live in interpreters of their own."""

from __future__ import annotations

import sys
from argparse import SUPPRESS, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssdconv.commands.output import print_json, table, working
from ssdconv.commands.verb import Group
from ssdconv.errors import EXIT_OK

if TYPE_CHECKING:
    from ssdconv.parity.oracles.environments import State

NAME = "oracle"
GROUP: Group = "housekeeping"
HELP = "install, list or remove source frameworks to compare with, each in an interpreter of its own; add projects' own code"
EXAMPLES: tuple[str, ...] = (
    "ssdconv oracle list",
    "ssdconv oracle install gluon",
    "ssdconv oracle remove gluon --json",
    "ssdconv oracle add-original ssd.pytorch ~/src/ssd.pytorch",
    "ssdconv oracle remove-original ssd.pytorch",
)


def configure(parser: ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, text in (
        ("install", "make the interpreter from pinned packages whose hashes are checked; nothing where it is there"),
        ("list", "what there is, what is installed, and where"),
        ("remove", "delete the interpreter and older versions of it"),
        ("add-original", "record a checkout of a project's own code; `verify --oracle original` runs that code"),
        ("remove-original", "forget a checkout; the folder stays"),
    ):
        action = actions.add_parser(
            name, help=text, description=f"{text[0].upper()}{text[1:]}.", allow_abbrev=False,
            epilog="examples:\n" + "\n".join(f"  {line}" for line in EXAMPLES if f" {name} " in f"{line} "),
            formatter_class=RawDescriptionHelpFormatter,
        )  # fmt: skip
        if name != "list":
            action.add_argument("name", metavar="NAME", help="which one, as `ssdconv oracle list` calls it")
        if name == "add-original":
            action.add_argument("checkout", metavar="CHECKOUT", help="folder of the project, as `git clone` made it")
        action.add_argument("--json", action="store_true", default=SUPPRESS, help="print the result as JSON on stdout")
        action.add_argument("--debug", action="store_true", default=SUPPRESS, help="show the traceback of an error")


def run(args: Namespace) -> int:
    actions = {"install": _install, "list": _list, "remove": _remove}
    return (actions | {"add-original": _add_original, "remove-original": _remove_original})[args.action](args)


def _install(args: Namespace) -> int:
    from ssdconv.parity.oracles.environments import environment, install, state

    before = state(environment(args.name).name)
    with working(f"installing {before.title}"):
        after = install(args.name, lambda step: print(f"{args.name}: {step}", file=sys.stderr))
    if args.json:
        print_json({**_as_json(after), "was_installed": before.installed})
    else:
        print(f"{after.name}: {after.title} {'was' if before.installed else 'is now'} in {after.folder}")
    return EXIT_OK


def _list(args: Namespace) -> int:
    from ssdconv.parity.oracles.environments import states, tidy
    from ssdconv.parity.oracles.originals import ORIGINALS, recorded

    tidy()
    listed = states()
    if args.json:
        print_json(
            [{"kind": "framework", **_as_json(state)} for state in listed]
            + [{"kind": "original", **_original_json(name)} for name in ORIGINALS]
        )
        return EXIT_OK
    rows = [(s.name, s.title, "yes" if s.installed else "no", s.folder if s.installed else s.next_step) for s in listed]
    print(table(rows, ("oracle", "what is in it", "installed", "where, or how")))
    added = [(name, found.said if (found := recorded(name)) else o.project, found.path if found else "not added")
             for name, o in ORIGINALS.items()]  # fmt: skip
    print("\n" + table(added, ("original", "project", "checkout (`ssdconv oracle add-original NAME CHECKOUT`)")))
    print("\nopencv, the oracle of Caffe networks, needs no installation; `ssdconv doctor` tries them all")
    return EXIT_OK


def _remove(args: Namespace) -> int:
    from ssdconv.parity.oracles.environments import remove, state

    folder = state(args.name).folder
    removed = remove(args.name)
    if args.json:
        print_json({"name": args.name, "removed": removed, "folder": folder})
    else:
        print(f"{args.name}: removed from {folder.parent}" if removed else f"{args.name}: was not installed")
    return EXIT_OK


def _add_original(args: Namespace) -> int:
    from ssdconv.parity.oracles.environments import state
    from ssdconv.parity.oracles.originals import add, original

    found, wanted = add(args.name, Path(args.checkout).expanduser()), original(args.name)
    needs = state(wanted.worker.environment)
    if args.json:
        print_json(_original_json(args.name))
        return EXIT_OK
    print(f"{found.name}: {found.said}, {len(found.files)} Python files in {found.path}")
    if found.commit != wanted.commit:
        print(f"note: this was tried with {wanted.commit[:7]}; a verdict names the commit that ran", file=sys.stderr)
    print("`ssdconv verify OUT --source FILE --oracle original` runs this code")
    if not needs.installed:
        print(f"it needs {needs.title}: `{needs.next_step}`")
    return EXIT_OK


def _remove_original(args: Namespace) -> int:
    from ssdconv.parity.oracles.originals import forget

    removed = forget(args.name)
    if args.json:
        print_json({"name": args.name, "removed": removed})
    else:
        print(f"{args.name}: {'forgotten' if removed else 'was not added'}")
    return EXIT_OK


def _original_json(name: str) -> dict[str, Any]:
    from ssdconv.parity.oracles.originals import digest_of, original, recorded

    found, project = recorded(name), original(name)
    return {
        "name": name,
        "project": project.project,
        "tried_with": project.commit,
        "environment": project.worker.environment,
        "added": found is not None,
        "checkout": found.path if found else None,
        "commit": (found.commit or None) if found else None,
        "changed": list(found.changed) if found else [],
        "files_sha256": digest_of(found.files) if found else None,
    }


def _as_json(state: State) -> dict[str, Any]:
    return {
        "name": state.name,
        "title": state.title,
        "installed": state.installed,
        "folder": state.folder,
        "reason": state.reason or None,
        "next_step": state.next_step or None,
    }
