# `make demo` and `make test` do all their own set-up: a virtual environment for the package, and
# one for the AWS CLI, which cannot share it (see "The AWS CLI" in the README).
PYTHON ?= python3
BIN := .venv/bin
export LAION_FMRI_AWS ?= $(CURDIR)/.venv-aws/bin/aws
# Tests mostly wait, so more of them run than there are CPUs. Python's hashes show in their names.
PYTEST := PYTHONHASHSEED=0 $(BIN)/python -m pytest --numprocesses 3 --dist loadfile
export PIP_DISABLE_PIP_VERSION_CHECK = 1

# pip takes the releases that are pinned in requirements/, and builds packages with those as well.
# pip 25.3 and newer read the second variable for that.
PINNED = PIP_CONSTRAINT=$< PIP_BUILD_CONSTRAINT=$<

.PHONY: demo docs example test test-workflow test-faults test-lowest test-newest lint format bench constraints clean

demo: .venv/demo.done .venv-aws/done
	$(BIN)/laion-fmri demo

# A whole pipeline on the sample bucket: its results and report.html are in examples/encoding-pipeline.
example: .venv/example.done .venv-aws/done
	cd examples/encoding-pipeline && PATH="$(CURDIR)/$(BIN):$$PATH" python on_sample.py snakemake --cores 2
	cd examples/encoding-pipeline && PATH="$(CURDIR)/$(BIN):$$PATH" python on_sample.py snakemake --report report.html

test: .venv/test.done .venv-aws/done
	$(PYTEST)

# The workflow with the configuration in .test, on the sample bucket; the files are in .test/data.
test-workflow: .venv/demo.done .venv-aws/done
	$(BIN)/python examples/encoding-pipeline/on_sample.py $(BIN)/snakemake --directory .test --cores 2

# What takes long: runs that are killed at random moments, and the like. TESTS names some of them.
test-faults: .venv/test.done .venv-aws/done
	$(PYTEST) -m faults --dist worksteal $(TESTS)

# The lowest releases that pyproject.toml allows, in an environment of their own.
test-lowest: .venv/test.done .venv-aws/done
	$(BIN)/python .ci/lower_bounds.py

# Pipelines with the newest Python to be had, in an environment of its own.
test-newest: .venv/test.done .venv-aws/done
	$(BIN)/python .ci/newest_python.py

lint: .venv/dev.done .venv-aws/done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow examples
	$(BIN)/python tests/support/lint_workflow.py

format: .venv/dev.done
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflow examples

# The site is in build/site afterwards; nothing is fetched for it, and it loads nothing from elsewhere.
docs: .venv/docs.done
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Takes an hour or two; make bench BENCH=--quick shows in minutes that it runs. Needs nginx and curl.
# BENCH=--peers measures rclone, obstore, openneuro-py and pooch as well.
bench: .venv/bench.done .venv-aws/done $(if $(findstring --peers,$(BENCH)),.venv-peers/done)
	$(BIN)/python -m benchmarks.run $(BENCH)

# Renew the pins of requirements/; then run make test, and commit them.
constraints:
	$(PYTHON) requirements/renew.py

clean:
	rm -rf .venv .venv-aws .venv-peers build dist *.egg-info

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.12 demo"; exit 1; }
	$(PYTHON) -m venv .venv

# One step for each extra, so that the demo need not wait for the tools of the tests.
.venv/%.done: requirements/constraints.txt pyproject.toml .venv/bin/python
	$(PINNED) $(BIN)/python -m pip install --quiet --editable '.[$*]'
	touch $@

.venv-peers/done: requirements/peers.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --requirement requirements/peers.txt
	touch $@

.venv-aws/done: requirements/aws.txt
	$(PYTHON) -m venv .venv-aws
	$(PINNED) .venv-aws/bin/python -m pip install --quiet awscli
	touch $@
