"""The policy on a virtual clock: what would have happened to these jobs on such a machine.

1. What decides is `batchns.core`, the same code that decides on the real machine; here is only the clock.
2. Nothing here reads a file, a clock or the machine: lines, records and numbers are arguments.
3. Jobs are columns, not objects: a million of them fit into memory, and each becomes a core's job when it arrives.
"""
