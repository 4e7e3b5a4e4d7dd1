"""The comparison of the five methods: its settings, data, runs and tables (docs/study.md)."""
