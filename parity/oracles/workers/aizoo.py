"""AIZOOTech/FaceMaskDetection's detector: its layers as an MXNet symbol for its published .params, and its boxes in NumPy. Python 3.8 on.

The layers are those that its loader builds. From loc and class scores to boxes as in its ``utils`` (anchor_generator, anchor_decode, nms), written from
their facts: anchors in fractions of the image, variances 0.1 and 0.2, each prior with its better class, one NMS for both classes, areas with
0.001 added to the sides.
"""

# ruff: noqa: B905 - zip(strict=) is younger than Python 3.8

import numpy as np

GRIDS = (33, 17, 9, 5, 3)
SIZES = ((0.04, 0.056), (0.08, 0.11), (0.16, 0.22), (0.32, 0.45), (0.64, 0.72))


def anchors():
    """(5972, 4): centre x and y, width and height."""
    rows = []
    for grid, (small, large) in zip(GRIDS, SIZES):
        shapes = [(small, small), (large, large)]
        shapes += [(small * ratio**0.5, small / ratio**0.5) for ratio in (0.62, 0.42)]
        for y in range(grid):
            for x in range(grid):
                rows += [((x + 0.5) / grid, (y + 0.5) / grid, w, h) for w, h in shapes]
    return np.array(rows)


def decode(loc):
    """(5972, 4) raw loc -> xyxy in fractions of the image, float64."""
    base, loc = anchors(), loc.astype("f8")
    centre = base[:, :2] + 0.1 * loc[:, :2] * base[:, 2:]
    half = base[:, 2:] * np.exp(0.2 * loc[:, 2:]) / 2
    return np.concatenate([centre - half, centre + half], 1)


def detect(loc, scores, threshold=0.5, overlap=0.4):
    """Rows (n, 6): label, score, xyxy; best first."""
    boxes, label, best = decode(loc), scores.argmax(1), scores.max(1)
    left = [i for i in np.argsort(-best, kind="stable") if best[i] > threshold]
    kept = []
    while left:
        first = left.pop(0)
        kept.append(first)
        left = [i for i in left if iou(boxes[first], boxes[i]) <= overlap]
    return np.array([[label[i], best[i], *boxes[i]] for i in kept], "f8").reshape(-1, 6)


def iou(a, b, margin=1e-3):
    """Overlap over union, the union with the margin in both areas."""
    sides = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)
    shared = sides[0] * sides[1]
    areas = sum((box[2] - box[0] + margin) * (box[3] - box[1] + margin) for box in (a, b))
    return shared / (areas - shared)


CHANNELS = (32, 64, 64, 64, 128, 128, 64, 64)


def _conv(x, name, filters, pad=1):
    import mxnet as mx

    return mx.sym.Convolution(x, kernel=(3, 3), num_filter=filters, pad=(pad, pad), name=name)


def _relu(x, name):
    import mxnet as mx

    return mx.sym.Activation(x, act_type="relu", name=name)


def symbol():
    """Every layer of the network by name, and the names of its tensors in the file by their names here."""
    import mxnet as mx

    x, layers, stored = mx.sym.var("data"), {}, {}

    def keep(name, value, file=None):
        layers[name] = value
        if file:
            stored.update({name + "_" + kind: file + "." + kind for kind in ("weight", "bias")})
        return value

    scores, locs = [], []
    for i, filters in enumerate(CHANNELS):
        if 0 < i < 7:
            if i > 2:  # its loader repeats the last row and column, so that a pool that rounds down covers them
                x = mx.sym.pad(x, mode="edge", pad_width=(0, 0, 0, 0, 0, 1, 0, 1))
            x = keep(f"maxpool2d_{i - 1}", mx.sym.Pooling(x, kernel=(2, 2), stride=(2, 2), pool_type="max"))
        file = f"conv_{i}" if i in (0, 7) else f"conv_{i}.1"
        x = keep(f"conv2d_{i}", _conv(x, f"conv2d_{i}", filters, 0 if i == 7 else 1), file)
        x = keep(f"conv2d_{i}_activation", _relu(x, f"conv2d_{i}_activation"))
        if i < 3:
            continue
        for kind, filters2, found, columns in (("cls", 8, scores, 2), ("loc", 16, locs, 4)):
            name = f"{kind}_{i - 3}_insert_conv2d"
            y = keep(name, _conv(x, name, 64), f"{kind}_{i - 3}_conv.0")
            y = keep(name + "_activation", _relu(y, name + "_activation"))
            name = f"{kind}_{i - 3}_conv"
            y = keep(name, _conv(y, name, filters2), f"{kind}_{i - 3}_conv.1")
            found.append(mx.sym.reshape(mx.sym.transpose(y, (0, 2, 3, 1)), (0, -1, columns)))
    keep("loc_branch_concat", mx.sym.concat(*locs, dim=1))
    keep("cls_branch_concat", mx.sym.concat(*[mx.sym.sigmoid(s) for s in scores], dim=1))
    return layers, stored


def run_mxnet(job, arrays):
    """Every layer's output for ``input`` (N, 3, 260, 260), and detections of image i as ``<i>/detections`` (n, 6)."""
    import mxnet as mx

    layers, stored = symbol()
    block = mx.gluon.SymbolBlock(mx.sym.Group(list(layers.values())), mx.sym.var("data"))
    loaded = mx.nd.load(job["params"])
    for name, param in block.collect_params().items():
        param._load_init(loaded[stored[name]], mx.cpu())
    values = block(mx.nd.array(arrays["input"]))
    out = {"nodes/" + name: value.asnumpy() for name, value in zip(layers, values)}
    for i, (loc, score) in enumerate(zip(out["nodes/loc_branch_concat"], out["nodes/cls_branch_concat"])):
        out[f"{i}/detections"] = detect(loc, np.asarray(score))
    return {}, out
