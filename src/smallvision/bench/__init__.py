"""How fast this machine trains, and against what: measured side by side, in turn, in one process."""
