"""A Caffe net taken apart: the layers that make loc and conf, those that follow, and those that make priors."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from ssdconv.converters.caffe.heads import Found, find
from ssdconv.converters.caffe.net import Shape
from ssdconv.converters.caffe.priorbox import prior_map
from ssdconv.converters.caffe.shapes import NetShapes, infer, require_supported, supported
from ssdconv.converters.caffe.tail import standard_tail
from ssdconv.converters.caffe.wiring import INPUT, Value, Wiring
from ssdconv.errors import FormatError
from ssdconv.ssd_ref.caffe_layers.params import Params
from ssdconv.ssd_ref.caffe_layers.views import joined_axis
from ssdconv.ssd_ref.config import Graph, LayerSpec, PriorMap

PRIOR_SIDE = frozenset({"PriorBox", "Concat", "Reshape", "Flatten", "Split"})
"""Types that may stand between a PriorBox and the detection layer."""
SHAPE_READERS = frozenset({"PriorBox"})
MAX_MAPS, MAX_DEPTH = 256, 16


@dataclass
class Parts:
    """One net being taken apart: which layers make loc and conf, which follow, which make priors.

    ``raw`` is as in ``heads.find``.
    """

    wiring: Wiring
    source: str
    input: Shape
    raw: bool = True

    def locate(self) -> None:
        """Find the ends and infer all shapes; nothing beyond the needed layers must be supported."""
        wiring = self.wiring
        self.prior_side = wiring.after(wiring.of_type("PriorBox"))
        self.found: Found = find(wiring, lambda: self._known_shapes(), raw=self.raw)
        self.core = wiring.needed(self.found.sources)
        self.rest = wiring.needed(self.found.ends) - self.core
        everything = sorted(self.core | self.rest)
        self.order = sorted(self.core)
        wiring.check_order(self.order, self.found.sources)
        wiring.check_order([*self.order, *sorted(self.rest)], skip=SHAPE_READERS)
        strange = [
            wiring.layers[i]
            for i in everything
            if i in self.prior_side and wiring.layers[i].type not in PRIOR_SIDE | {"DetectionOutput"}
        ]
        self.shapes = self._shapes(everything, tuple(strange), self.found.added)

    def _known_shapes(self) -> dict[str, Shape]:
        """Shapes of all blobs that supported layers alone lead to."""
        layers, known = self.wiring.layers, supported()
        blocked = self.wiring.after(i for i, spec in enumerate(layers) if spec.type not in known)
        return self._shapes([i for i in range(len(layers)) if i not in blocked]).blobs

    def _shapes(
        self, indices: list[int], strange: tuple[LayerSpec, ...] = (), added: tuple[LayerSpec, ...] = ()
    ) -> NetShapes:
        layers = [self.wiring.layers[i] for i in indices if i not in self.prior_side]
        layers = [spec for spec in layers if spec.type != "DetectionOutput"]
        require_supported([*layers, *strange])
        # In-place layers of the tail come last, so that ``added`` reads the values before them.
        return infer([*layers, *added], {self.source: self.input})

    def _with_blobs(self) -> dict[int, LayerSpec]:
        names = {spec.name: spec for spec in self.shapes.layers}
        return {i: names[spec.name] for i, spec in enumerate(self.wiring.layers) if spec.name in names}

    def priors(self) -> tuple[PriorMap, ...]:
        """Prior maps in the order in which the detection layer sees them."""
        return tuple(self._prior_maps(self.found.priors)) if self.found.priors is not None else ()

    def _prior_maps(self, value: Value, depth: int = 0) -> list[PriorMap]:
        spec = self.wiring.layers[value.maker] if value.maker != INPUT else None
        if spec is None or spec.type not in PRIOR_SIDE:
            made = f"layer {spec.name!r} ({spec.type})" if spec else f"input {value.name!r}"
            raise FormatError(
                "the priors do not come from PriorBox layers", where=made, got=spec.type if spec else None
            )
        if spec.type != "PriorBox":
            if depth > MAX_DEPTH:
                raise FormatError("priors are joined too many times", where=f"layer {spec.name!r} ({spec.type})")
            if spec.type == "Concat" and len(spec.bottoms) > 1:
                place = f"layer {spec.name!r} (Concat)"
                if joined_axis(Params(spec.params, place), "concat_dim", 3) != 2:
                    raise FormatError("priors are joined along another axis than 2", where=place)
            maps = [m for read in self.wiring.reads[value.maker] for m in self._prior_maps(read, depth + 1)]
            if len(maps) > MAX_MAPS:
                raise FormatError("more prior maps than any detector has", where=f"layer {spec.name!r} ({spec.type})")
            return maps
        shapes = [self.shapes.blobs.get(name, ()) for name in spec.bottoms]
        if len(shapes) != 2 or any(not 1 <= len(shape) <= 4 for shape in shapes):
            raise FormatError(
                "reads no feature map and image", where=f"layer {spec.name!r} (PriorBox)", got=tuple(shapes)
            )
        grid, image = ((*shape, 1, 1, 1)[2:4] for shape in shapes)  # axes that a blob lacks count as 1
        return [prior_map(spec, (grid[0], grid[1]), (image[0], image[1]))]

    def check(self, priors: tuple[PriorMap, ...]) -> int:
        """The class count, after checking that loc, conf and priors fit each other."""
        told = self.found.told
        for value in (self.found.loc, self.found.conf):
            if value.name not in self.shapes.blobs:
                raise FormatError("priors or detections stand where raw outputs should", where=f"blob {value.name!r}")
        loc, conf = (prod(self.shapes.blobs[v.name][1:]) for v in (self.found.loc, self.found.conf))
        self.loc_classes = 1 if told.rule.share_location else told.num_classes
        count = sum(m.count for m in priors) or loc // (4 * self.loc_classes)
        classes = told.num_classes or conf // max(count, 1)
        for what, value, got, per in (
            ("loc", self.found.loc, loc, 4 * self.loc_classes),
            ("conf", self.found.conf, conf, classes),
        ):
            if count * per != got:
                raise FormatError(
                    f"{what} does not fit the priors",
                    where=f"blob {value.name!r}",
                    expected=f"{count} priors of {per} values, {count * per} in all",
                    got=f"{got} for an input of {self.input[2]} x {self.input[3]}",
                )
        return classes

    def odd_softmax(self, classes: int) -> str:
        """Name of a softmax taken out that does not run over the classes of a prior; "" where all do."""
        for index in self.found.activations:
            spec = self.wiring.layers[index]
            if spec.type != "Softmax":
                continue
            shape = self.shapes.tops[spec.name][0]
            axis = Params(spec.params, f"layer {spec.name!r} (Softmax)").axis("axis", 1, len(shape))
            moved = any(s.type == "Permute" for s in self.found.added)
            if shape[axis] != classes or (prod(shape[axis + 1 :]) != 1 and not moved):
                return spec.name
        return ""

    def graph(self, source: str, classes: int, warnings: tuple[str, ...]) -> Graph:
        """The layer graph, with the tail of a deploy net."""
        found, blobs = self.found, self._with_blobs()
        layers = tuple(blobs[i] for i in self.order) + found.added
        tail = tuple(blobs.get(i, self.wiring.layers[i]) for i in sorted(self.rest))
        if self.wiring.of_type("MultiBoxLoss") and not self.wiring.of_type("DetectionOutput"):
            assert found.priors is not None
            taken = {n for spec in (*layers, *tail) for n in (spec.name, *spec.tops)}
            names = found.loc.name, found.conf.name, found.priors.name
            tail += standard_tail(*names, classes, found.told.rule, taken)
        used = self.core | self.rest
        dropped = tuple(
            spec.name for i, spec in enumerate(self.wiring.layers) if i not in used and spec.type != "MultiBoxLoss"
        )
        return Graph(
            input=source,
            layers=layers,
            loc=found.loc.name,
            conf=found.conf.name,
            loc_classes=self.loc_classes,
            tail=tail,
            added=tuple(spec.name for spec in found.added),
            dropped=dropped,
            warnings=warnings + ((f"layers not needed for detection: {', '.join(dropped)}",) if dropped else ()),
        )
