"""Training steps beside the original code: the numbers that tests judge and ``tools/evidence.py`` writes down.

ssd.pytorch and simple-ssd were run for three updates each (torch 2.13, CPU, float32, their own network, loss and optimizer, from
seeded weights on a made batch); what is kept of it in ``tests/parity/steps_<name>.npz`` are numbers: losses before each update and, of
every tensor, sum and largest size of its change and sixteen of its values. Keras' and TensorFlow's update rules are run live, and so
are Caffe's solvers, on an SSD300 with its own priors, matching and loss.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssdconv.parity.oracles.worker import Worker
from ssdconv.parity.steps.compare import StepReport, oracle_trace, step_parity
from ssdconv.parity.steps.reference import StepBatch, StepPlan, Trace, made_batch, reference_trace
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.ssd_ref.model import SSD, seeded_tensors
from ssdconv.ssd_ref.networks.caffe import vgg
from ssdconv.ssd_ref.networks.registry import network
from ssdconv.ssd_ref.networks.small import small_ssd
from ssdconv.train.optimizer import make_optimizer
from ssdconv.train.recipe import Recipe, set_factor
from ssdconv.train.recipes import recipe_of

RECORDED = {"ssd.pytorch": "pytorch/ssd_pytorch_ssd300_voc", "simple-ssd": "pytorch/simple_ssd_ssd300_voc"}
UPDATES = {
    "keras": ("momentum", "l2", 5e-4),
    "ssd_keras": ("keras_sgd", "l2", 5e-4),
    "tensorflow": ("momentum", "l2_loss", 5e-4),
}
"""Recipe -> TensorFlow's rule, form of the penalty, and the number that the project writes."""
SOLVERS = {"caffe": StepPlan((1, 2, 3, 4, 5), 1e-3, (2,)), "caffe-mobilenet": StepPlan((1, 2, 3), 1e-6, (2,))}
"""Recipe -> updates by Caffe's solver: SGD, RMSProp. The rate drops to a tenth before the third."""
WORKER = Worker("tensorflow", str(Path(__file__).parent / "workers" / "tf_updates"))
SEED, RATE, STEPS = 3, 1e-4, 3
NUMBERS = Path(__file__).resolve().parents[1] / "tests" / "parity" / "steps"
UPDATE_STEPS, DROP = 5, 2


@dataclass(frozen=True)
class Steps:
    """Three updates beside the original's.

    Attributes:
        losses: largest relative difference of loc and conf before each update.
        weights: largest difference of a value after three updates, over the tensor's largest change.
        floor: what float32's rounding of the weights themselves makes of it.
        changes: largest difference of a tensor's summed change, over the sum of its changes' sizes.
        tensors: compared.
    """

    losses: float
    weights: float
    floor: float
    changes: float
    tensors: int


def recorded(name: str, recipe: Recipe | None = None, updates: int = STEPS) -> Steps:
    """Run the reference as ssd.pytorch or simple-ssd was run, and compare.

    Args:
        recipe: default: the project's own.
        updates: fewer compare the losses only.
    """
    config = network(RECORDED[name])
    tensors = calm(config, SEED)
    plan = StepPlan((updates,), RATE)
    ours = reference_trace(
        config, tensors, made_batch(config, 2, 6, SEED), recipe or recipe_of(name), plan, torch.float32
    )
    with np.load(NUMBERS / f"steps_{name.replace('.', '_').replace('-', '_')}.npz", allow_pickle=False) as file:
        names, numbers, losses = file["names"].tolist(), file["numbers"], file["losses"]
    worst = np.abs(ours.losses / losses[:updates] - 1).max()
    if updates < STEPS:
        return Steps(float(worst), 0.0, 0.0, 0.0, 0)
    rng = np.random.default_rng(11)
    weights = floor = changes = 0.0
    for key, row in zip(names, numbers, strict=True):
        value = ours.weights[STEPS][key]
        places = rng.integers(0, value.size, 16)
        change = value.astype(np.float64) - tensors[key]
        largest = max(row[2], 1e-30)
        if row[2] == 0:
            assert not change.any(), key
            continue
        weights = max(weights, float(np.abs(value.ravel()[places] - row[3:]).max() / largest))
        floor = max(floor, float(np.abs(tensors[key]).max() * 2.0**-24 / largest))
        changes = max(changes, float(abs(change.sum() - row[0]) / row[1]))
    return Steps(float(worst), weights, floor, changes, len(names))


