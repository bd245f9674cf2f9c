"""`python train.py [OVERRIDES]`: one run, or with -m a sweep. `python train.py --help` shows what can be chosen."""

import sys

from trainer.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
