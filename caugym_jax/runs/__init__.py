"""A run: its folder, checkpoints and log, how models are opened, the methods wired."""
