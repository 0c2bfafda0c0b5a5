"""Many runs: asks for trials, runs `tasks.fit`, tells the results."""
