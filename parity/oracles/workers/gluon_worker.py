"""GluonCV on MXNet as an oracle: answers requests by files. Needs nothing but numpy, MXNet and GluonCV; Python 3.8 on.

Called with one folder; ``request.json`` there is ``{"jobs": [...]}``, each job one dict with ``do`` (a function below) and
its arguments; ``request.npz`` holds arrays named ``<job index>/<name>``. Answers go to ``response.json``, a list under
``jobs``, and ``response.npz`` under the same kind of names.
"""

# ruff: noqa: B905 - zip(strict=) is younger than Python 3.8

import json
import logging
import os
import sys
import time
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")
os.environ.setdefault("MXNET_SUBGRAPH_BACKEND", "NONE")

import gluon_aizoo
import gluon_nets
import gluon_symbol
import mxnet as mx
import numpy as np

logging.disable(logging.WARNING)


def build(job, arrays):
    """A network with random weights, saved in ``folder`` under ``stem`` in each of ``dialects``."""
    net = gluon_nets.make(job["network"], job.get("classes"), job.get("prefix"))
    gluon_nets.randomise(net, job.get("seed", 0), job["size"])
    return {"paths": gluon_nets.save(net, job["folder"], job["stem"], job["dialects"])}, {}


def _loaded(job):
    net = gluon_nets.make(job["network"], job.get("classes"), job.get("prefix") or "ssd0_")
    net.initialize()
    stored = mx.nd.load(job["params"])
    path = job["params"]
    if isinstance(stored, dict) and any("syncbatchnorm" in name for name in stored):
        path = "renamed.params"  # statistics over several GPUs: the same layer under another name
        mx.nd.save(path, {name.replace("syncbatchnorm", "batchnorm"): array for name, array in stored.items()})
    net.load_parameters(path, cast_dtype=True)
    return net


def graph(job, arrays):
    """Names of all nodes of a network's graph, and what it says about its batch normalisations; nothing is computed."""
    net = gluon_nets.make(job["network"], None, "ssd0_")
    symbol = mx.sym.Group(list(net(mx.sym.var("data"))))
    nodes = [node for node in json.loads(symbol.tojson())["nodes"] if node["op"] != "null"]
    norms = {node["name"]: node.get("attrs", {}) for node in nodes if node["op"] == "BatchNorm"}
    return {"nodes": [node["name"] for node in nodes], "batch_norms": norms}, {}


def activations(job, arrays):
    """Every operator's output for ``input`` (N, 3, H, W), by node name, and the final detections of an SSD.

    ``nodes`` limits them to these names. Detections: ``ids``, ``scores``, ``bboxes`` with
    GluonCV's standard ``set_nms(0.45, 400, 100)``.
    """
    net, x = _loaded(job), mx.nd.array(arrays["input"])
    out = {}
    if job["network"].startswith("ssd_"):
        net.set_nms(0.45, 400, 100)
        for key, value in zip(("ids", "scores", "bboxes"), net(x)):
            out["detections/" + key] = value.asnumpy()
    symbol = net(mx.sym.var("data"))
    symbol = symbol if isinstance(symbol, mx.sym.Symbol) else mx.sym.Group(list(symbol))
    internals = symbol.get_internals()
    want = [name for name in internals.list_outputs() if name.endswith("_output")]
    if "nodes" in job:
        want = [name for name in want if _plain(name) in set(job["nodes"])]
    block = mx.gluon.SymbolBlock(mx.sym.Group([internals[name] for name in want]), mx.sym.var("data"))
    source = {param.name: param for param in net.collect_params().values()}
    for name, param in block.collect_params().items():
        param._load_init(source[name].data(), mx.cpu())
    values = block(x)
    for name, value in zip(want, values if isinstance(values, (list, tuple)) else [values]):
        out["nodes/" + _plain(name)] = value.asnumpy()
    return {}, out


def _plain(output):
    """An output's node; ``reset_class`` doubles the network's prefix before the class predictors."""
    return output[: -len("_output")].replace("ssd0_ssd0_", "ssd0_")


