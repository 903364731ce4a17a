"""From raw heads to detections inside an ONNX graph, by the network's own rule (``config.Postprocess``).

Standard operators only; the steps are those of ``ssd_ref.detect``, in its order, with the same rules for ties:

* candidates before NMS are cut with TopK, per class or per image, which takes the lower index of equal scores;
* NonMaxSuppression keeps boxes above the score threshold and drops those whose IoU exceeds the other threshold. Where a
  source tests "or equal", the threshold is the next smaller float32, which is the same test;
* what NMS leaves is sorted with TopK and cut to ``keep_top_k`` per image.

What ONNX cannot say is listed by ``differences``. Output: ``detections`` (M, 7) float32 rows (image, label, score, xmin, ymin,
xmax, ymax), images one after the other, best first; boxes as fractions of the image, labels as the config counts them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ssdconv.errors import UsageError
from ssdconv.ssd_ref.config import Postprocess, SSDConfig
from ssdconv.ssd_ref.priors import Priors


class Nodes:
    """Writes to one graph; a value is its name.

    Args:
        graph: ``onnx.GraphProto`` to add to.
        prefix: of every new name.
    """

    def __init__(self, graph: Any, prefix: str) -> None:
        self.graph, self.prefix, self.count = graph, prefix, 0

    def constant(self, array: Any, dtype: Any = None) -> str:
        """An array as an initializer."""
        from onnx import numpy_helper

        name = self._name("constant")
        self.graph.initializer.append(numpy_helper.from_array(np.array(array, dtype, order="C"), name))
        return name

    def ints(self, *values: int) -> str:
        """A vector of int64."""
        return self.constant(values, np.int64)

    def number(self, value: float) -> str:
        """A float32 without axes."""
        return self.constant(value, np.float32)

    def __call__(self, op: str, *inputs: str, **attributes: Any) -> str:
        """One node with one output; an empty input name leaves an optional input out."""
        return self.several(1, op, *inputs, **attributes)[0]

    def several(self, outputs: int, op: str, *inputs: str, **attributes: Any) -> list[str]:
        """One node with several outputs."""
        from onnx import helper

        names = [self._name(op.lower()) for _ in range(outputs)]
        self.graph.node.append(helper.make_node(op, list(inputs), names, name=self._name(op), **attributes))
        return names

    def call_it(self, value: str, name: str) -> None:
        """Give a value a name of its own, for an output of the graph."""
        from onnx import helper

        self.graph.node.append(helper.make_node("Identity", [value], [name], name=self._name("Identity")))

    def _name(self, word: str) -> str:
        self.count += 1
        return f"{self.prefix}/{word}_{self.count}"


_LOWEST = float(np.finfo(np.float32).min)


def differences(config: SSDConfig) -> tuple[str, ...]:
    """Where the exported rule is not the network's own, one sentence each; usually none."""
    rule = config.detect
    found = []
    if rule.nms_eta < 1:
        found.append(
            f"the network lowers its NMS threshold by {rule.nms_eta} after each box (nms_eta), which ONNX cannot: "
            f"the threshold stays {rule.nms_threshold}"
        )
    if rule.code != "center_size":
        found.append(
            "a box whose corners are the wrong way round counts with its area in ONNX, as empty in the network"
        )
    return tuple(found)


def add_detections(graph: Any, config: SSDConfig) -> None:
    """Replace the outputs ``loc`` and ``conf`` of a graph by ``detections``.

    Raises:
        UsageError: a rule without meaning in ONNX.
    """
    from onnx import TensorProto, helper

    rule = config.detect
    if rule.nms_inclusive and rule.nms_threshold <= 0:
        raise UsageError("this NMS rule leaves one box per class; ONNX has no such threshold", where=config.name)
    if rule.nms_scope != "class" or rule.nms_margin or rule.nms_epsilon:
        raise UsageError(
            "this network's NMS (over all classes, or with a larger union) has no operator in ONNX",
            where=config.name,
            hint="export without --with-nms and apply the rule behind it",
        )
    n = Nodes(graph, "detect")
    classes = [c for c in range(config.num_classes) if c != rule.background]
    scores = _scores(n, config, classes)
    boxes = _boxes(n, config, classes)
    if rule.min_size > 0:
        scores = _large_only(n, scores, boxes, rule)
    scores, boxes, per_image = _candidates(n, scores, boxes, config, len(classes))
    chosen = n(
        "NonMaxSuppression",
        boxes,
        scores,
        n.ints(rule.max_per_class if rule.max_per_class >= 0 else np.iinfo(np.int32).max),
        n.constant([_limit(min(rule.nms_threshold, 1.0), rule.nms_inclusive)], np.float32),
        n.constant([_limit(rule.score_threshold, rule.score_inclusive)], np.float32),
    )
    rows = _rows(n, chosen, scores, boxes, per_image, classes, rule)
    n.call_it(_best(n, rows, rule.keep_top_k), "detections")
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("detections", TensorProto.FLOAT, ["detections", 7]))


