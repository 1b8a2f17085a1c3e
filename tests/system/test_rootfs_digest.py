"""`isolation.rootfs_digest`, from the job file to the job: the image that was meant, or none."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from ..images import image_in
from .test_run_files import job, run_jobs

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("nothing_left")]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return image_in(tmp_path)


def asks(image: Path, digest: str) -> str:
    return f'[job.isolation]\nrootfs = "{image}"\nrootfs_digest = "sha256:{digest}"'


def test_a_job_has_the_image_that_it_names_or_does_not_start(folder, image):
    right, wrong = hashlib.sha256(image.read_bytes()).hexdigest(), "0" * 64
    ran = run_jobs(
        folder,
        job("right", "read line < /who; echo $line", tables=asks(image, right)),
        job("wrong", "echo never", tables=asks(image, wrong)),
    )
    assert ran.jobs["right"]["state"] == "COMPLETED"
    assert Path(ran.jobs["right"]["stdout"]).read_text() == "the image\n"
    refused = ran.jobs["wrong"]
    assert refused["state"] == "FAILED"
    assert refused["reason"].startswith(f"isolation.rootfs_digest: {image} has sha256:{right}, not sha256:{wrong}")
    assert not list(folder.glob("wrong*.out"))


def test_an_image_that_changed_after_its_check_is_checked_again(folder, image):
    """The second job's image is another one by the time that it starts: written by the first."""
    digest = hashlib.sha256(image.read_bytes()).hexdigest()
    script = f"echo x >> {image}"
    ran = run_jobs(
        folder,
        job("first", "true", tables=asks(image, digest)),
        job("writes", script, f'dependency = ["afterok:first"]\ncwd = "{image.parent}"'),
        job("second", "true", 'dependency = ["afterok:writes"]', tables=asks(image, digest)),
    )
    states = {name: ran.jobs[name]["state"] for name in ran.jobs}
    assert states == {"first": "COMPLETED", "writes": "COMPLETED", "second": "FAILED"}, ran.stderr
    assert "isolation.rootfs_digest" in ran.jobs["second"]["reason"]
