"""Training configurations: each file defines `get_config(arg)`. Import as caugym_jax.configs."""
