"""Training and evaluation, on Accelerate. Not imported by ``import muscle_zoo``."""
