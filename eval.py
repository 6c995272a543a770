"""Evaluate a checkpoint and compare it with its published figure; exits with 1 when that is not reproduced.

    python eval.py TARGET [--json]        TARGET: a name, a run folder, local-dir:PATH or hf-hub:REPO[@revision]

The same as `muscle-zoo eval`: weights (checkpoints/weights.py) -> model (checkpoints/factory.py) -> metrics
(engine/evaluate.py).
"""

import sys

if __name__ == "__main__":
    try:
        from muscle_zoo.cli import main
    except KeyboardInterrupt:  # the imports take seconds
        sys.exit("error: interrupted")  # with 1, as main does
    sys.exit(main(command="eval"))
