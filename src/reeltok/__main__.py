"""`python -m reeltok`, for torchrun and wherever the script is not on the path."""

import sys

from reeltok.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
