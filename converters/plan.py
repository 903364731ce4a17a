"""What is said of a file's network before it is converted: by the source, by every conversion, and by the user's spec.

A source says which network a file holds and how its tensors map to the reference's (``Plan``). ``completed`` adds what every conversion can say
where the source said nothing. Class names are claimed only where somebody states them: the user, the name of the network that was asked
for, or the source's own claim of the link. A count of 21 or 81 states nothing: a network of 20 other classes has it too. ``specified`` is
what a user's spec makes of it: the file's own statements stay, what it lacks is filled in, what contradicts is refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from msgspec import UNSET

from ssdconv.converters.same_network import raw_pixels
from ssdconv.converters.spec import Spec, SpecPixels, prior_maps
from ssdconv.converters.tensors import Array, TensorMapping, TensorTable
from ssdconv.errors import FormatError, UsageError
from ssdconv.ssd_ref.classes import BACKGROUND, COCO, VOC
from ssdconv.ssd_ref.config import Graph, Preprocess, PriorMap, SSDConfig, Staged
from ssdconv.ssd_ref.evidence import (
    INDEPENDENT,
    INPUT_GIVEN,
    PIXELS_ASSUMED,
    PRIORS_UNTOLD,
    RULE_ASSUMED,
    Claim,
    Link,
    code_of,
    of_link,
)
from ssdconv.ssd_ref.gate import read_text


@dataclass(frozen=True)
class Request:
    """The user's options for one conversion.

    Attributes:
        network: name of the network that the file holds; None to recognise it.
        num_classes: conf channels per prior, where the file cannot tell.
        prototxt: Caffe deploy or train definition; wins over the layer list inside the weight file.
        channel_order: "RGB" or "BGR", where the file cannot tell.
        options: further options of a single source, by name.
        settings: what the file does not say and the user does, by key (``--set heads.padding=valid``). A source takes the
            keys that it knows; ``Plan.check_settings`` refuses the others.
        classes: names of the object classes, with or without the background; empty where the user gives none.
        stored: for the way back: shapes in which the source file kept tensors (``Plan.stored``).
        spec: what the user states about the network; a source itself needs its input size only, ``specified`` does the rest.
    """

    network: str | None = None
    num_classes: int | None = None
    prototxt: Path | None = None
    channel_order: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    stored: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    spec: Spec | None = None


@dataclass(frozen=True)
class Plan:
    """The network that a file holds and the way of each tensor.

    Attributes:
        config: the network.
        mapping: source tensor to reference tensor, a bijection.
        warnings: what the user should know (defaults that the file did not tell, unused layers).
        probes: (name in the source, path of the reference module) of every value that parity can compare.
        evidence: who says what about the network; settings that may be given are the claims' keys.
        stored: shapes in which the file keeps source tensors where these are not the network's, for the way back.
    """

    config: SSDConfig
    mapping: TensorMapping
    warnings: tuple[str, ...] = ()
    probes: tuple[tuple[str, str], ...] = ()
    evidence: tuple[Claim, ...] = ()
    stored: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def check_settings(self, settings: Mapping[str, str]) -> None:
        """Refuse settings that no claim of this network knows.

        Raises:
            UsageError: names the key and those that could be meant.
        """
        keys = sorted({claim.key for claim in self.evidence if claim.key})
        for key in settings:
            if key not in keys:
                raise UsageError(
                    f"--set {key}: this network has no such setting",
                    expected=f"one of {', '.join(keys)}" if keys else "none: the file says everything",
                )


class SourceModule(Protocol):
    """What ``converters/<source>/source.py`` provides."""

    def read(self, path: Path) -> TensorTable:
        """Open a weight file of this source."""

    def plan(self, table: TensorTable, request: Request) -> Plan:
        """Recognise the network in ``table`` and map its tensors."""

    def write(self, config: SSDConfig, tensors: Mapping[str, Array], dst: Path, request: Request) -> list[Path]:
        """Write reference tensors as a weight file of this source; returns the files written."""


KNOWN = {"voc": VOC, "coco": COCO}
REBUILT: tuple[Link, ...] = ("architecture", "pixels", "priors", "detection rule")


def completed(plan: Plan, request: Request, title: str) -> Plan:
    """The plan with class names that somebody states, and a claim for every link.

    Args:
        plan: as the source made it. A claim of its own about the classes keeps the names that it gave.
        request: the user's options.
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


