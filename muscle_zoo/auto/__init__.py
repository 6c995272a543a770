"""The user's own pictures, end to end: looked at, compared, trained."""
