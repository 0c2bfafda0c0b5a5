"""The ground of every other package: errors, console, run directory, system, random streams."""
