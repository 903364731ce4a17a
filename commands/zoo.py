"""``ssdconv zoo``: the list of known weights; download, check and add them."""

from __future__ import annotations

import sys
from argparse import SUPPRESS, ArgumentParser, Namespace, RawDescriptionHelpFormatter, _ActionsContainer
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssdconv.commands import zoo_check
from ssdconv.commands.output import following, print_json, table
from ssdconv.commands.verb import Group
from ssdconv.errors import EXIT_OK

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
    zoo_check.configure_verify(action("verify", "hash every cached file again, and compare with the source framework"))
    zoo_check.configure_add(action("add", "write a record of a local file into a zoo file of your own"))


def add_network_options(parser: _ActionsContainer) -> None:
    """``--offline`` and ``--mirror``, as every command that takes weights by name has them."""
    parser.add_argument("--offline", action="store_true", help="touch no network; use what is cached")
    parser.add_argument(
        "--mirror", metavar="URL", help="address of a folder, or a folder here, that has the files; asked first"
    )


def run(args: Namespace) -> int:
    actions = {"list": _list, "show": _show, "download": _download}
    checks = {"verify": zoo_check.run_verify, "add": zoo_check.run_add}
    return (actions | checks)[args.action](args)


def zoo_path(args: Namespace) -> Path | None:
    """The zoo file named by ``--zoo``."""
    return Path(args.zoo) if args.zoo else None


def zoo_weights(args: Namespace) -> Path:
    """The checkpoint of ``args.network``, with the wishes of ``add_network_options``; news go to stderr."""
    from ssdconv.zoo import weights

    with following() as progress:
        return weights(
            args.network,
            zoo=zoo_path(args),
            offline=args.offline,
            mirror=args.mirror,
            progress=progress,
            say=lambda text: print(f"note: {text}", file=sys.stderr),
        )


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
