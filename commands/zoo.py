"""``ssdconv zoo``: the list of known weights; download, check and add them.

To check is to hash every cached file again and to run the source framework beside the converted network; to add is to write a
record of a file of one's own.
"""

from __future__ import annotations

import os
from argparse import SUPPRESS, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssdconv.commands.arguments import add_network_options, existing, zoo_path
from ssdconv.commands.output import following, print_json, table, working
from ssdconv.commands.verb import Group
from ssdconv.errors import EXIT_OK, EXIT_PARITY, MissingError, OutputError, UsageError

if TYPE_CHECKING:
    from ssdconv.zoo import Entry

NAME = "zoo"

GROUP: Group = "use"

HELP = "known weights by name: list, show, download, verify, add"

EXAMPLES: tuple[str, ...] = (
    "ssdconv zoo list --source gluon --dataset voc",
    "ssdconv zoo show res10_300x300_ssd",
    "ssdconv zoo download res10_300x300_ssd",
    "ssdconv zoo download ssd_512_resnet50_v1_voc --mirror https://files.example.org/ssd --json",
    "ssdconv zoo verify res10_300x300_ssd --offline",
    "ssdconv zoo add mine.caffemodel --name mine --prototxt deploy.prototxt --zoo team.json",
)

TRUST = {"published": "the record of the zoo", "first use": "what was recorded at the first download"}