def calm(config: SSDConfig, seed: int) -> dict[str, Any]:
    """Seeded tensors with heads as small as those of a trained network."""
    return {
        key: array * np.float32(0.1) if key.startswith("heads.") and "l2norm" not in key else array
        for key, array in seeded_tensors(config, seed).items()
    }


def given() -> tuple[SSDConfig, dict[str, Any], StepBatch]:
    """What Caffe's solvers train: SSD300 with a sixteenth of the channels, seeded weights, one image."""
    config = vgg("ssd300_voc", width=4)
    return config, calm(config, 2), made_batch(config, 1, 6, 2)


def solver_recipe(name: str) -> Recipe:
    """Caffe's recipe, with the update rule of the one named."""
    caffe = recipe_of("caffe")
    return replace(caffe, optimizer=replace(recipe_of(name).optimizer, rules=caffe.optimizer.rules))


def solved(name: str) -> Trace:
    """Some updates by Caffe.

    Raises:
        MissingError: Caffe's oracle is not installed.
    """
    return oracle_trace(*given(), solver_recipe(name), SOLVERS[name], "float32")


def beside(theirs: Trace, recipe: Recipe, plan: StepPlan) -> StepReport:
    """The same updates by ``recipe``, compared with ``theirs``."""
    config, tensors, batch = given()
    return step_parity(config, tensors, batch, recipe=recipe, plan=plan, precision="float32", theirs=theirs)


def updates(name: str) -> float:
    """Five updates of one tensor by the recipe and by TensorFlow or Keras in double precision, the rate drops before the third:
    the largest difference over the largest change.

    Raises:
        MissingError: TensorFlow's oracle is not installed.
    """
    rule, form, decay = UPDATES[name]
    recipe = recipe_of(name)
    recipe = replace(recipe, optimizer=replace(recipe.optimizer, momentum=float(np.float32(recipe.optimizer.momentum))))
    model = SSD(small_ssd(("a", "b"), 64, 4)).double()
    param = next(p for n, p in model.named_parameters() if n.startswith("heads.conf") and n.endswith("weight"))
    rng = np.random.default_rng(5)
    start, gradients = rng.normal(0, 0.3, param.numel()), rng.normal(0, 0.1, (UPDATE_STEPS, param.numel()))
    lr, factor = 0.0625, 0.25  # exact in float32, which holds the frameworks' constants whatever the weights are
    rates = np.array([lr if k < DROP else lr * factor for k in range(UPDATE_STEPS)])
    job: dict[str, Any] = {"do": "update", "rule": rule, "form": form, "decay": decay, "momentum": 0.9}
    given = {"0/w": start, "0/gradients": gradients, "0/rates": rates}
    theirs = WORKER.ask([job], given).arrays["0/weights"]
    with torch.no_grad():
        param.copy_(torch.from_numpy(start).view_as(param))
    optimizer = make_optimizer(model, recipe, lr)
    worst = 0.0
    for k in range(UPDATE_STEPS):
        if k == DROP:
            set_factor(optimizer, factor)
        param.grad = torch.from_numpy(gradients[k]).view_as(param)
        optimizer.step()
        change, wanted = param.detach().numpy().ravel() - start, theirs[k] - start
        worst = max(worst, float(np.abs(change - wanted).max() / np.abs(wanted).max()))
    return worst
