"""batchns: batch jobs in Linux namespaces, for a machine that people share."""

__version__ = "0.1.0"
