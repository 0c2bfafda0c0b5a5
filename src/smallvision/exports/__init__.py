"""A trained network for elsewhere: one file per format, what proves it, and the card that goes with it."""