def preprocess(job, arrays):
    """SSDDefaultValTransform at ``size`` pixels on each RGB uint8 array (H, W, 3): tensors (3, size, size) float32."""
    from gluoncv.data.transforms.presets.ssd import SSDDefaultValTransform

    transform = SSDDefaultValTransform(job["size"], job["size"])
    label = np.array([[0, 0, 1, 1, 0]], dtype="float32")
    return {}, {key: transform(mx.nd.array(value, dtype="uint8"), label)[0].asnumpy() for key, value in arrays.items()}


def load(job, arrays):
    """What ``mx.nd.load`` makes of a file: names in order, and the arrays under their indices."""
    with mx.util.np_shape(bool(job.get("np_shape"))):
        loaded = mx.nd.load(job["path"])
        if not isinstance(loaded, dict):
            loaded = {str(index): value for index, value in enumerate(loaded)}
        return {"names": list(loaded)}, {str(index): value.asnumpy() for index, value in enumerate(loaded.values())}


def save(job, arrays):
    """Write the request's arrays with ``mx.nd.save``, under ``names`` or as a list without names."""
    with mx.util.np_shape(bool(job.get("np_shape"))):
        values = [mx.nd.array(arrays[str(index)], dtype=arrays[str(index)].dtype) for index in range(len(arrays))]
        mx.nd.save(job["path"], dict(zip(job["names"], values)) if job.get("names") else values)
    return {}, {}


def save_sparse(job, arrays):
    """Write a row-sparse and a csr array."""
    dense = mx.nd.array(arrays["dense"])
    stored = {"plain": dense, job["kind"]: dense.tostype(job["kind"])}
    mx.nd.save(job["path"], stored)
    return {}, {}


def bench_load(job, arrays):
    """Seconds of ``mx.nd.load`` and copying every array out, ``repeat`` times."""
    seconds = []
    for _ in range(job["repeat"]):
        start = time.perf_counter()
        for value in mx.nd.load(job["path"]).values():
            value.asnumpy()
        seconds.append(time.perf_counter() - start)
    return {"seconds": seconds}, {}


def bench(job, arrays):
    """Seconds per forward pass of ``input`` (N, 3, H, W), detections included, ``repeat`` times after two warm-up passes.

    ``threads`` and ``backend`` repeat what the environment told MXNet.
    """
    net = _loaded(job)
    net.set_nms(0.45, 400, 100)
    net.hybridize(static_alloc=True, static_shape=True)
    x = mx.nd.array(arrays["input"])
    seconds = []
    for _ in range(job["repeat"] + 2):
        start = time.perf_counter()
        for out in net(x):
            out.wait_to_read()
        seconds.append(time.perf_counter() - start)
    threads = os.environ.get("OMP_NUM_THREADS", "default")
    return {"seconds": seconds[2:], "threads": threads, "backend": os.environ["MXNET_SUBGRAPH_BACKEND"]}, {}


JOBS = {f.__name__: f for f in (build, graph, activations, preprocess, load, save, save_sparse, bench_load, bench)}
JOBS["aizoo"] = gluon_aizoo.activations
JOBS["symbol"] = gluon_symbol.activations


def main(folder):
    jobs = json.loads((folder / "request.json").read_text())["jobs"]
    with np.load(folder / "request.npz", allow_pickle=False) as stored:
        given = {name: stored[name] for name in stored.files}
    answers, out = [], {}
    for index, job in enumerate(jobs):
        head = f"{index}/"
        start = time.perf_counter()
        arrays = {name[len(head) :]: value for name, value in given.items() if name.startswith(head)}
        answer, results = JOBS[job["do"]](job, arrays)
        answer["elapsed"] = time.perf_counter() - start
        answers.append(answer)
        out.update({head + name: value for name, value in results.items()})
    np.savez(folder / "response.npz", **out)
    (folder / "response.json").write_text(json.dumps({"jobs": answers, "versions": {"mxnet": mx.__version__}}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
