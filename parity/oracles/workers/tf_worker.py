"""TensorFlow 1 code on TensorFlow 2.15 as an oracle of checkpoints and frozen graphs; answers requests by files.

Called with one folder; ``request.json`` there is ``{"jobs": [...]}``, each job one dict with ``do`` (a function below) and its
arguments; ``request.npz`` holds arrays named ``<job index>/<name>``. Answers go to ``response.json``, a list under ``jobs``,
and ``response.npz`` under the same kind of names.
"""

import json
import os
import sys
import time
from pathlib import Path

os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", TF_ENABLE_ONEDNN_OPTS="0", CUDA_VISIBLE_DEVICES="")

import numpy as np
import tensorflow as tf

sys.path.insert(0, str(Path(__file__).parent))
import aizoo_boxes
import tf_detector
import tf_frozen
import tf_hikapok

v1 = tf.compat.v1
SESSION = v1.ConfigProto(intra_op_parallelism_threads=2, inter_op_parallelism_threads=1)


def _random(name, shape, rng):
    """Values that keep activations in range, by the kind of the variable."""
    if name.endswith("conv4_3_scale/weights"):
        return rng.uniform(4, 16, shape).astype("f4")
    if len(shape) != 4:
        return rng.normal(0, 0.05, shape).astype("f4")
    gain = np.sqrt((1.0 if "multibox" in name else 2.0) / np.prod(shape[:3])) * (0.3 if "/loc_" in name else 1.0)
    return (rng.normal(0, gain, shape) / (85.0 if name.endswith("conv1_1/kernel") else 1.0)).astype("f4")


def build(job, arrays):
    """A network with random variables, and optimizer slots with ``slots``, saved as ``flavours``: V2, V1, sharded, frozen.

    Answers the path of each, and all variables' values under ``<variable>``.
    """
    rng, folder, out, paths = np.random.default_rng(job.get("seed", 0)), Path(job["folder"]), {}, {}
    with v1.Graph().as_default(), v1.Session(config=SESSION) as session:
        probes = tf_hikapok.build(job["width"], job["classes"])
        saved = v1.global_variables()
        if job.get("slots"):
            step = v1.train.get_or_create_global_step()
            loss = tf.add_n([tf.reduce_sum(v) for v in saved])
            v1.train.MomentumOptimizer(0.1, 0.9).minimize(loss, global_step=step)
            with v1.variable_scope("tower_1"):
                v1.get_variable("conv4_3_scale/weights", (job["width"] * 8,))
        session.run(v1.global_variables_initializer())
        for variable in saved:
            name = variable.op.name
            out[name] = _random(name, variable.shape.as_list(), rng)
            variable.load(out[name], session)
        for flavour in job["flavours"]:
            path = str(folder / ("net_" + flavour + ".ckpt"))
            if flavour == "frozen":
                names = [p.op.name for p in probes.values()]
                graph = v1.graph_util.convert_variables_to_constants(session, session.graph_def, names)
                path = str(folder / "net.pb")
                Path(path).write_bytes(graph.SerializeToString())
            else:
                version = v1.train.SaverDef.V1 if flavour == "V1" else v1.train.SaverDef.V2
                path = v1.train.Saver(write_version=version, sharded=flavour == "sharded").save(session, path)
            paths[flavour] = path
    return {"paths": paths}, out


def partitioned(job, arrays):
    """Two variables cut into parts along an axis, saved as V2 and V1; answers their values."""
    rng, out, paths = np.random.default_rng(3), {}, {}
    shapes = {"rows/kernel": ((7, 130, 3), 0, 3), "columns/kernel": ((2, 200, 5), 1, 2)}
    with v1.Graph().as_default(), v1.Session(config=SESSION) as session:
        made = {}
        for name, (shape, axis, parts) in shapes.items():
            cut = v1.fixed_size_partitioner(parts, axis)
            with v1.variable_scope(name.rsplit("/", 1)[0], partitioner=cut):
                made[name] = v1.get_variable(name.rsplit("/", 1)[1], shape)
        v1.get_variable("whole", initializer=rng.integers(0, 99, (3, 2)).astype("i8"))
        v1.get_variable("scalar", initializer=np.float64(2.5))
        v1.get_variable("truth", initializer=np.array([True, False]))
        session.run(v1.global_variables_initializer())
        for flavour in ("V2", "V1"):
            saver = v1.train.Saver(write_version=getattr(v1.train.SaverDef, flavour))
            paths[flavour] = saver.save(session, str(Path(job["folder"]) / ("parts_" + flavour)))
        for name, variable in made.items():
            out[name] = session.run(tf.convert_to_tensor(variable))
        for variable in v1.global_variables():
            if "/" not in variable.op.name:
                out[variable.op.name] = session.run(variable)
    return {"paths": paths}, out


def activations(job, arrays):
    """Every probe for ``input`` (N, 3, H, W), NCHW, and detections of image i as ``<i>/detections`` (n, 6)."""
    with v1.Graph().as_default(), v1.Session(config=SESSION) as session:
        probes = tf_hikapok.build(job["width"], job["classes"], job.get("scope", "ssd300"))
        v1.train.Saver().restore(session, job["path"])  # raises when a variable is missing
        out = session.run(probes, {"input:0": arrays["input"].transpose(0, 2, 3, 1)})
    return {}, _with_detections(out)


def _with_detections(values):
    """Values by probe as an answer's arrays: NCHW, and detections by the rebuilt rule."""
    out = {"probes/" + n: a.transpose(0, 3, 1, 2) if a.ndim == 4 else a for n, a in values.items()}
    for index, (loc, conf) in enumerate(zip(out["probes/@loc"], out["probes/@conf"], strict=True)):
        out[f"{index}/detections"] = tf_hikapok.detect(loc, conf)
    return out


