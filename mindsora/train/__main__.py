"""`python -m mindsora.train RECIPE.yaml` runs `mindsora train RECIPE.yaml`."""

import sys

from mindsora.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
