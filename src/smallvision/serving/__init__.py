"""A trained network answers over HTTP."""
