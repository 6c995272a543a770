"""What a run computes: recipes, the grammar of their names, and the defaults."""

from .names import parse_name, recipe_names
from .recipe import Recipe, changes, get_recipe

__all__ = ["Recipe", "changes", "get_recipe", "parse_name", "recipe_names"]
