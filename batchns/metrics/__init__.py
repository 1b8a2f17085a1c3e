"""What batchns tells Prometheus: the contract, the counts of what happens, the readings of jobs, their text."""
