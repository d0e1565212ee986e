"""`python -m contorno` is the command line."""

import sys

from contorno.cli import main

if __name__ == "__main__":
    sys.exit(main())
