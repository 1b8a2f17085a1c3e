"""The diagram of job states, drawn from the lifecycle table: `python -m batchns.model.diagram > docs/job-states.md`."""

from __future__ import annotations

from batchns.model.lifecycle import FINAL, TRANSITIONS, State

_PAGE = """# Job states

Names are Slurm's. Held, blocked by a dependency and waiting for resources are reasons of PENDING, not states. A final
state is left only by another attempt (requeue). Drawn from `batchns/model/lifecycle.py`.

```mermaid
{diagram}
```

## What SUSPENDED lends

| frozen | others may use meanwhile | it goes on |
|---|---|---|
| for a job that goes first | its CPUs and its bandwidth | in its turn, on whichever CPUs are free then |
| because its queue yields to what else the machine does | its CPUs and its bandwidth | the same, once that is over |
| because its owner asked for it | its CPUs and its bandwidth | in its turn, once it is released |
| by a pause (Ctrl-Z) | nothing | where it was, together with all others |

Memory stays with the job, but for what the kernel can take from it when somebody needs it; so do named resources,
devices, its address and its processes. SUSPENDING lends nothing: what a freeze frees is free when the kernel has
confirmed it. One that is not confirmed is undone, and the job is RUNNING. In SUSPENDED the time limit stands still;
a `deadline` does not. More: [scheduling.md](scheduling.md#preemption).
"""


def mermaid() -> str:
    """The table as a Mermaid state diagram; events between the same two states share an arrow."""
    lines = ["stateDiagram-v2", f"    [*] --> {State.PENDING.value}: submit"]
    for state, row in TRANSITIONS.items():
        if state in FINAL:
            continue
        targets: dict[State, list[str]] = {}
        for event, target in row.items():
            targets.setdefault(target, []).append(event.value)
        lines += [f"    {state.value} --> {target.value}: {', '.join(events)}" for target, events in targets.items()]
    lines += [f"    {state.value} --> [*]" for state in State if state in FINAL]
    return "\n".join(lines)


def page() -> str:
    """The text of docs/job-states.md."""
    return _PAGE.format(diagram=mermaid())


if __name__ == "__main__":
    print(page(), end="")
