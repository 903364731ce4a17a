"""Trains in child processes that are killed at random moments, until one comes to the end; then says how it went.

The children are forked from a process that has imported everything, so that a death costs milliseconds and not seconds.
A life ends some milliseconds after a random number of changes in its folder, so that a slow machine sees the same deaths.
Usage: DATA FOLDER SEED KILLS CHANGES (at most so many in a life); prints JSON: kills, newest state at each death, digests of the final weights and of the log.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import sys
import time

import torch

from ssdconv.ssd_ref.checkpoint import read
from ssdconv.ssd_ref.data.custom import open_custom
from ssdconv.ssd_ref.data.records import Dataset
from ssdconv.ssd_ref.model import SSD
from ssdconv.ssd_ref.networks.small import small_ssd
from ssdconv.ssd_ref.train.edit import edited
from ssdconv.ssd_ref.train.loop import Training
from ssdconv.ssd_ref.train.recipes import recipe_of
from ssdconv.ssd_ref.train.run_folder import Identity, RunFolder, describe_data
from ssdconv.ssd_ref.train.samples import TrainingSet
from ssdconv.ssd_ref.train.settings import Score, Settings
from ssdconv.ssd_ref.train.start import begin
from ssdconv.ssd_ref.train.step import Terms

PIXELS = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


class Quiet:
    def step(self, epoch: int, done: int, total: int, terms: Terms) -> None: ...

    def epoch(self, values: dict[str, object]) -> None: ...

    def note(self, text: str) -> None: ...


def score(model: SSD) -> Score:
    """Some number that depends on the weights, and costs little."""
    with torch.no_grad():
        return Score(float(model(PIXELS)[1].double().std()))


def train(data: Dataset, folder: RunFolder) -> int:
    """One life: from the newest state, or from the start."""
    recipe = edited(recipe_of("gluon"), len(data), batch_size=8, lr=0.002, epochs=3, lr_mode="cos", warmup=4)
    config = small_ssd(data.classes, 64, 4)
    model = SSD(config)
    samples = TrainingSet(data, config, recipe, 1)
    settings = Settings(seed=1, workers=1, eval_every=1, keep=2, save_every=2, log_every=1)
    training = Training(folder, model, samples, recipe, settings, Quiet(), evaluate=score)
    begin(model, recipe, 1)
    resumed = training.resume()
    training.run()
    return resumed


def life(data: Dataset, folder: RunFolder) -> int:
    """Fork a life; its process id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        train(data, folder)
        code = 0
    finally:
        os._exit(code)


def digest(folder: RunFolder) -> dict[str, str | float]:
    """What has to be the same for every way to the end."""
    tensors = hashlib.sha256()
    for path in (folder.last, folder.best):
        for name, tensor in read(path).state_dict.items():
            tensors.update(name.encode() + tensor.numpy().tobytes())
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    told = [{k: v for k, v in line.items() if k not in ("images_per_s", "seconds")} for line in lines]
    return {"weights": tensors.hexdigest(), "log": hashlib.sha256(json.dumps(told).encode()).hexdigest()}


def main() -> None:
    torch.set_num_threads(1)
    data = open_custom(sys.argv[1], "train")
    folder, chance, kills = RunFolder(sys.argv[2]), random.Random(int(sys.argv[3])), int(sys.argv[4])
    most = int(sys.argv[5])
    config = small_ssd(data.classes, 64, 4)
    folder.create(Identity(config, recipe_of("gluon"), describe_data(data), 1, "faithful", False), {})
    states: list[int] = []
    deadline = time.monotonic() + 200
    while True:
        changes = chance.randint(0, most) if len(states) < kills else 10**9
        status = watch(life(data, folder), folder, changes, chance.uniform(0.0, 0.03), deadline)
        if status is None:
            states.append(max((int(p.stem[5:]) for p in folder.states.glob("step-*.state")), default=0))
        elif status == 0:
            break
        else:
            raise SystemExit(f"a life ended with status {status}")
    print(json.dumps({"kills": len(states), "states": states, **digest(folder)}))


def watch(child: int, folder: RunFolder, changes: int, delay: float, deadline: float) -> int | None:
    """The exit status of a life; None where it was killed, ``delay`` seconds after so many changes in its folder."""
    seen = look(folder)
    while changes and time.monotonic() < deadline:
        done, code = os.waitpid(child, os.WNOHANG)
        if done:
            return code
        now = look(folder)
        changes -= now != seen
        seen = now
        time.sleep(0.001)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    return None if os.WIFSIGNALED(os.waitpid(child, 0)[1]) else 0


def look(folder: RunFolder) -> list[tuple[str, int]]:
    """Names and sizes of all files of a run."""
    files = []
    for path in sorted(folder.path.rglob("*")):
        with contextlib.suppress(OSError):
            files.append((str(path), path.stat().st_size))
    return files


if __name__ == "__main__":
    main()
