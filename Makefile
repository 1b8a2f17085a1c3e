# make help says what there is. Every target does the set-up it needs, on a fresh Debian 12 machine too (as root).

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

# Any Python from 3.11 on; only looked for when a virtual environment has to be made.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$python; break; }; done)

# A command that runs another kernel around a test run (cgroup v2, v1); without one those two runs are left out.
BATCHNS_VM_RUN ?= $(wildcard ../shared/vm/vm-run)

VENV := .venv
STAMP := .setup/stamp
BIN := $(VENV)/bin

.PHONY: help setup demo test lint test-host test-vm test-slurm test-pythons attacks bench dashboards pictures campaign campaign-daemon wheel \
	install clean distclean

help: ## say what there is
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

setup: $(STAMP) ## make .venv with batchns and what its tests need
	@:

$(STAMP): pyproject.toml .ci/packages
	@mkdir -p .setup
	@PYTHON=$(PYTHON) .ci/packages @venv:python3-venv nft:nftables ip:iproute2
	@$(BIN)/python -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "making $(VENV)"; $(or $(PYTHON),python3) -m venv --clear $(VENV); }
	@echo "installing batchns into $(VENV)"
	@$(BIN)/python -m pip install --disable-pip-version-check --root-user-action=ignore --editable '.[test]' \
		> .setup/pip.log 2>&1 || { cat .setup/pip.log; exit 1; }
	@touch $@

# The exit code 1 says that a job failed, as some are meant to: expect.py knows which.
demo: setup ## run the sample jobs and see them end as they are meant to
	@$(BIN)/batchns run --config jobs/batchns.toml --json jobs/ > .setup/demo.jsonl || [ $$? -eq 1 ]
	@echo
	@$(BIN)/python jobs/expect.py jobs .setup/demo.jsonl

# On a machine with Slurm that is tested, too.
test: lint test-host test-vm $(and $(shell command -v slurmctld),test-slurm) ## everything: lint, types, all tests on this kernel and, where there is one, on others

lint: setup
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary

test-host: setup
	@.ci/packages busybox:busybox-static mksquashfs:squashfs-tools pasta:passt strace:strace promtool:prometheus
	@echo "tests that need no kernel:"
	@$(BIN)/pytest --quiet -m 'not kernel' --numprocesses 2 -p no:cacheprovider
	@echo "tests on this kernel:"
	@$(BIN)/pytest --quiet -m 'kernel and not cluster and not attack and not long' --durations=10

# What another kernel or cgroup version can change, and no more, is tested there: cgroups and devices, what a sandbox is
# made of, limits and preemption; on v2 also jobs that outlive launcher and daemon.
VM_PYTEST := $(BIN)/pytest --quiet -m 'kernel and not slow and not long' -p no:cacheprovider -o timeout=600
VM_TESTS := $(wildcard tests/kernel/test_cgroups*.py) tests/kernel/test_devices.py tests/launch/test_devices.py \
	tests/launch/test_landlock.py tests/launch/test_sandbox.py tests/launch/test_lifetime.py tests/system/test_limits.py \
	tests/system/test_devices.py tests/system/test_run_metrics.py \
	tests/system/test_scratch_on_disk.py::test_a_job_writes_more_than_its_memory_and_is_not_killed_for_it
VM_TESTS_v1 := $(VM_TESTS) \
	tests/system/test_host_network.py::test_without_a_v2_tree_the_result_says_so_and_strict_refuses
VM_TESTS_v2 := $(VM_TESTS) tests/kernel/test_device_program.py tests/kernel/test_userns.py \
	tests/kernel/test_review_actas.py tests/launch/test_kept.py tests/system/test_preemption.py \
	tests/system/test_rootless.py::test_limits_are_in_force_where_a_cgroup_is_delegated \
	tests/daemon/test_live_restart.py::test_jobs_run_on_while_there_is_no_daemon tests/daemon/test_live_metrics.py

test-vm: setup
ifneq ($(BATCHNS_VM_RUN),)
	@echo "on a kernel with cgroup v2 alone:"
	@$(BATCHNS_VM_RUN) --cgroup v2 -- $(VM_PYTEST) $(VM_TESTS_v2)
	@echo "on a kernel with cgroup v1 alone:"
	@$(BATCHNS_VM_RUN) --cgroup v1 -- $(VM_PYTEST) $(VM_TESTS_v1)
