"""What every conversion can say about its links, where the source itself said nothing: tensors, classes, and a network known by name.

Class names are claimed only where somebody states them: the user, the name of the network that was asked for, or the source's own
claim of the link. A count of 21 or 81 states nothing: a network of 20 other classes has it too.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ssdconv.converters.plan import Plan, Request
from ssdconv.errors import UsageError
from ssdconv.ssd_ref.classes import BACKGROUND, COCO, VOC
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.evidence import Claim, Link, of_link
from ssdconv.ssd_ref.gate import read_text

KNOWN = {"voc": VOC, "coco": COCO}
REBUILT: tuple[Link, ...] = ("architecture", "pixels", "priors", "detection rule")


def completed(plan: Plan, request: Request, title: str) -> Plan:
    """The plan with class names that somebody states, and a claim for every link.

    Args:
        plan: as the source made it. A claim of its own about the classes keeps the names that it gave.
        request: the user's wishes.
        title: what people call the source.

    Raises:
        UsageError: class names that do not fit the network.
    """
    plan = _with_classes(plan, request)
    claims = list(plan.evidence)
    if not of_link(claims, "tensors"):
        claims.append(
            Claim("tensors", "stated", f"{len(plan.mapping.entries)} tensors by name and shape, each mapped one to one")
        )
    for link in REBUILT:
        if not of_link(claims, link):
            claims.append(
                Claim(link, "rebuilt", f"the network {plan.config.name} of {title}, known by name and shapes")
            )
    return replace(plan, evidence=tuple(claims))


def _with_classes(plan: Plan, request: Request) -> Plan:
    config, others = plan.config, ("voc", "coco", "FILE")
    told = request.classes or (class_names(request.settings["classes"]) if "classes" in request.settings else ())
    if told:
        names = fitted(told, config)
        shown = ", ".join(told[:3]) + (", …" if len(told) > 3 else "")
        claim = Claim("classes", "user", f"{len(told)} names: {shown}", "classes", ",".join(told))
        kept = tuple(c for c in plan.evidence if c.link != "classes")
        return replace(plan, config=replace(config, class_names=names), evidence=(*kept, claim))
    if of_link(plan.evidence, "classes"):
        return plan
    count = f"{config.num_classes} conf channels"
    if config.class_names and request.network:
        text = f"{count}, named as those of the network {config.name}, which was asked for"
        claim = Claim("classes", "user", text, "classes", others=others)
        return replace(plan, evidence=(*plan.evidence, claim))
    claim = Claim(
        "classes", "stated", f"{count}, by number: nothing names them (--classes voc|coco|FILE does)", "classes"
    )
    return replace(plan, config=replace(config, class_names=()), evidence=(*plan.evidence, claim))


def fitted(names: tuple[str, ...], config: SSDConfig) -> tuple[str, ...]:
    """Names of the conf channels from names of the classes, with or without the background.

    Raises:
        UsageError: too few or too many.
    """
    if len(names) == config.num_classes:
        return names
    if config.detect.background == 0 and len(names) == config.num_classes - 1:
        return (BACKGROUND, *names)
    raise UsageError(
        "the class names do not fit the network",
        where=config.name,
        expected=f"{config.num_classes} names" + (", or without the background one less" if config.detect.background == 0 else ""),
        got=f"{len(names)}: {', '.join(names[:4])}{', …' if len(names) > 4 else ''}",
    )  # fmt: skip


def class_names(text: str) -> tuple[str, ...]:
    """Class names as given on the command line: ``voc``, ``coco``, a file with a name per line, or names joined by commas.

    Raises:
        UsageError: no name, or one twice.
    """
    if text in KNOWN:
        return KNOWN[text]
    try:
        given = read_text(text, "list", "file of class names").splitlines() if Path(text).exists() else text.split(",")
    except (OSError, ValueError):
        raise UsageError("not a file of class names", where=text, expected="text with a name per line") from None
    names = tuple(name.strip() for name in given if name.strip())
    twice = [name for name in names if names.count(name) > 1]
    if not names or twice:
        raise UsageError(
            f"the class {twice[0]!r} is named twice" if twice else "no class names", where=f"--classes {text[:60]}"
        )
    return names