def configure(parser: ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(name: str, text: str) -> ArgumentParser:
        sub = actions.add_parser(
            name, help=text, description=f"{text[0].upper()}{text[1:]}.", allow_abbrev=False,
            formatter_class=RawDescriptionHelpFormatter,
        )  # fmt: skip
        sub.add_argument("--zoo", metavar="FILE", help="a zoo file of your own, beside the built-in one")
        sub.add_argument("--json", action="store_true", default=SUPPRESS, help="print the result as JSON on stdout")
        sub.add_argument("--debug", action="store_true", default=SUPPRESS, help="show the traceback of an error")
        return sub

    listing = action("list", "list the weights: where from, what they score by whom, what is proven, what is cached")
    listing.add_argument("--source", help="only those of one source, such as gluon")
    listing.add_argument("--dataset", help="only those for one set of classes: voc (or voc07), coco, faces")
    listing.add_argument("--cached", action="store_true", help="only what lies on this machine")
    action("show", "show everything known about one set of weights").add_argument("name", metavar="NAME")
    download = action("download", "fetch weights, check them and convert them into the cache")
    download.add_argument("names", nargs="+", metavar="NAME")
    add_network_options(download)
    download.add_argument("--no-convert", action="store_true", help="fetch and check only")
    configure_verify(action("verify", "hash every cached file again, and compare with the source framework"))
    configure_add(action("add", "write a record of a local file into a zoo file of your own"))


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


def run(args: Namespace) -> int:
    actions = {"list": _list, "show": _show, "download": _download, "verify": run_verify, "add": run_add}
    return actions[args.action](args)


def _list(args: Namespace) -> int:
    from ssdconv.errors import UsageError
    from ssdconv.fetch import record
    from ssdconv.ssd_ref.networks.registry import SOURCES
    from ssdconv.zoo import cached, entries

    if args.source is not None and args.source not in SOURCES:
        raise UsageError(f"no source {args.source!r}", expected=f"one of {', '.join(SOURCES)}")
    listed = list(entries(zoo_path(args)).values())
    sets = sorted({e.record.dataset for e in listed})
    dataset = {"voc07": "voc"}.get(args.dataset, args.dataset)
    if dataset is not None and dataset not in sets:
        raise UsageError(f"no weights for {args.dataset!r}", expected=f"one of {', '.join(sets)}")
    rows, data = [], []
    for entry in listed:
        r, state = entry.record, cached(entry)
        if (args.source or r.source) != r.source or (dataset or r.dataset) != r.dataset:
            continue
        size = (state.size or 0) + (state.converted_size or 0)
        if args.cached and not size:
            continue
        shown = f"{size / 1e6:.1f} MB" if size else "–"
        own, proof = record.own_score(r), "–" if not r.parity else record.layers_proven(r)
        address = record.checksum_kind(r) if record.has_address(r) else "no address"
        rows.append((r.name, r.source, r.dataset, f"{r.input[1]}x{r.input[0]}", own, proof, address, shown))
        data.append(_as_json(entry))
    if args.json:
        print_json(data)
        return EXIT_OK
    head = ("name", "source", "classes", "input", "scores (by the source)", "layers proven here", "checksum", "cached")
    print(table(rows, head, right=(7,)))
    total = sum((s.size or 0) + (s.converted_size or 0) for s in map(cached, listed))
    print(f"\n{len(rows)} of {len(listed)} sets of weights; {total / 1e6:.1f} MB cached in all")
    print("accuracy on data sets was not measured here unless `ssdconv zoo show NAME` says so")
    return EXIT_OK


def _as_json(entry: Entry) -> dict[str, Any]:
    import msgspec

    from ssdconv.fetch import record
    from ssdconv.zoo import cached

    r, state = entry.record, cached(entry)
    return {
        **msgspec.to_builtins(r),
        "available": record.has_address(r),
        "published_scores": [row.to_json() for row in record.own_rows(r)],
        "measured_here": {"layers": record.layers_proven(r), "mAP": record.measured_score(r)},
        "cached": {"file": state.original, "bytes": state.size, "converted": state.converted,
                   "converted_bytes": state.converted_size, "trust": state.trust},
    }  # fmt: skip


def _show(args: Namespace) -> int:
    from ssdconv.fetch import record
    from ssdconv.zoo import cached, find

    entry = find(args.name, zoo_path(args))
    if args.json:
        print_json(_as_json(entry))
        return EXIT_OK
    r, state = entry.record, cached(entry)
    given = r.file.checksum
    lines = [
        ("name", r.name),
        ("network", f"{r.network} of {r.source}, input {r.input[1]}x{r.input[0]}, {r.num_classes} classes ({r.dataset})"),
        ("file", f"{r.file.name}, {f'{r.file.size:,} bytes' if r.file.size else 'size not known'}"),
        ("checksum", f"{given.algorithm} {given.value} ({given.publisher})" if given
         else "none was ever published: the first download decides (trust on first use)"),
        *(("from", f"{o.url} ({o.kind}; {f'fetched on {o.fetched}' if o.fetched else 'never fetched by this project'})"
           + (f"; {o.note}" if o.note else "")) for o in r.file.origins),
        *([("prototxt", r.prototxt.name)] if r.prototxt else []),
        ("licence", r.licence.title),
        ("paper", f"{r.paper.title} {r.paper.url or ''}".strip()),
        ("paper says", record.paper_score(r)),
        ("source says", record.own_score(r)),
        *(("", f"{row.text} {row.metric}, {row.dataset}: {row.title}") for row in record.own_rows(r)
          if not row.metric.startswith("AP:")),
        ("layers here", record.layers_proven(r)),
        *(("", f"worst {p.worst} x the rounding floor; {p.tensors} tensors equal bit for bit, {p.detections} detections")
          for p in r.parity),
        *(("", f"on {' and '.join(p.inputs)}; {p.date}, {p.tool}") for p in r.parity),
        *(("", p.headline) for p in r.parity if p.headline),
        *(("", f"{link}: {says}") for p in r.parity for link, says in p.links.items()),
        ("mAP here", record.measured_score(r)),
        ("cached", f"{state.original} ({state.size:,} bytes, {state.trust})" if state.original else "no"),
        ("converted", f"{state.converted} ({state.converted_size:,} bytes)" if state.converted else "no"),
        *([("note", r.note)] if r.note else []),
    ]  # fmt: skip
    print("\n".join(f"{label:>11}  {text}" for label, text in lines))
    return EXIT_OK


def _download(args: Namespace) -> int:
    from ssdconv.zoo import find, first_use, original, weights

    found = []
    for entry in [find(name, zoo_path(args)) for name in args.names]:
        name = entry.record.name
        with following() as progress:
            files = original(entry, offline=args.offline, mirror=args.mirror, progress=progress)
            made = None if args.no_convert else weights(name, zoo=zoo_path(args), offline=True)
        found.append({"name": name, "converted": made, "files": [
            {"file": f.path, "bytes": f.size, "sha256": f.sha256, "origin": f.origin, "trust": f.trust,
             "first_use": f.first_use} for f in files]})  # fmt: skip
        if not args.json:
            for one in files:
                print(f"{name}: {one.path} ({one.size:,} bytes)")
                print(f"  sha256 {one.sha256}, from {one.origin or 'the cache'}")
                print(f"  {first_use(one)}" if one.first_use else f"  checked against {TRUST[one.trust]}")
            print("" if made is None else f"  converted: {made}")
    if args.json:
        print_json(found)
    return EXIT_OK


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
    if zoo.is_dir():
        raise OutputError("this is a folder, not a zoo file", where=args.zoo)
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

    from ssdconv.fetch.record import VERSION, ZooRecord, read
    from ssdconv.ssd_ref.files import atomic_path, locked

    try:
        msgspec.convert(record, ZooRecord)
    except msgspec.ValidationError as error:
        raise UsageError(f"this cannot be a record: {error}") from None
    with locked(zoo.with_name(f".{zoo.name}.lock")):
        held = [msgspec.to_builtins(r) for r in read(zoo)] if zoo.exists() else []
        if any(r["name"] == record["name"] for r in held):
            raise UsageError(f"there is a {record['name']!r} already", where=str(zoo), hint="choose another --name")
        text = json.dumps({"version": VERSION, "records": [*held, record]}, indent=1, ensure_ascii=False)
        with atomic_path(zoo) as temporary:
            temporary.write_text(text + "\n")
