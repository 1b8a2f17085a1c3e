"""Whose jobs they are: of a foreground run one user's, of a daemon everybody's."""

from __future__ import annotations

from typing import Protocol

from attrs import frozen

from batchns.core.job import Job
from batchns.model.submitter import ROOT, Submitter


class Ownership(Protocol):
    def submitter(self, job: Job) -> Submitter:
        """Raises UserError: the owner is no user any more."""

    def key(self, job: Job) -> str:
        """The name of the job's submission."""


@frozen
class OneOwner:
    """All jobs are one submission of one user."""

    user: Submitter = ROOT

    def submitter(self, job: Job) -> Submitter:
        return self.user

    def key(self, job: Job) -> str:
        return ""
