"""The policy: what is started, stopped, retried and cancelled, and why something waits.

1. Nothing here acts: `decide(schedule, now)` returns actions as data, and one place elsewhere performs them.
2. Nothing here knows the time, the kernel or a file: moments are arguments, in seconds of any steady clock.
3. A job's state changes through `batchns.model.lifecycle.apply` only, inside `Schedule`.
"""
