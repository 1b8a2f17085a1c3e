"""The few file operations on cgroups that the launcher performs for a plan. No policy, no version differences."""

from __future__ import annotations

from batchns.kernel.cgroups.interface import CgroupPlan


def apply(plan: CgroupPlan) -> dict[str, str | int]:
    """Make the directories, write the values, read each back: {path: text, or errno of an optional write}.

    Raises:
        StepError: step "cgroup", the path and errno of the first failure; what was made is removed again.
    """
    raise NotImplementedError


def read_final(plan: CgroupPlan) -> dict[str, str]:
    """The texts of the plan's `final_reads`; files that do not exist are left out."""
    raise NotImplementedError


def remove(plan: CgroupPlan) -> list[str]:
    """Remove the directories in reverse; returns those that could not be removed (busy)."""
    raise NotImplementedError