def frozen(job, arrays):
    """A frozen graph as it is, for ``input`` (N, 3, H, W), NCHW: the outputs of ``layers`` (layer -> its weight's node), and the heads.

    ``loc`` and ``conf`` name the weights' nodes of the heads, in the order of their maps. Detections as ``activations``.
    """
    stored = v1.GraphDef()
    stored.ParseFromString(Path(job["path"]).read_bytes())
    graph = tf_frozen.Graph(stored)
    wanted = {name: graph.layer(weight) for name, weight in job["layers"].items()}
    heads = {kind: [graph.layer(weight) for weight in job[kind]] for kind in ("loc", "conf")}
    joined = {kind: graph.joined(nodes) for kind, nodes in heads.items()}
    for kind, nodes in heads.items():
        wanted |= {f"@{kind}{k}": node for k, node in enumerate([joined[kind]] if joined[kind] else nodes)}
    entry = graph.entry(job["first"])
    graph.check(wanted.values(), entry)
    with v1.Graph().as_default() as made, v1.Session(config=SESSION) as session:
        v1.import_graph_def(stored, name="")
        tensors = {name: made.get_tensor_by_name(node + ":0") for name, node in wanted.items()}
        out = session.run(tensors, {entry + ":0": arrays["input"].transpose(0, 2, 3, 1)})
    count = len(arrays["input"])
    for kind, columns in (("loc", 4), ("conf", job["classes"])):
        parts = [out.pop(name) for name in [n for n in out if n.startswith("@" + kind)]]
        out["@" + kind] = np.concatenate([part.reshape(count, -1, columns) for part in parts], 1)
    return {"joined": joined, "entry": entry}, _with_detections(out)


def graph(job, arrays):
    """``nodes`` of a frozen graph for ``input`` (N, 3, H, W), NCHW, and a face-mask detector's boxes as ``<i>/detections``."""
    stored = v1.GraphDef()
    stored.ParseFromString(Path(job["path"]).read_bytes())
    (first,) = [node.name for node in stored.node if node.op == "Placeholder"]
    with v1.Graph().as_default(), v1.Session(config=SESSION) as session:
        found = v1.import_graph_def(stored, return_elements=[name + ":0" for name in job["nodes"]], name="")
        values = session.run(found, {first + ":0": arrays["input"].transpose(0, 2, 3, 1)})
    values = dict(zip(job["nodes"], values, strict=True))
    out = {"nodes/" + n: a.transpose(0, 3, 1, 2) if a.ndim == 4 else a for n, a in values.items()}
    (loc,), (scores,) = ([a for n, a in values.items() if n.startswith(w + "_branch")] for w in ("loc", "cls"))
    for index in range(len(loc)):
        out[f"{index}/detections"] = aizoo_boxes.detect(loc[index], scores[index])
    return {}, out


def prepare(job, arrays):
    """RGB uint8 arrays (H, W, 3) as the source's evaluation prepares them: (300, 300, 3), BGR, by TensorFlow 1's resize."""
    mean = np.array([103.94, 116.78, 123.68], np.float32)
    out = {}
    for name, image in arrays.items():
        resized = v1.image.resize_images(
            image.astype(np.float32), (300, 300), v1.image.ResizeMethod.BILINEAR, align_corners=False
        )
        out[name] = resized.numpy()[..., ::-1] - mean
    return {}, out


def restore(job, arrays):
    """All variables of the network and ``global_step`` after a Saver restored ``path``, which must hold every one."""
    with v1.Graph().as_default(), v1.Session(config=SESSION) as session:
        tf_hikapok.build(job["width"], job["classes"])
        v1.train.get_or_create_global_step()
        v1.train.Saver().restore(session, job["path"])
        return {}, {variable.op.name: session.run(variable) for variable in v1.global_variables()}


def read(job, arrays):
    """All variables of the checkpoint ``path``, by TensorFlow's own reader, and the seconds that it took."""
    start = time.perf_counter()
    reader = tf.train.load_checkpoint(job["path"])
    out = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    return {"seconds": time.perf_counter() - start}, out


def detector(job, arrays):
    """A frozen detection graph as it is: see ``tf_detector.run``."""
    return tf_detector.run(job, arrays, SESSION)


def detector_pixels(job, arrays):
    """Images as a frozen detection graph prepares them: see ``tf_detector.prepared``."""
    return tf_detector.prepared(job, arrays, SESSION)


DO = {
    f.__name__: f
    for f in (build, partitioned, activations, frozen, graph, prepare, read, restore, detector, detector_pixels)
}


def main(folder):
    folder = Path(folder)
    jobs = json.loads((folder / "request.json").read_text())["jobs"]
    with np.load(str(folder / "request.npz")) as stored:
        given = {key: stored[key] for key in stored.files}
    answers, arrays = [], {}
    for index, job in enumerate(jobs):
        head = f"{index}/"
        mine = {key[len(head) :]: value for key, value in given.items() if key.startswith(head)}
        answer, out = DO[job["do"]](job, mine)
        answers.append(answer)
        arrays.update({head + key: value for key, value in out.items()})
    versions = {"tensorflow": tf.__version__, "numpy": np.__version__, "python": sys.version.split()[0]}
    (folder / "response.json").write_text(json.dumps({"jobs": answers, "versions": versions}))
    np.savez(str(folder / "response.npz"), **arrays)


if __name__ == "__main__":
    main(sys.argv[1])
