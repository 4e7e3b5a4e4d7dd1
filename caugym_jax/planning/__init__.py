"""What a configuration costs on a machine that is not there: compiled, counted and predicted."""
