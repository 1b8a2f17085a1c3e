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

.PHONY: help setup demo test lint test-host test-vm test-pythons bench campaign wheel clean distclean

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

test: lint test-host test-vm ## everything: lint, types, all tests on this kernel and, where there is one, on others

lint: setup
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary

test-host: setup
	@.ci/packages busybox:busybox-static mksquashfs:squashfs-tools pasta:passt
	@$(BIN)/pytest --quiet --durations=10

# What another kernel or cgroup version can change is tested there: not what programs print or when jobs start, nor
# (v1) the network, root file systems and identities again.
VM_PYTEST := --quiet -m 'kernel and not slow' -p no:cacheprovider -o timeout=600
VM_SAME := --ignore-glob=*/test_robust_* --ignore-glob=*/test_readme* --ignore-glob=*/test_when*
VM_LEAVE_v2 := $(VM_SAME)
VM_LEAVE_v1 := $(VM_SAME) --ignore-glob=*/test_network_* --ignore-glob=*/test_seccomp* \
	--ignore-glob=*/test_rootfs* --ignore-glob=*/test_identities*

test-vm: setup
ifneq ($(BATCHNS_VM_RUN),)
	@$(BATCHNS_VM_RUN) --cgroup v2 -- $(BIN)/pytest $(VM_PYTEST) $(VM_LEAVE_v2)
	@$(BATCHNS_VM_RUN) --cgroup v1 -- $(BIN)/pytest $(VM_PYTEST) $(VM_LEAVE_v1)
else
	@echo "no other kernel to test with: set BATCHNS_VM_RUN to a command that takes --cgroup v1|v2 -- COMMAND"
endif

test-pythons: ## the tests that need no kernel, on every Python from 3.11 on that is found
	@.ci/packages @venv:python3-venv
	@.ci/pythons

bench: setup ## start many jobs, beside bwrap, runc and bare namespaces; jobs per second; decisions; simulate traces
	@.ci/packages cc:gcc cc:libc6-dev bwrap:bubblewrap runc:runc busybox:busybox-static
	@$(BIN)/python -m bench.launch
	@echo
	@$(BIN)/python -m bench.throughput
	@echo
	@$(BIN)/python -m bench.decide
	@echo
	@$(BIN)/python -m bench.simulate

campaign: setup ## kill client, launcher and zygote 100 times each at random moments, and see that nothing is left
	@$(BIN)/python -m tests.campaign

wheel: setup ## build a wheel into dist/
	@$(BIN)/python -m build --wheel --outdir dist . > .setup/wheel.log 2>&1 || { cat .setup/wheel.log; exit 1; }
	@ls dist/*.whl

clean: ## remove what was built, cached and written by sample jobs
	@rm -rf .setup build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find batchns bench jobs tests -name __pycache__ -prune -exec rm -rf {} +
	@find jobs/results -type f ! -name .gitignore -delete

distclean: clean ## and the virtual environment
	@rm -rf $(VENV)
