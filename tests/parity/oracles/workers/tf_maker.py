"""What tests want of TensorFlow besides ``tf_worker``'s jobs: checkpoints that it wrote, what it restores, and its resize."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[4] / "parity" / "oracles" / "workers"))

import numpy as np
from serving import serve
from tf_worker import JOBS, SESSION, network, tf, v1  # which sets how TensorFlow runs before it loads it


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
        probes = network(job["width"], job["classes"])
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


def restore(job, arrays):
    """All variables of the network and ``global_step`` after a Saver restored ``path``, which must hold every one."""
    with v1.Graph().as_default(), v1.Session(config=SESSION) as session:
        network(job["width"], job["classes"])
        v1.train.get_or_create_global_step()
        v1.train.Saver().restore(session, job["path"])
        return {}, {variable.op.name: session.run(variable) for variable in v1.global_variables()}


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


if __name__ == "__main__":
    serve(*JOBS, build, partitioned, restore, prepare)
