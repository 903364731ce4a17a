"""Trains in child processes that are killed at chosen moments, until one comes to the end; then says how it went.

The children are forked from a process that has imported everything, so that a death costs milliseconds and not seconds.
A moment is the start of a step, or a file of the run about to be opened for writing, renamed or removed. A life dies by kill -9
at the n-th of them, so that no machine's speed matters; one that dies at a rename has torn its file before, as if it had died
while it wrote.
Usage: DATA FOLDER SEED KILLS MOMENTS (at most so many in a life); prints JSON: what was done at each death, the newest state at each, digests of the final weights and of the log.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from ssdconv.data.custom import open_custom
from ssdconv.data.records import Dataset
from ssdconv.ssd_ref.checkpoint import read
from ssdconv.ssd_ref.model import SSD
from ssdconv.ssd_ref.networks.small import small_ssd
from ssdconv.train.loader import TrainingSet
from ssdconv.train.loop import Settings, Terms, Training, TrainScore
from ssdconv.train.recipe import edited
from ssdconv.train.recipes import recipe_of
from ssdconv.train.run_folder import Identity, RunFolder, describe_data
from ssdconv.train.start import begin

PIXELS = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


class Reaper:
    """Kills its own process at the n-th moment; ``tell`` (a file descriptor) hears what that was."""

    def __init__(self, folder: RunFolder, left: int, tell: int) -> None:
        self.folder, self.left, self.tell = str(folder.path), left, tell
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        path = str(arguments[0]) if arguments else ""
        if event not in ("open", "os.rename", "os.remove") or not path.startswith(self.folder):
            return
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
            return
        self.moment(f"{event.removeprefix('os.')} {path.removeprefix(self.folder + '/')}", path)

    def moment(self, what: str, path: str = "") -> None:
        self.left -= 1
        if self.left == 0:
            if what.startswith("rename"):
                os.truncate(path, Path(path).stat().st_size // 2)
            os.write(self.tell, what.encode())
            os.kill(os.getpid(), signal.SIGKILL)


class Quiet:
    reaper: Reaper | None = None

    def step(self, epoch: int, done: int, total: int, terms: Terms) -> None:
        if self.reaper is not None:
            self.reaper.moment(f"step {done}")

    def epoch(self, values: dict[str, object]) -> None: ...

    def note(self, text: str) -> None: ...


def score(model: SSD) -> TrainScore:
    """Some number that depends on the weights, and costs little."""
    with torch.no_grad():
        return TrainScore(float(model(PIXELS)[1].double().std()))


def train(data: Dataset, folder: RunFolder, listener: Quiet) -> int:
    """One life: from the newest state, or from the start."""
    recipe = edited(recipe_of("gluon"), len(data), batch_size=8, lr=0.002, epochs=3, lr_mode="cos", warmup=4)
    config = small_ssd(data.classes, 64, 4)
    model = SSD(config)
    samples = TrainingSet(data, config, recipe, 1)
    settings = Settings(seed=1, workers=1, eval_every=1, keep=2, save_every=2, log_every=1)
    training = Training(folder, model, samples, recipe, settings, listener, evaluate=score)
    begin(model, recipe, 1)
    resumed = training.resume()
    training.run()
    return resumed


def life(data: Dataset, folder: RunFolder, moments: int) -> str | None:
    """Live until the ``moments``-th moment; what was done then, None for a life that came to the end of the training."""
    hear, tell = os.pipe()
    child = os.fork()
    if not child:
        code = 1
        try:
            listener = Quiet()
            listener.reaper = Reaper(folder, moments, tell)
            train(data, folder, listener)
            code = 0
        finally:
            os._exit(code)
    os.close(tell)
    last = os.read(hear, 1000).decode()  # returns when the child has told, or is gone
    _, status = os.waitpid(child, 0)
    os.close(hear)
    if os.WIFSIGNALED(status):
        return last
    if status:
        raise SystemExit(f"a life ended with status {status}")
    return None


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
    deaths: list[str] = []
    states: list[int] = []
    while True:
        death = life(data, folder, chance.randint(1, most) if len(deaths) < kills else 0)
        if death is None:
            break
        deaths.append(death)
        states.append(max((int(p.stem[5:]) for p in folder.states.glob("step-*.state")), default=0))
    print(json.dumps({"deaths": deaths, "states": states, **digest(folder)}))


if __name__ == "__main__":
    main()
