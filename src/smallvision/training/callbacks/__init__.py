"""Lightning callbacks, one a file: what makes a run exact, safe and visible."""
