"""The commands of ``muscle-zoo``, one file each: ``add_arguments(parser)`` and ``run(args) -> exit code``."""
