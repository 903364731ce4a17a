"""Make ``.mypy_root/ssdconv``, a link to the checkout: by it mypy finds the import name, which no folder here bears."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Create the link, or point it to this checkout."""
    link = ROOT / ".mypy_root" / "ssdconv"
    link.parent.mkdir(exist_ok=True)
    if not link.is_symlink() or link.resolve() != ROOT:
        link.unlink(missing_ok=True)
        link.symlink_to("..", target_is_directory=True)


if __name__ == "__main__":
    main()
