"""``ssdconv doctor``: versions, devices, and which oracles answer on this machine."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from dataclasses import asdict, dataclass

from ssdconv import __version__
from ssdconv.commands.output import print_json, table, working
from ssdconv.commands.verb import Group
from ssdconv.errors import EXIT_MISSING, EXIT_OK

NAME = "doctor"
GROUP: Group = "housekeeping"
HELP = "show versions and devices, and try which oracles answer"
EXAMPLES: tuple[str, ...] = ("ssdconv doctor", "ssdconv doctor --json")

NEEDED = (
    "torch",
    "numpy",
    "opencv-python-headless",
    "protobuf",
    "h5py",
    "safetensors",
    "msgspec",
    "rich",
    "google-crc32c",
)
OPTIONAL = ("pycocotools", "onnx", "onnxscript", "onnxruntime")
ORACLE_SECONDS = 60.0
# One layer that needs no weights: enough to see that OpenCV's Caffe importer and its network run.
PROBE_NET = b"""
input: "data" input_shape { dim: 1 dim: 1 dim: 1 dim: 4 }
layer { name: "relu" type: "ReLU" bottom: "data" top: "relu" relu_param { negative_slope: 0.5 } }
"""


@dataclass(frozen=True)
class OracleState:
    """Whether one oracle answers, and what it said."""

    name: str
    answers: bool
    detail: str


def configure(parser: ArgumentParser) -> None:
    """No arguments of its own."""


def run(args: Namespace) -> int:
    packages = {name: installed(name) for name in (*NEEDED, *OPTIONAL)}
    missing = [name for name in NEEDED if packages[name] is None]
    with working("trying the oracles"):
        oracles = [opencv_oracle(), *isolated_oracles()]
        devices = torch_devices()
    facts = {
        "ssdconv": __version__,
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "devices": devices,
        "cache": cache_folder(),
        "packages": packages,
        "oracles": [asdict(state) for state in oracles],
        "missing": missing,
    }
    if args.json:
        print_json(facts)
    else:
        rows: list[tuple[str, object]] = [
            ("ssdconv", __version__),
            ("python", f"{facts['python']} ({sys.executable})"),
            ("platform", f"{facts['platform']}, {facts['cpus']} CPUs"),
            ("torch devices", ", ".join(devices) or "none"),
            ("cache folder", facts["cache"]),
            *((name, found or "not installed") for name, found in packages.items()),
            *((f"oracle {s.name}", f"{'answers' if s.answers else 'does not answer'}: {s.detail}") for s in oracles),
        ]
        print(table(rows, ("what", "found")))
        if missing:
            print(f"\nmissing: {', '.join(missing)}\n  next step: python -m pip install {' '.join(missing)}")
    return EXIT_MISSING if missing else EXIT_OK


def installed(package: str) -> str | None:
    """Version of an installed package, None where it is absent; other builds of OpenCV count as OpenCV."""
    from importlib.metadata import PackageNotFoundError, version

    names = (package, "opencv-python", "opencv-contrib-python") if package.startswith("opencv") else (package,)
    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def torch_devices() -> list[str]:
    """The devices that torch can use, by name."""
    try:
        import torch
    except ImportError:
        return []
    cuda = [f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    return [f"cpu ({torch.get_num_threads()} threads)", *cuda]


def cache_folder() -> str:
    """Where downloads and oracles are kept, with its size when it exists."""
    from ssdconv.ssd_ref.files import home

    folder = home()
    if not folder.is_dir():
        return f"{folder} (not there yet)"
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return f"{folder} ({size / 1e6:,.0f} MB)"


def isolated_oracles() -> list[OracleState]:
    """The oracles with interpreters of their own: each one that is installed has to run its check statement."""
    from ssdconv.parity.oracles.environments import environment, states

    found = []
    for state in states():
        if not state.installed:
            found.append(OracleState(state.name, False, f"{state.reason}; `{state.next_step}` makes it"))
            continue
        env = environment(state.name)
        found.append(OracleState(state.name, *_answers([str(env.python), "-c", env.check], env.title)))
    return found


def _answers(command: list[str], title: str) -> tuple[bool, str]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ORACLE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return False, str(error)
    return (True, title) if done.returncode == 0 else (False, (done.stderr.strip() or "no message").splitlines()[-1])


def opencv_oracle() -> OracleState:
    """Run a one-layer Caffe net through OpenCV and check what comes out."""
    try:
        import cv2
        import numpy as np

        net = cv2.dnn.readNetFromCaffe(np.frombuffer(PROBE_NET, np.uint8))
        net.setInput(np.array([[[[-2.0, -1.0, 0.0, 3.0]]]], np.float32))
        got = net.forward().ravel().tolist()
    except Exception as error:  # noqa: BLE001 - whatever OpenCV raises is the very thing to report
        return OracleState("opencv", False, str(error).strip().splitlines()[0])
    right = got == [-1.0, -0.5, 0.0, 3.0]
    return OracleState("opencv", right, f"OpenCV {cv2.__version__} runs Caffe nets" if right else f"ReLU gave {got}")
