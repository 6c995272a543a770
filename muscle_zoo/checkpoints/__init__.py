"""Checkpoints on disk and on the Hub: which there are, whether they are whole, and how one becomes a model.

Nothing is imported here: the backbones ask the registry while they register themselves, before there is a factory.
"""
