"""``ssdconv zoo verify`` and ``ssdconv zoo add``: what is cached is what it should be; a record of a file of your own."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssdconv.commands.arguments import existing
from ssdconv.commands.output import following, print_json, working
from ssdconv.errors import EXIT_OK, EXIT_PARITY, MissingError, UsageError

if TYPE_CHECKING:
    from ssdconv.zoo import Entry


def configure_verify(parser: ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: everything that is cached")
    parser.add_argument("--no-parity", action="store_true", help="hash only; do not run the source framework")
    parser.add_argument("--offline", action="store_true", help="touch no network (nothing here does anyway)")


def configure_add(parser: ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="weight file of any source that ssdconv converts")
    parser.add_argument("--name", required=True, help="what to call it")
    parser.add_argument("--source", help="its source, where the file cannot tell")
    parser.add_argument("--network", metavar="NETWORK", help="its network (default: recognised)")
    parser.add_argument("--prototxt", metavar="FILE", help="Caffe definition that belongs to it")
    parser.add_argument("--channel-order", choices=("RGB", "BGR"), help="where the file cannot tell")
    parser.add_argument("--url", nargs="+", default=[], metavar="URL", help="https addresses that have the file")
    parser.add_argument("--classes", default="own", metavar="WORD", help="what it detects: voc, coco, … (default: own)")
    parser.add_argument("--licence", default="not stated", metavar="TEXT", help="licence of the weights")
    parser.add_argument("--paper", default="none", metavar="TEXT", help="where the network is described")


def run_verify(args: Namespace) -> int:
    from ssdconv.zoo import find, local

    zoo = Path(args.zoo) if args.zoo else None
    results = [_check(find(name, zoo), args) for name in args.names or local(zoo)]
    if args.json:
        print_json(results)
    elif not results:
        print("nothing is cached")
    else:
        for result in results:
            print(f"{result['name']}: {'ok' if result['ok'] else 'NOT OK'}")
            print("\n".join(f"  {label}: {text}" for label, text in result["checks"].items()))
    return EXIT_OK if all(result["ok"] for result in results) else EXIT_PARITY


def _check(entry: Entry, args: Namespace) -> dict[str, Any]:
    """Every file against record and lock file, the checkpoint against its own sum and the source framework."""
    from ssdconv.fetch.digest import digests
    from ssdconv.fetch.store import wanted
    from ssdconv.zoo import checkpoint_path, intact, known_digests

    name, ok, checks = entry.record.name, True, {}
    for file in entry.files:
        path = entry.place.folder / file.name
        if not path.is_file():
            raise MissingError(f"{file.name} is not cached", where=name, hint=f"ssdconv zoo download {name}")
        expected, pin = wanted(file, entry.place)
        problem = expected.problem(path.stat().st_size, digests(path, expected.algorithms))
        told = {"published": "the record", "first use": "the first download"}.get(
            pin.trust if pin else "", "nothing yet"
        )
        checks[file.name] = f"sha256 compared with {told}: equal" if problem is None else f"DAMAGED: {problem}"
        ok &= problem is None
    if not ok:
        checks["next step"] = f"remove the damaged file in {entry.place.folder}, then `ssdconv zoo download {name}`"
        return {"name": name, "ok": False, "checks": checks}
    sums = known_digests(entry)
    made = checkpoint_path(entry, sums) if sums is not None else None
    if made is None or not made.is_file():
        checks["converted"] = "not yet"
        return {"name": name, "ok": ok, "checks": checks}
    good = intact(made) is not None
    checks["converted"] = "sha256 as written" if good else "DAMAGED: it is made again when it is next used"
    if good and not args.no_parity:
        passed, checks["layers"] = _parity(entry, made)
        good &= passed
    return {"name": name, "ok": ok and good, "checks": checks}


def _parity(entry: Entry, path: Path) -> tuple[bool, str]:
    """Whether nothing speaks against the checkpoint, and what the comparison with the source framework said."""
    from ssdconv.parity.verify import verify

    files = [entry.place.folder / file.name for file in entry.files]
    try:
        with following() as progress:
            report = verify(path, files[0], prototxt=files[1] if len(files) > 1 else None, progress=progress)
    except MissingError as error:
        return True, f"not run: {error.what}" + (f" ({error.hint})" if error.hint else "")
    probes = [probe for fed in report.inputs for probe in fed.probes]
    agree = sum(map(bool, probes))
    verdict = "agree, and the check FAILED" if report.outcome == "failed" else "agree"
    if report.gaps:
        verdict += f", not compared: {', '.join(gap.part for gap in report.gaps)}"
    return report.outcome != "failed", f"{agree} of {len(probes)} probes {verdict} ({report.oracle})"


def run_add(args: Namespace) -> int:
    if not args.zoo:
        raise UsageError("say which zoo file to write", hint="--zoo my.json; it is made where it does not exist")
    file, zoo = existing(args.file), Path(args.zoo)
    prototxt = existing(args.prototxt) if args.prototxt else None
    with working(f"reading {file.name}"):
        record = _record(args, file, prototxt, zoo)
    _append(zoo, record)
    if args.json:
        print_json(record)
    else:
        print(f"{record['name']}: {record['network']} of {record['source']}, {record['num_classes']} classes")
        print(f"sha256 {record['file']['checksum']['value']}")
        print(f"wrote {zoo}; use it: ssdconv detect photo.jpg --network {record['name']} --zoo {zoo}")
    return EXIT_OK


def _record(args: Namespace, file: Path, prototxt: Path | None, zoo: Path) -> dict[str, Any]:
    from ssdconv.converters.convert import open_source
    from ssdconv.converters.plan import Request

    wish = Request(args.network, None, prototxt, args.channel_order)
    opened = open_source(file, args.source, wish)
    with opened.table:
        config = opened.plan.config
    record: dict[str, Any] = {
        "name": args.name,
        "source": opened.source.name,
        "network": config.name,
        "num_classes": config.num_classes,
        "dataset": args.classes,
        "input": list(config.pixels.size),
        "file": _file(file, zoo, args.url),
        "licence": {"title": args.licence},
        "paper": {"title": args.paper},
    }
    if prototxt is not None:
        record["prototxt"] = _file(prototxt, zoo, [])
    if args.channel_order is not None:
        record["channel_order"] = args.channel_order
    return record


def _file(file: Path, zoo: Path, urls: list[str]) -> dict[str, Any]:
    from ssdconv.fetch.digest import sha256

    here = os.path.relpath(file.resolve(), zoo.resolve().parent)
    origins = [*urls, f"file:{Path(here).as_posix()}"]
    return {
        "name": file.name,
        "origins": [{"url": url, "kind": "release"} for url in origins],
        "size": file.stat().st_size,
        "checksum": {"algorithm": "sha256", "value": sha256(file), "publisher": "who added it to this zoo file"},
    }


def _append(zoo: Path, record: dict[str, Any]) -> None:
    import json

    import msgspec

    from ssdconv.fetch.record import VERSION, Record, read
    from ssdconv.ssd_ref.files import atomic_path, locked

    try:
        msgspec.convert(record, Record)
    except msgspec.ValidationError as error:
        raise UsageError(f"this cannot be a record: {error}") from None
    with locked(zoo.with_name(f".{zoo.name}.lock")):
        held = [msgspec.to_builtins(r) for r in read(zoo)] if zoo.exists() else []
        if any(r["name"] == record["name"] for r in held):
            raise UsageError(f"there is a {record['name']!r} already", where=str(zoo), hint="choose another --name")
        text = json.dumps({"version": VERSION, "records": [*held, record]}, indent=1, ensure_ascii=False)
        with atomic_path(zoo) as temporary:
            temporary.write_text(text + "\n")