def _limit(threshold: float, inclusive: bool) -> float:
    value = np.float32(threshold)
    return float(np.nextafter(value, np.float32(-np.inf))) if inclusive else float(value)


def _scores(n: Nodes, config: SSDConfig, classes: list[int]) -> str:
    """(N, K, P): scores of the object classes."""
    conf = {"softmax": ("Softmax", {"axis": -1}), "sigmoid": ("Sigmoid", {})}.get(config.detect.activation)
    scores = n(conf[0], "conf", **conf[1]) if conf else "conf"
    by_class = n("Transpose", scores, perm=[0, 2, 1])
    return by_class if len(classes) == config.num_classes else n("Gather", by_class, n.ints(*classes), axis=1)


def _boxes(n: Nodes, config: SSDConfig, classes: list[int]) -> str:
    """Decoded boxes (N, P, 4), or (N, K, P, 4) where every class has its own; ``boxes.decode`` in ONNX."""
    rule = config.detect
    priors = Priors.of(config.priors, config.pixels.size)
    form, variances = priors.form(rule.code).numpy(), priors.variances.numpy()
    loc, halves = "loc", n.ints(2, 2)
    if not rule.share_location:
        loc = n("Reshape", "loc", n.ints(0, len(form), config.num_classes, 4))
        form, variances = form[:, None], variances[:, None]
    delta = loc if rule.variance_encoded else n("Mul", loc, n.constant(variances))
    if rule.code == "center_size":
        shift, growth = n.several(2, "Split", delta, halves, axis=-1)
        center, size = n.constant(form[..., :2]), n.constant(form[..., 2:])
        middle = n("Add", n("Mul", shift, size), center)
        if rule.max_exponent is not None:
            growth = n("Min", growth, n.number(rule.max_exponent))
        half = n("Div", n("Mul", n("Exp", growth), size), n.number(2.0))
        boxes = n("Concat", n("Sub", middle, half), n("Add", middle, half), axis=-1)
    else:
        if rule.code == "corner_size":
            sides = form[..., 2:] - form[..., :2]
            delta = n("Mul", delta, n.constant(np.concatenate([sides, sides], -1)))
        boxes = n("Add", n.constant(form), delta)
    if rule.clip == "before_nms":
        boxes = n("Clip", boxes, n.number(0.0), n.number(1.0))
    if not rule.share_location:
        boxes = n("Gather", n("Transpose", boxes, perm=[0, 2, 1, 3]), n.ints(*classes), axis=1)
    return boxes


def _large_only(n: Nodes, scores: str, boxes: str, rule: Postprocess) -> str:
    """Scores without those of boxes that are too small."""
    low, high = n.several(2, "Split", boxes, n.ints(2, 2), axis=-1)
    smaller = n("ReduceMin", n("Sub", high, low), n.ints(-1), keepdims=0)
    large = n("Greater", smaller, n.number(rule.min_size))
    if rule.share_location:
        large = n("Unsqueeze", large, n.ints(1))
    return n("Where", large, scores, n.number(_LOWEST))


