"""Attacks on the sandbox, run as real jobs and judged from outside. `python -m tests.attacks` writes the table."""
