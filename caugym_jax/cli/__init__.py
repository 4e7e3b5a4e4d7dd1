"""What commands share: arguments, exit codes, configurations, workers. Imports no jax."""
