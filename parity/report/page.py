"""What all reports share: the templates, number formats, photos with boxes, and writing one report's files.

The pages stand in ``templates/`` (Jinja): HTML, SVG and CSS that one can open and edit. Everything that a template prints is
escaped, and unsafe characters in text are written out (``text.printable``). A page is complete in itself: inline SVG and
JPEG, no script, nothing fetched.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ssdconv.errors import OutputError, SsdconvError
from ssdconv.parity.accuracy.bootstrap import Interval
from ssdconv.text import printable

if TYPE_CHECKING:
    from jinja2 import Environment

Image = npt.NDArray[np.uint8]
TEMPLATES = Path(__file__).with_name("templates")
NOT_MEASURED = "not measured"


def percent(value: float | None, digits: int = 2) -> str:
    """0.7213 -> "72.13"; None -> "–"."""
    return "–" if value is None else f"{100 * value:.{digits}f}"


def spread(interval: Interval | None, digits: int = 2) -> str:
    """ "70.80–73.13", or "not measured"."""
    return NOT_MEASURED if interval is None else f"{percent(interval.low, digits)}–{percent(interval.high, digits)}"


def points(value: float | None) -> str:
    """A difference in points: "+0.31", "−1.20"; None -> "–"."""
    return "–" if value is None else f"{value:+.2f}".replace("-", "−")


def figure(value: float) -> str:
    """A ratio: "1,234.50", and "1.2e+05" from ten thousand on."""
    return f"{value:,.2f}" if value < 10_000 else f"{value:.1e}"


def shape(values: Sequence[int]) -> str:
    """ "1 × 8 × 20 × 20"."""
    return " × ".join(map(str, values))


@cache
def environment() -> Environment:
    """Jinja with everything escaped, names that do not exist refused, and the formats above as filters."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value, lines=True) if type(value) is str else value,
    )
    made.filters |= {"percent": percent, "spread": spread, "points": points, "figure": figure, "shape": shape}
    made.policies["urlize.rel"] = None
    made.filters |= {"px": "{:.1f}".format, "count": "{:,}".format, "general": "{:g}".format, "three": "{:.3g}".format}
    return made


def render(template: str, **values: Any) -> str:
    """A file of ``templates/`` filled in; the text is markup, so that other templates take it as it is."""
    from markupsafe import Markup

    return Markup(environment().get_template(template).render(**values))


@dataclass(frozen=True)
class Drawn:
    """A box above a photo, in pixels of the original.

    Attributes:
        kind: its class in the style sheet.
        title: told when a pointer rests on it.
        x, y, width, height: its place.
        text: written on a plate at its upper edge; None for none.
        left, base, wide, size: of that plate: left edge, lower edge, width, height of the letters.
    """

    kind: str
    title: str
    x: float
    y: float
    width: float
    height: float
    text: str | None
    left: float
    base: float
    wide: float
    size: float


def drawn(
    box: Sequence[float], kind: str, title: str, text: str | None, image: tuple[float, float], size: float
) -> Drawn:
    """A box with its plate kept inside of the image.

    Args:
        box: xyxy in pixels.
        image: width and height.
        size: height of the letters in pixels.
    """
    x1, y1, x2, y2 = box
    wide = size * 0.56 * len(text or "") + size * 0.4
    left, base = max(0.0, min(x1, image[0] - wide)), max(min(y1, image[1] - size * 0.1), size * 1.2)
    return Drawn(kind, title, x1, y1, max(x2 - x1, 0), max(y2 - y1, 0), text, left, base, wide, size)


def read_photo(path: str | Path) -> Image | None:
    """A photo, BGR; None if it cannot be read any more."""
    from ssdconv.ssd_ref.image_file import read_image

    try:
        return read_image(path)
    except SsdconvError:
        return None


def data_url(image: Image, most: int = 520) -> str:
    """The image as a JPEG data URL, at most so many pixels wide."""
    import cv2

    height, width = image.shape[:2]
    if width > most:
        reduced = cv2.resize(image, (most, max(1, round(height * most / width))), interpolation=cv2.INTER_AREA)
        image = np.asarray(reduced, np.uint8)
    _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 84])
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode()


def write_files(folder: Path, stem: str, texts: Mapping[str, str]) -> dict[str, Path]:
    """Write ``stem.suffix`` for each suffix; each replaces an older file in one step.

    Raises:
        OutputError: the folder or a file cannot be written.
    """
    from ssdconv.ssd_ref.files import atomic_path

    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"the report cannot be written: the folder cannot be made: {error.strerror}", where=str(folder)
        ) from None
    written = {}
    for suffix, text in texts.items():
        written[suffix] = folder / f"{stem}.{suffix}"
        with atomic_path(written[suffix]) as partial:
            partial.write_text(text, encoding="utf-8")
    return written