TELLING = ("score_threshold", "top_k", "nms_threshold", "keep_top_k")
"""Fields of a rule that say which boxes a user sees: those that stay assumed are named."""
NORMAL = ("mean", "std", "unit", "scale")


def specified(plan: Plan, spec: Spec | None) -> Plan:
    """The plan with what a spec says, its claims and its warnings accordingly.

    Args:
        plan: complete with its claims; what they call stated, run by the source's framework or by its original code is the
            file's statement.
        spec: None for the plan as it is.

    Raises:
        UsageError: the spec contradicts what the file states, and does not say so under ``override``.
        FormatError: priors that are not as many as the heads' boxes, or a value that does not fit the network.
    """
    if spec is None:
        return plan
    work = _Work(plan, spec, plan.config)
    work.input()
    work.pixels()
    work.rule()
    work.priors()
    work.classes()
    work.check()
    kept = [c for c in plan.evidence if not (c.link in work.settled and c.basis not in INDEPENDENT)]
    kept = [c for c in kept if c.link not in work.overridden]
    warnings = tuple(w for w in plan.warnings if code_of(w) not in work.answered)
    config = work.config
    if isinstance(config.layers, Graph):
        told = tuple(w for w in config.layers.warnings if code_of(w) not in work.answered)
        config = replace(config, layers=replace(config.layers, warnings=told))
    return replace(plan, config=config, evidence=(*kept, *work.claims), warnings=warnings)


