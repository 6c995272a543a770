"""The commands of ``muscle-zoo``, one file each: ``add_arguments(parser)`` and ``run(args) -> exit code``.

What several of them need: arguments.py, target.py (what may be typed for a checkpoint), terminal.py; quickstart.py is
`train` without a recipe, onnx.py is `export --onnx`.
"""
