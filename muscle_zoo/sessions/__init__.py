"""What a command or a notebook starts, and what it returns: a run, an evaluation, predictions, a study, the quickstart.

The commands print what these return; :mod:`muscle_zoo.api` gives them to Python. Nothing here knows a command line.
"""
