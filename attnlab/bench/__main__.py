"""The command `python -m attnlab.bench`."""

import sys

from attnlab.bench.command import main

if __name__ == "__main__":
    sys.exit(main())
