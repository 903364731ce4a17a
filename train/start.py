"""The values that a training starts from: a file's where there is one, the recipe's initialisers elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from torch import Tensor

from ssdconv.errors import MappingError
from ssdconv.ssd_ref.model import SSD
from ssdconv.train.init import initialise
from ssdconv.train.recipe import Recipe


@dataclass(frozen=True)
class Start:
    """Where the values come from.

    Attributes:
        source: file, or "" for none.
        kept: tensors that the file brought.
        renewed: tensors that the file has too, but for other classes.
        drawn: parameters that the recipe's initialisers set, the renewed ones among them.
    """

    source: str
    kept: tuple[str, ...]
    renewed: tuple[str, ...]
    drawn: tuple[str, ...]

    @property
    def text(self) -> str:
        """One line for the user."""
        if not self.source:
            return f"from scratch: {len(self.drawn)} tensors drawn by the recipe's initialisers"
        new = (
            f", {len(self.renewed)} renewed for the new classes ({', '.join(self.renewed[:3])}, …)"
            if self.renewed
            else ""
        )
        others = len(self.drawn) - len(set(self.renewed) & set(self.drawn))
        return f"{self.source}: {len(self.kept)} tensors kept{new}" + (f", {others} others drawn" if others else "")

    def to_json(self) -> dict[str, object]:
        """JSON-ready data."""
        return asdict(self)


def begin(
    model: SSD,
    recipe: Recipe,
    seed: int,
    tensors: Mapping[str, Tensor] | None = None,
    renew: Sequence[str] = (),
    source: str = "",
) -> Start:
    """Fill a network with its starting values, in place.

    Args:
        model: on the CPU.
        recipe: its initialisers.
        seed: of what is drawn.
        tensors: by the model's names; a whole detector, or a backbone alone.
        renew: prefixes of names that are not taken from ``tensors``.
        source: for messages.

    Raises:
        MappingError: a tensor that the model does not have, or of another shape.
    """
    held = dict(tensors or {})
    own = model.state_dict()
    renewed = tuple(name for name in held if name.startswith(tuple(renew)) and renew)
    kept = {name: t for name, t in held.items() if name not in renewed}
    for name, tensor in kept.items():
        if name not in own or own[name].shape != tensor.shape:
            raise MappingError(
                f"tensor {name!r} does not fit the network",
                where=source or None,
                expected=tuple(own[name].shape) if name in own else "no such tensor",
                got=tuple(tensor.shape),
            )
    drawn = initialise(model, recipe.init, seed, skip=kept)
    if kept:
        model.load_state_dict({n: t.to(own[n].dtype) for n, t in kept.items()}, strict=False)
    return Start(source, tuple(kept), renewed, tuple(drawn))
