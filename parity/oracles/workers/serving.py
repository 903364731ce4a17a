"""What every worker does: jobs that come by files, until its stdin ends. NumPy alone; Python 3.6 on. ``../worker.py`` has the other side.

A line on stdin names a folder, ``done`` on stdout says that the answer lies there. ``request.json`` has ``jobs``, each a dict with ``do``, the name of
one of the worker's functions, and its arguments, and ``arrays``, the .npy file of every array, which are named ``<number of the job>/<name>``.
``response.json`` has the same two: what each job says, and its arrays. Whatever libraries print goes to stderr.
"""

import json
import os
import sys
from pathlib import Path

sys.path += sys.argv[1:]  # folders of packages that are borrowed from the caller's interpreter

import numpy as np


def serve(*functions, **named):
    """Do jobs by ``functions``, under their own names or others: ``f(job, arrays) -> (what it says, arrays)``."""
    known = {**{function.__name__: function for function in functions}, **named}
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        folder = Path(line.rstrip("\n"))
        request = json.loads((folder / "request.json").read_text())
        given = {name: np.load(str(folder / file)) for name, file in request["arrays"].items()}
        said, files = [], {}
        for number, job in enumerate(request["jobs"]):
            head = f"{number}/"
            mine = {name[len(head) :]: array for name, array in given.items() if name.startswith(head)}
            words, arrays = known[job["do"]](job, mine)
            said.append(words)
            for name, array in arrays.items():
                files[head + name] = f"out{len(files)}.npy"
                np.save(str(folder / files[head + name]), np.asarray(array), allow_pickle=False)
        (folder / "response.json").write_text(json.dumps({"jobs": said, "arrays": files}))
        print("done", file=out, flush=True)


def filled(model):
    """Raise unless a Keras model's weights, which were not numbers before a file was loaded, are numbers now."""
    missing = [layer.name for layer in model.layers for value in layer.get_weights() if np.isnan(value).all()]
    if missing:
        raise SystemExit(f"not in the file: {missing[:5]}")


def emptied(model):
    """A Keras model with weights that are not numbers, to see which of them a file fills."""
    for layer in model.layers:
        layer.set_weights([np.full(value.shape, np.nan, np.float32) for value in layer.get_weights()])
    return model


VARIANCES = np.float32([0.1, 0.1, 0.2, 0.2])


def boxed(priors, loc, variances=VARIANCES):
    """Boxes (P, 4) of centre codes, as two corners: ``priors`` and ``loc`` (P, 4) both cx, cy, w, h or both cy, cx, h, w."""
    centres = priors[:, :2] + loc[:, :2] * variances[:2] * priors[:, 2:]
    sizes = priors[:, 2:] * np.exp(loc[:, 2:] * variances[2:])
    return np.concatenate([centres - sizes / 2, centres + sizes / 2], 1)
