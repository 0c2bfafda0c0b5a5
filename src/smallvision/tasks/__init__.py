"""The verbs of the command line: one file or package each, with ``run(config, run_dir, checkpoint)``."""
