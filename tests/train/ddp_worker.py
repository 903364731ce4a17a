"""One process of ``test_distributed``: gradients of its part of a batch, written to a file. Usage: RULES.json BATCH.pt OUT.pt"""

from __future__ import annotations

import sys

import msgspec
import torch

from ssdconv.ssd_ref.model import SSD, seeded_tensors
from ssdconv.ssd_ref.networks.small import small_ssd
from ssdconv.train.distributed import joined, place_from_environment
from ssdconv.train.loader import Batch
from ssdconv.train.loop import TrainStep
from ssdconv.train.matching import Targets
from ssdconv.train.optimizer import make_optimizer
from ssdconv.train.recipe import Recipe
from ssdconv.train.start import training_mode

CLASSES = ("a", "b", "c")


def gradients(recipe: Recipe, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor | float]:
    """Gradients of every parameter, the loss terms and the counts, in float64."""
    place = place_from_environment()
    config = small_ssd(CLASSES, 64, 4)
    model = SSD(config)
    model.load_state_dict({n: torch.from_numpy(t) for n, t in seeded_tensors(config).items()})
    model.double()
    count = len(data["images"]) // place.world
    part = slice(place.rank * count, (place.rank + 1) * count)
    targets = Targets(data["boxes"][part], data["labels"][part], data["valid"][part])
    batch = Batch(data["images"][part], targets, tuple(range(count)))
    step = TrainStep(training_mode(model, recipe), recipe, make_optimizer(model, recipe), place)
    terms = step.gradients(batch)
    found: dict[str, torch.Tensor | float] = {
        n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None
    }
    numbers = {"loc": terms.loc, "conf": terms.conf, "positives": terms.positives, "negatives": terms.negatives}
    return found | {f"terms/{k}": v for k, v in numbers.items()}


def main() -> None:
    torch.set_num_threads(1)
    with open(sys.argv[1], "rb") as file:
        recipes = msgspec.json.decode(file.read(), type=list[Recipe])
    data = torch.load(sys.argv[2], weights_only=True)
    place = place_from_environment()
    with joined(place, torch.device("cpu")):
        found = [gradients(recipe, data) for recipe in recipes]
        place.barrier()
    torch.save(found, f"{sys.argv[3]}.{place.rank}")


if __name__ == "__main__":
    main()