else
	@echo "no other kernel to test with: set BATCHNS_VM_RUN to a command that takes --cgroup v1|v2 -- COMMAND"
endif

test-slurm: setup ## everything that is tested on a real Slurm, which is installed for it; its daemons run only meanwhile
	@.ci/slurm
	@$(BIN)/pytest --quiet --durations=10 -p no:cacheprovider tests/slurm

test-pythons: ## the tests that need no kernel, on every Python from 3.11 on that is found
	@.ci/packages @venv:python3-venv
	@.ci/pythons

# What another cgroup version can change, and what is only shown on a machine that nobody else uses.
VM_ATTACKS_PYTEST := --quiet -m attack -p no:cacheprovider -o timeout=300 -k "not folder and not without_root"
VM_ATTACKS := tests/attacks/test_throwaway.py tests/attacks/test_batch_system.py tests/attacks/test_binds.py

attacks: setup ## attack the sandbox, beside bwrap and runc, and print a table; fails where batchns breaks a promise
	@.ci/packages busybox:busybox-static mksquashfs:squashfs-tools bwrap:bubblewrap runc:runc
	@$(BIN)/pytest --quiet -m attack
	@$(BIN)/python -m tests.attacks
ifneq ($(BATCHNS_VM_RUN),)
	@for version in v2 v1; do \
		echo "on a kernel with cgroup $$version alone:"; \
		$(BATCHNS_VM_RUN) --cgroup $$version --timeout 420 -- $(BIN)/pytest $(VM_ATTACKS_PYTEST) $(VM_ATTACKS) || exit 1; \
	done
else
	@echo "no other kernel to attack on: set BATCHNS_VM_RUN to a command that takes --cgroup v1|v2 -- COMMAND"
endif

bench: setup ## start many jobs, beside bwrap, runc and bare namespaces; jobs per second; the daemon, beside Slurm; decisions; simulate traces; jobs on Slurm
	@.ci/packages cc:gcc cc:libc6-dev bwrap:bubblewrap runc:runc busybox:busybox-static
	@$(BIN)/python -m bench.launch
	@echo
	@$(BIN)/python -m bench.throughput
	@echo
	@$(BIN)/python -m bench.daemon
	@echo
	@$(BIN)/python -m bench.decide
	@echo
	@$(BIN)/python -m bench.simulate
	@echo
	@$(BIN)/python -m bench.store
	@echo
	@$(BIN)/python -m bench.api
	@echo
	@$(BIN)/python -m bench.metrics
	@echo
	@$(BIN)/python -m bench.cluster

dashboards: setup ## write grafana/dashboards from grafana/source
	@$(BIN)/python -m grafana.source

pictures: setup ## draw docs/dashboards from what a real Prometheus answers about real jobs
	@.ci/packages prometheus:prometheus
	@$(BIN)/python -m tests.grafana.pictures

campaign: setup ## kill client, launcher, zygote and the daemon's launcher hundreds of times, and see that nothing is left
	@.ci/packages strace:strace
	@$(BIN)/pytest --quiet -m long
	@$(BIN)/python -m tests.campaign
	@echo
	@$(BIN)/python -m tests.campaign_launcher

campaign-daemon: setup ## kill the daemon hundreds of times, fill its disk, fail its calls, and see that nothing is lost
	@.ci/packages strace:strace
	@$(BIN)/python -m tests.campaign_daemon

wheel: setup ## build a wheel into dist/
	@$(BIN)/python -m build --wheel --outdir dist . > .setup/wheel.log 2>&1 || { cat .setup/wheel.log; exit 1; }
	@ls dist/*.whl

install: ## unit, settings, manuals below DESTDIR; PREFIX=/usr/local, BATCHNS=path of the program: docs/install.md
	@DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' BATCHNS='$(BATCHNS)' UNITDIR='$(UNITDIR)' packaging/install

clean: ## remove what was built, cached and written by sample jobs
	@rm -rf .setup build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find batchns bench jobs tests -name __pycache__ -prune -exec rm -rf {} +
	@find jobs/results -type f ! -name .gitignore -delete

distclean: clean ## and the virtual environment
	@rm -rf $(VENV)
