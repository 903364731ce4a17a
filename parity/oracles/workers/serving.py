"""A worker that answers several requests: a line on stdin names a folder, a line on stdout says that the answer lies there.

The folder holds ``request.json`` and ``<name>.npy`` of each array; the answer is ``response.json``, whose ``arrays`` names the
files of arrays that the worker wrote. Whatever libraries print goes to stderr.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np


def serve(answer):
    """Answer requests with ``answer(request, arrays) -> (data, arrays)`` until stdin ends."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        folder = Path(line.rstrip("\n"))
        request = json.loads((folder / "request.json").read_text())
        given = {name: np.load(folder / file) for name, file in request["arrays"].items()}
        data, arrays = answer(request, given)
        files = {}
        for number, (name, array) in enumerate(arrays.items()):
            files[name] = f"out{number}.npy"
            np.save(folder / files[name], np.asarray(array))
        (folder / "response.json").write_text(json.dumps({"data": data, "arrays": files}))
        print("done", file=out, flush=True)