@dataclass
class _Work:
    """A plan under change.

    Attributes:
        settled: links whose weaker claims the spec replaces.
        overridden: links of which the spec changed what the file states.
        answered: codes of warnings that no longer hold.
    """

    plan: Plan
    spec: Spec
    config: SSDConfig
    claims: list[Claim] = field(default_factory=list)
    settled: set[Link] = field(default_factory=set)
    overridden: set[Link] = field(default_factory=set)
    answered: set[str] = field(default_factory=set)

    @property
    def where(self) -> str:
        return f"spec {self.spec.name}"

    def stated(self, link: Link) -> bool:
        """Whether the file says everything about a link."""
        bases = [c.basis for c in self.plan.evidence if c.link == link]
        return bool(bases) and all(basis in INDEPENDENT for basis in bases)

    def contradicts(self, key: str, link: Link, mine: object, theirs: object) -> None:
        """Refuse, unless the spec overrides ``key``."""
        if not self.spec.overrides(key):
            raise UsageError(
                f"the spec contradicts the file: {key}",
                where=self.where,
                expected=f"{_text(theirs)}, which the file states",
                got=_text(mine),
                hint=f"leave it out, or add `override: [{key}]` to have it as the spec says",
            )
        self.overridden.add(link)

    def say(self, link: Link, text: str) -> None:
        """A claim of the user's."""
        instead = ", instead of what the file states" if link in self.overridden else ""
        self.claims.append(Claim(link, "user", f"{self.where}: {text}{instead}"))
        self.settled.add(link)

    def input(self) -> None:
        """The input size."""
        size, pixels = self.spec.size, self.config.pixels
        if size is None:
            return
        untold = any(code_of(w) == INPUT_GIVEN for w in self.plan.warnings)
        self.answered.add(INPUT_GIVEN)
        told = isinstance(self.config.layers, Graph) and self.config.source == "caffe" and not untold
        if size != pixels.size and (told or self.stated("pixels")):
            self.contradicts("input", "pixels", _wide(size), _wide(pixels.size))
        if untold or size != pixels.size:
            self.claims.append(Claim("architecture", "user", f"{self.where}: input {_wide(size)}"))
        self.config = replace(self.config, pixels=replace(pixels, size=size))

    def pixels(self) -> None:
        """Order, normalisation, resize."""
        given = self.spec.pixels
        if given is UNSET or not any(True for _ in _given(given)):
            return
        own = self.config.pixels
        order = own.order if given.order is UNSET else given.order
        if (order == "GRAY") != (own.channels == 1):
            raise FormatError(
                "pixels.order does not fit the network's first layer",
                where=self.where,
                expected="GRAY" if own.channels == 1 else "BGR or RGB",
                got=order,
            )
        stated = self.stated("pixels")
        if stated and order != own.order and self.config.source != "caffe":  # a Caffe net never tells the order
            self.contradicts("pixels.order", "pixels", order, own.order)
        new = replace(own, order=order, **dict(_normalisation(given, own.channels, self.where)))
        if given.resize is not UNSET:
            new = replace(new, resize=given.resize)
        named = [name for name in NORMAL if getattr(given, name) is not UNSET]
        plain = Preprocess(own.size, own.order)
        if named and not _same_pixels(new, own):
            mine, theirs = _formula(new), _formula(own)
            if stated:
                self.contradicts(f"pixels.{named[0]}", "pixels", mine, theirs)
            elif self.config.source == "caffe" and isinstance(self.config.layers, Graph):
                # A net that tells its mean or its scale alone; what it does not tell has its default.
                for name in ("mean", "scale"):
                    held = getattr(own, name)
                    if held != getattr(plain, name) and getattr(new, name) != held:
                        self.contradicts(f"pixels.{name}", "pixels", getattr(new, name), held)
        elif named:
            new = replace(new, **{name: getattr(own, name) for name in NORMAL})
        if not named and not stated:
            self.claims += [c for c in self.plan.evidence if c.link == "pixels" and c.basis not in INDEPENDENT]
        elif named:
            self.answered.add(PIXELS_ASSUMED)
        self.config = replace(self.config, pixels=new)
        said = [str(order)] if given.order is not UNSET else []
        said += [_formula(new)] if named else []
        said += [f"resized by {new.resize}"] if given.resize is not UNSET else []
        self.say("pixels", ", ".join(said))

    def rule(self) -> None:
        """The detection rule; decoded boxes are ``priors``'s."""
        given = self.spec.detection
        changes = dict(_given(given)) if given is not UNSET else {}
        changes.pop("boxes", None)
        if "background" in changes and changes["background"] == "none":
            changes["background"] = None
        if changes.get("background") is not None and changes["background"] >= self.config.num_classes:
            raise FormatError(
                "detection.background is no class",
                where=self.where,
                expected=f"0 to {self.config.num_classes - 1}, or none",
                got=changes["background"],
            )
        if not changes:
            return
        own, stated = self.config.detect, self.stated("detection rule")
        for name, value in changes.items():
            held = getattr(own, name)
            if not _equal(value, held) and (stated or (name == "activation" and self._has_activation())):
                self.contradicts(f"detection.{name}", "detection rule", value, held)
        self.config = replace(self.config, detect=replace(own, **changes))
        self.answered.add(RULE_ASSUMED)
        self.say("detection rule", ", ".join(f"{name} {_text(value)}" for name, value in changes.items()))
        left = [name for name in TELLING if name not in changes]
        if left and not stated:
            text = ", ".join(f"{name} {_text(getattr(own, name))}" for name in left)
            self.claims.append(Claim("detection rule", "assumed", f"not given: {text}"))

    def _has_activation(self) -> bool:
        """Whether the file's own layers end in a softmax or sigmoid, which the network then has in its rule."""
        return (
            self.config.source == "caffe"
            and isinstance(self.config.layers, Graph)
            and self.config.detect.activation != "none"
        )

    def priors(self) -> None:
        """The priors, or that there are none because boxes are decoded already."""
        given, detection = self.spec.priors, self.spec.detection
        decoded = detection is not UNSET and detection.boxes in ("corners", "pixel_corners")
        if given is UNSET and not decoded:
            return
        own, size = self.config.priors, self.config.pixels.size
        if decoded:
            assert detection is not UNSET
            if self.stated("priors"):
                self.contradicts("detection.boxes", "priors", detection.boxes, f"{self.config.num_priors} priors")
            self.config = _decoded(self.config, detection.boxes == "pixel_corners", self.where)
            self.say("priors", f"none: loc holds boxes already ({detection.boxes})")
        else:
            assert given is not UNSET
            maps = prior_maps(given, size, own, self.where)
            if own and _same_priors(maps, own, size):
                maps = own  # to the last bit, and with what the file knows besides
            elif self.stated("priors"):
                self.contradicts("priors", "priors", _counted(maps), _counted(own))
            if isinstance(self.config.layers, Staged) and [len(m.box_sizes) for m in maps] != [
                len(m.box_sizes) for m in own
            ]:
                raise FormatError(
                    "the priors do not fit the heads",
                    where=self.where,
                    expected=f"maps with {', '.join(str(len(m.box_sizes)) for m in own)} boxes per cell",
                    got=", ".join(str(len(m.box_sizes)) for m in maps),
                )
            self.config = replace(self.config, priors=maps)
            self.say("priors", _counted(maps))
        self.answered.add(PRIORS_UNTOLD)

    def classes(self) -> None:
        """Class names."""
        if self.spec.classes is UNSET:
            return
        names, own = fitted(self.spec.classes, self.config), self.config.class_names
        told = [c for c in self.plan.evidence if c.link == "classes"]
        if own and own != names and all(c.basis in (*INDEPENDENT, "user") for c in told):
            self.contradicts("classes", "classes", ", ".join(names[:4]), ", ".join(own[:4]))
        self.overridden.add("classes")
        self.claims.append(Claim("classes", "user", f"{self.where}: {', '.join(names[:4])}{', …' * (len(names) > 4)}"))
        self.config = replace(self.config, class_names=names)

    def check(self) -> None:
        """Refuse priors that are not as many as the heads' boxes."""
        if self.spec.input is UNSET and self.spec.priors is UNSET:
            return
        from ssdconv.ssd_ref.model import head_shapes

        if not self.config.priors:
            return
        made = head_shapes(self.config)[1][1]
        if made != self.config.num_priors:
            height, width = self.config.pixels.size
            raise FormatError(
                "the priors are not as many as the network's boxes",
                where=self.where,
                expected=f"{made} for an input of {width}x{height}",
                got=_counted(self.config.priors),
                hint=None if self.spec.priors is not UNSET else "another input size needs `priors` too",
            )


