"""Training samples: an annotated image through a recipe's augmentation, as the network and the loss want it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ssdconv.data.images import record_image
from ssdconv.data.problems import EmptySetError
from ssdconv.data.records import Dataset, Record
from ssdconv.errors import SsdconvError, UsageError
from ssdconv.ssd_ref.config import SSDConfig
from ssdconv.train.augment.draw import check, draw
from ssdconv.train.augment.faithful import render as render_faithful
from ssdconv.train.augment.fast import render as render_fast
from ssdconv.train.augment.fill import fill_value
from ssdconv.train.recipe import Recipe

Mode = Literal["faithful", "fast"]


@dataclass(frozen=True, eq=False)
class Sample:
    """One augmented image.

    Attributes:
        image: (height, width, 3) of the network's size, BGR, 0..255, uint8 or float32 as the recipe works (``fast``: uint8);
            float32 of recipes that do not clip may leave the range.
        boxes: (g, 4) float64 xyxy, fractions of the image.
        labels: (g,) int64 conf channels.
        keep: (g,) bool; False for boxes without area, which nothing can be matched to.
    """

    image: npt.NDArray[Any]
    boxes: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    keep: npt.NDArray[np.bool_]


class TrainingSet:
    """A data set seen through a recipe.

    ``sample`` is a pure function of (seed, epoch, index): order, threads, ranks and resumption do not change it.

    Args:
        dataset: records and image files.
        config: the network: pixels, class channels, background.
        recipe: its augmentation, ``difficult`` and ``origin``.
        seed: of all random numbers.
        mode: ``faithful``: the recipe's stages in its order at the image's own size; ``fast``: the same plan with all geometry
            in one step and colours changed afterwards, on the small image.
        cache: keep decoded images in memory.

    Raises:
        EmptySetError: the set has no image.
        UsageError: the network's classes are not the set's.
    """

    def __init__(
        self,
        dataset: Dataset,
        config: SSDConfig,
        recipe: Recipe,
        seed: int = 0,
        mode: Mode = "faithful",
        cache: bool = False,
    ) -> None:
        if not len(dataset):
            raise EmptySetError("the data set has no image", where=dataset.name)
        if seed < 0:
            raise UsageError("a seed is a whole number from 0 on", got=seed)
        check(recipe.augment)
        self.dataset, self.config, self.recipe, self.seed, self.mode = dataset, config, recipe, seed, mode
        self.channels = class_channels(dataset, config)
        self._fill = None if recipe.augment.expand is None else fill_value(config.pixels, recipe.augment.expand.fill)
        self._images: dict[int, npt.NDArray[np.uint8]] | None = {} if cache else None

    def __len__(self) -> int:
        return len(self.dataset)

    def name(self, index: int) -> str:
        """File of an image, or its id, for messages."""
        try:
            record = self.dataset[index]
        except SsdconvError:
            return self.dataset.image_ids[index]
        return str(record.path or record.image_id)

    def sample(self, index: int, epoch: int) -> Sample:
        """The augmented image ``index`` of ``epoch``.

        Raises:
            MissingImageError, UnreadableImageError, SizeMismatchError, AnnotationError: see ``ssd_ref.data``.
        """
        record = self.dataset[index]
        image = self._image(index, record)
        boxes, labels = objects(record, self.dataset.origin, self.recipe)
        height, width = image.shape[:2]
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence((self.seed, epoch, index, 1))))
        spec = self.recipe.augment
        plan = draw(spec, (width, height), boxes, rng)
        render = render_fast if self.mode == "fast" else render_faithful
        pixels = render(image, plan, spec, self.config.pixels.size, self._fill)
        found = np.asarray(plan.boxes, np.float64)
        keep = (found[:, 2] > found[:, 0]) & (found[:, 3] > found[:, 1])
        return Sample(pixels, found, self.channels[labels[plan.index]], keep)

    def _image(self, index: int, record: Record) -> npt.NDArray[np.uint8]:
        if self._images is None:
            return record_image(record)
        if index not in self._images:
            self._images[index] = record_image(record)
        return self._images[index]


def objects(record: Record, origin: int, recipe: Recipe) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Boxes and labels of a record that a recipe trains on.

    Crowds are left out, and what ``recipe.difficult`` says; corners of a 1-based set are moved by ``recipe.origin``.

    Args:
        record: the image's objects.
        origin: the set's (``Dataset.origin``).
        recipe: the rules.

    Returns:
        (g, 4) float64 xyxy in pixels of the image, and (g,) labels of the data set.
    """
    chosen = ~record.crowd
    if recipe.difficult != "keep":
        easy = chosen & ~record.difficult
        if recipe.difficult == "drop_keep_one" and not easy.any() and chosen.any():
            easy[np.argmax(chosen)] = True
        chosen = easy
    shift = recipe.origin if origin == 1 else 0
    return record.boxes[chosen] - float(shift), record.labels[chosen]


def class_channels(dataset: Dataset, config: SSDConfig) -> npt.NDArray[np.int64]:
    """(classes,) conf channel of each label of a data set: by name where the network knows names, else in order.

    Raises:
        UsageError: another number of classes, or other names.
    """
    background = config.detect.background
    free = [c for c in range(config.num_classes) if c != background]
    names = [config.class_names[c] for c in free] if config.class_names else list(dataset.classes)
    if len(free) != len(dataset.classes) or set(names) != set(dataset.classes):
        strangers = [n for n in dataset.classes if n not in names]
        raise UsageError(
            "the network's classes are not the data set's",
            where=f"{config.name} and {dataset.name}",
            expected=f"{len(free)} classes: {', '.join(names) if config.class_names else 'of any name'}",
            got=f"{len(dataset.classes)} classes"
            + (f", among them {', '.join(strangers[:5])}" if strangers and config.class_names else ""),
            hint="give the network the data set's classes (training from scratch or fine-tuning with new heads)",
        )
    return np.asarray([free[names.index(n)] for n in dataset.classes], np.int64)
