"""`python -m minirlhf` is the command `minirlhf`; `accelerate launch -m minirlhf` finds it so."""

import sys

from minirlhf.cli import main

if __name__ == "__main__":
    sys.exit(main())