def _given(struct: Any) -> Iterator[tuple[str, Any]]:
    for name in struct.__struct_fields__:
        if (value := getattr(struct, name)) is not UNSET:
            yield name, value


def _normalisation(given: SpecPixels, channels: int, where: str) -> Iterator[tuple[str, Any]]:
    for name in NORMAL:
        value = getattr(given, name)
        if value is UNSET:
            continue
        if name in ("mean", "std"):
            value = value if isinstance(value, tuple) else (value,)
            if len(value) not in (1, channels):
                raise FormatError(f"pixels.{name} needs one number, or one per channel", where=where, got=value)
            value = value * (channels if len(value) == 1 else 1)
        yield name, value


def _same_pixels(a: Preprocess, b: Preprocess) -> bool:
    pairs = [zip(x, y, strict=True) for x, y in zip(raw_pixels(a), raw_pixels(b), strict=True)]
    return all(math.isclose(x, y, rel_tol=1e-6) for pair in pairs for x, y in pair)


def _formula(pixels: Preprocess) -> str:
    mean, std = (f"{v[0]:g}" if len(set(v)) == 1 else _text(v) for v in (pixels.mean, pixels.std))
    scaled = f" * {pixels.scale:g}" if pixels.scale != 1 else ""
    return f"({'x' if pixels.unit == 1 else f'x / {pixels.unit:g}'} - {mean}) / {std}{scaled}"


def _decoded(config: SSDConfig, in_pixels: bool, where: str) -> SSDConfig:
    """A config whose loc holds corners: priors without extent at the origin, to which loc is added as it is, or in pixels."""
    from ssdconv.ssd_ref.model import head_shapes

    if isinstance(config.layers, Staged):
        raise FormatError("the heads of this network are coded against priors", where=where, got="detection.boxes")
    height, width = config.pixels.size
    scale = (1 / width, 1 / height) if in_pixels else (1.0, 1.0)
    count = head_shapes(replace(config, priors=()))[1][1]
    none = PriorMap((1, 1), (1.0, 1.0), ((0.0, 0.0),) * count, 0.0, "none", (*scale, *scale))
    return replace(config, priors=(none,), detect=replace(config.detect, code="corner"))


def _same_priors(a: tuple[PriorMap, ...], b: tuple[PriorMap, ...], size: tuple[int, int]) -> bool:
    """Whether two tables are the same boxes and variances, to float32's rounding."""
    from ssdconv.ssd_ref.priors import Priors

    mine, theirs = Priors.of(a, size), Priors.of(b, size)
    return len(mine) == len(theirs) and all(
        bool((x - y).abs().max() <= 1e-6)
        for x, y in ((mine.centers, theirs.centers), (mine.variances, theirs.variances))
    )


def _counted(maps: tuple[PriorMap, ...]) -> str:
    parts = " + ".join(f"{m.grid[0]}x{m.grid[1]}x{len(m.box_sizes)}" for m in maps)
    return f"{sum(m.count for m in maps)} priors ({parts})"


def _wide(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]} (width x height)"


def _equal(a: object, b: object) -> bool:
    if isinstance(a, float | int) and isinstance(b, float | int):
        return math.isclose(a, b, rel_tol=1e-6)
    return a == b


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple | list):
        return f"[{', '.join(_text(v) for v in value)}]"
    return "none" if value is None else str(value)
