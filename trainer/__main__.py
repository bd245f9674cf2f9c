"""`python -m trainer VERB`, also installed as `trainer`."""

import sys

from trainer.commands import main

if __name__ == "__main__":
    sys.exit(main())
