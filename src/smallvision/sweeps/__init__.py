"""Many runs: an Optuna study suggests trials, workers run `tasks.fit`, and their run directories are read."""
