"""Train a recipe of the zoo; without one, the quickstart: what MUSCLE does with ten labels.

    python train.py
    python train.py NAME [key=value ...] [--out DIR]
    accelerate launch --num_processes N train.py NAME ...

The same as `muscle-zoo train`: recipe (recipes/recipe.py) -> training (engine/fit.py) -> export (publishing/export.py).
"""

import sys

if __name__ == "__main__":
    try:
        from muscle_zoo.cli import main
    except KeyboardInterrupt:  # the imports take seconds
        sys.exit("error: interrupted")  # with 1, as main does
    sys.exit(main(command="train"))
