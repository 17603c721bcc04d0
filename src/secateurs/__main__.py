"""`python -m secateurs` is the command `secateurs`."""

import sys

from secateurs.app.cli import main

if __name__ == "__main__":
    sys.exit(main())