def _candidates(n: Nodes, scores: str, boxes: str, config: SSDConfig, classes: int) -> tuple[str, str, int]:
    """What NMS works on: scores (B, S, T), boxes (B, T, 4), and how many of the B * S sets make one image."""
    rule, count = config.detect, config.num_priors
    own = not rule.share_location
    if rule.top_k_scope == "image" and 0 <= rule.top_k < classes * count:
        flat = n("Reshape", scores, n.ints(0, classes * count))
        best, place = n.several(2, "TopK", flat, n.ints(rule.top_k), axis=1)
        if own:
            boxes = n("Reshape", boxes, n.ints(0, classes * count, 4))
            where = place
        else:
            where = n("Mod", place, n.ints(count))
        boxes = n("GatherND", boxes, n("Unsqueeze", where, n.ints(2)), batch_dims=1)
        of_class = n("Unsqueeze", n("Div", place, n.ints(count)), n.ints(1))
        mine = n("Equal", of_class, n.constant(np.arange(classes).reshape(1, classes, 1), np.int64))
        return n("Where", mine, n("Unsqueeze", best, n.ints(1)), n.number(_LOWEST)), boxes, 1
    if rule.top_k_scope == "class" and 0 <= rule.top_k < count:
        scores, place = n.several(2, "TopK", scores, n.ints(rule.top_k), axis=2)
        index = n("Unsqueeze", place, n.ints(3))
        if own:
            boxes = n("GatherND", boxes, index, batch_dims=2)
        else:
            index = n("Reshape", index, n.ints(0, classes * rule.top_k, 1))
            boxes = n("GatherND", boxes, index, batch_dims=1)
        left = rule.top_k
    elif own:
        left = count
    else:
        return scores, boxes, 1
    return n("Reshape", scores, n.ints(-1, 1, left)), n("Reshape", boxes, n.ints(-1, left, 4)), classes


def _rows(
    n: Nodes, chosen: str, scores: str, boxes: str, per_image: int, classes: list[int], rule: Postprocess
) -> list[str]:
    """Image (M,), label (M,), score (M,) and box (M, 4) of what NMS chose, by image and class."""
    batch, group, _ = n.several(3, "Split", chosen, n.ints(1, 1, 1), axis=1)
    box = n("GatherND", boxes, n("Gather", chosen, n.ints(0, 2), axis=1))
    score = n("GatherND", scores, chosen)
    one = n.ints(1)
    if per_image > 1:
        image, place = n("Div", batch, n.ints(per_image)), n("Mod", batch, n.ints(per_image))
    else:
        # With one class alone the sets are the images, in either form.
        image, place = batch, group
    label = n("Gather", n.constant(classes, np.int64), n("Squeeze", place, one))
    if rule.clip == "after":
        box = n("Clip", box, n.number(0.0), n.number(1.0))
    image = n("Squeeze", image, one)
    if rule.clip == "after" and rule.drop_empty:
        low, high = n.several(2, "Split", box, n.ints(2, 2), axis=-1)
        full = n("Greater", n("ReduceProd", n("Sub", high, low), n.ints(-1), keepdims=0), n.number(0.0))
        image, label, score, box = (n("Compress", part, full, axis=0) for part in (image, label, score, box))
    return [image, label, score, box]


def _best(n: Nodes, rows: list[str], keep: int) -> str:
    """(M, 7) sorted by image, then by score; ``keep`` per image, all where it is negative."""
    image, label, score, box = rows
    count = n("Shape", image)
    _, by_score = n.several(2, "TopK", score, count, axis=0)
    _, by_image = n.several(2, "TopK", n("Gather", image, by_score), count, axis=0, largest=0)
    order = n("Gather", by_score, by_image)
    columns = [n("Unsqueeze", n("Cast", part, to=1), n.ints(1)) for part in (image, label, score)]
    table = n("Gather", n("Concat", *columns, box, axis=1), order)
    if keep < 0:
        return table
    image = n("Gather", image, order)
    images = n(
        "Range", n.constant(0, np.int64), n("Squeeze", n("Shape", "conf", end=1), n.ints(0)), n.constant(1, np.int64)
    )
    member = n("Cast", n("Equal", n("Unsqueeze", image, n.ints(1)), images), to=7)
    counts = n("ReduceSum", member, n.ints(0), keepdims=0)
    starts = n("CumSum", counts, n.constant(0, np.int64), exclusive=1)
    places = n("Range", n.constant(0, np.int64), n("Squeeze", count, n.ints(0)), n.constant(1, np.int64))
    rank = n("Sub", places, n("Gather", starts, image))
    return n("Compress", table, n("Less", rank, n.constant(keep, np.int64)), axis=0)
