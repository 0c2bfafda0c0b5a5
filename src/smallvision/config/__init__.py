"""From the command line to one typed config; what a file may hold and name."""
