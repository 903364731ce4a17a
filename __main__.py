"""``python -m ssdconv`` is the ``ssdconv`` command."""

import sys

from ssdconv.cli import main

if __name__ == "__main__":
    sys.exit(main())
