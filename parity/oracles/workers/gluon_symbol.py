"""A stored symbol of MXNet run with the tensors of a .params file: nothing is built but what the file says; Python 3.8 on."""

# ruff: noqa: B905 - zip(strict=) is younger than Python 3.8

import mxnet as mx


def activations(job, arrays):
    """Outputs of ``nodes`` (wanted name -> node of the symbol) for ``input`` (N, 3, H, W), and an SSD's own three ends as detections."""
    symbol = mx.sym.load(job["symbol"])
    stored = {name.split(":", 1)[-1]: array for name, array in mx.nd.load(job["params"]).items()}
    internals = symbol.get_internals()
    wanted = {"nodes/" + name: internals[node + "_output"] for name, node in job["nodes"].items()}
    if job["ends"]:
        wanted.update({"detections/" + key: end for key, end in zip(("ids", "scores", "bboxes"), symbol)})
    group = mx.sym.Group(list(wanted.values()))
    given = {job["data"]: mx.nd.array(arrays["input"])}
    tensors = {name: array.astype("float32") for name, array in stored.items()}
    missing = [n for n in group.list_inputs() if n not in tensors and n not in given]
    if missing:
        raise ValueError(f"the symbol wants tensors that the file does not have: {missing[:3]}")
    args = {name: given.get(name, tensors.get(name)) for name in group.list_arguments()}
    states = {name: tensors[name] for name in group.list_auxiliary_states()}
    bound = group.bind(mx.cpu(), args, aux_states=states, grad_req="null")
    return {}, {name: value.asnumpy() for name, value in zip(wanted, bound.forward(is_train=False))}
