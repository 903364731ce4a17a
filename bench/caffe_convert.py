"""A .caffemodel the size of SSD300-VGG16 to .pth and .safetensors, end to end, against writing the same bytes.

Peers: (1) writing and flushing the same number of bytes, atomically, as the conversion does; (2) google.protobuf's full
parse of the file followed by ``torch.save``, through numpy or through Python lists (as caffemodel2pytorch does). Ours
includes recognising the network, checking it, and the SHA-256 of the source file; ``pth_with_rows`` also the digest and
statistics of every tensor. Each measurement runs in a process of its own, interleaved, on a warm cache;
the best of ``--repeat`` counts. Memory is the peak of the process's own pages (``RssAnon``) over what it had with torch and
ssdconv imported. Prints one JSON object; on a shared machine read the ratios.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

CHILD = r"""
import json, sys, threading, time
from pathlib import Path
import numpy as np, torch
from ssdconv.converters.convert import convert
from ssdconv.converters.caffe.schema import messages
from ssdconv.ssd_ref import checkpoint
from ssdconv.ssd_ref.files import atomic_path
from ssdconv.ssd_ref.networks.registry import network

way, source, out = sys.argv[1], *map(Path, sys.argv[2:])

def anon():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024

def prepare():
    small = source.with_name("small.caffemodel")
    convert(small, out.with_name("warm.pth"))

def raw():
    with atomic_path(out) as path, open(path, "wb") as stream:
        stream.write(data)

def ours():
    convert(source, out, digests=False)

def ours_with_rows():
    convert(source, out)

def protobuf():
    net = messages()["Net"]()
    net.ParseFromString(source.read_bytes())
    state = {}
    for layer in net.layer:
        for index, blob in enumerate(layer.blobs):
            shape = tuple(blob.shape.dim)
            if way == "protobuf_lists":
                tensor = torch.FloatTensor(list(blob.data)).reshape(shape)
            else:
                tensor = torch.from_numpy(np.array(blob.data, dtype=np.float32)).reshape(shape)
            state[f"{layer.name}/{index}"] = tensor
    torch.save(state, out)

run = {"raw": raw, "pth": ours, "safetensors": ours, "pth_with_rows": ours_with_rows, "protobuf": protobuf,
       "protobuf_lists": protobuf}[way]
prepare()
data = source.read_bytes() if way == "raw" else source.read_bytes()[:0]
base, peak, stop = anon(), 0, threading.Event()
def watch():
    global peak
    while not stop.wait(0.0005):
        peak = max(peak, anon())
watcher = threading.Thread(target=watch, daemon=True)
started = time.perf_counter()
run()
seconds = time.perf_counter() - started
watcher.start()
run()
stop.set(); watcher.join()
print(json.dumps({"seconds": seconds, "memory": max(peak, anon()) - base}))
"""


def child(way: str, source: Path, out: Path) -> dict[str, Any]:
    """One measurement in a fresh process."""
    command = [sys.executable, "-c", CHILD, way, str(source), str(out)]
    done: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return done


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    repeat = parser.parse_args().repeat
    from ssdconv.converters.convert import reverse
    from ssdconv.ssd_ref import checkpoint
    from ssdconv.ssd_ref.model import seeded_tensors
    from ssdconv.ssd_ref.networks.caffe import vgg
    from ssdconv.ssd_ref.networks.registry import network

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        largest = 0
        for name, config in (("full", network("ssd300_voc")), ("small", vgg("ssd300_voc", width=4))):
            tensors = seeded_tensors(config)
            largest = max(largest, *(t.nbytes for t in tensors.values()))
            checkpoint.save(root / "net.safetensors", config, tensors)
            reverse(root / "net.safetensors", root / f"{name}.caffemodel", "caffe")
        source = root / "full.caffemodel"
        outputs = {
            "protobuf_lists": "d.pth",
            "raw": "raw.bin",
            "pth": "a.pth",
            "safetensors": "a.safetensors",
            "pth_with_rows": "b.pth",
            "protobuf": "c.pth",
        }
        found: dict[str, list[dict[str, Any]]] = {way: [] for way in outputs}
        for _ in range(repeat):
            for way, out in outputs.items():
                found[way].append(child(way, source, root / out))
        best = {way: min(r["seconds"] for r in rows) for way, rows in found.items()}
        memory = {way: min(r["memory"] for r in rows) for way, rows in found.items()}
        print(
            json.dumps(
                {
                    "bytes": source.stat().st_size,
                    "peers": {
                        "raw": "write + fsync + rename of the same bytes",
                        "protobuf": "google.protobuf, numpy.array of each blob, torch.save",
                        "protobuf_lists": "google.protobuf, torch.FloatTensor(list) of each blob, torch.save",
                    },
                    "seconds": {way: round(s, 4) for way, s in best.items()},
                    "pth_over_raw": round(best["pth"] / best["raw"], 2),
                    "safetensors_over_raw": round(best["safetensors"] / best["raw"], 2),
                    "pth_with_rows_over_raw": round(best["pth_with_rows"] / best["raw"], 2),
                    "protobuf_over_pth": round(best["protobuf"] / best["pth"], 2),
                    "protobuf_lists_over_pth": round(best["protobuf_lists"] / best["pth"], 2),
                    "private_MB": {way: round(m / 1e6, 1) for way, m in memory.items()},
                    "largest_tensor_MB": round(largest / 1e6, 1),
                },
                indent=2,
            )
        )


if __name__ == "__main__":
    main()
