# Everything here is made from a fresh clone by `make demo` and `make test`; the rest are their parts.
# `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
# Each task of a play is a process of its own: where Python keeps nothing that it compiled, all compile the plugins anew, a third of the work.
unexport PYTHONDONTWRITEBYTECODE

export VENV := $(CURDIR)/.venv
COLLECTIONS := $(CURDIR)/.cache/collections
BIN := $(VENV)/bin
LAB := tests/lab/lab
RUN := env -u VIRTUAL_ENV PATH="$(BIN):$$PATH" PYTHONPATH="$(COLLECTIONS)" ANSIBLE_COLLECTIONS_PATH="$(COLLECTIONS)"
PINS := $(BIN)/uv pip compile -q --universal --generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links --python-version
CORES := 2.19.14 2.20.10 2.21.5
PYTHON_VERSION = $(shell $(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')

.PHONY: help
help: ## What can be made
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 24

# --- what people run -------------------------------------------------------------------------------------------

.PHONY: demo
demo: venv ## From nothing to an answer: the lab, site.yml, a real model, a question
	@$(RUN) tests/demo/run

.PHONY: lab
lab: ## Start the lab: a Proxmox node's stand-in on this machine
	@$(LAB) up

.PHONY: lab-down
lab-down: ## Stop the labs and take away what they put on this machine (their containers stay: lab down --purge drops them)
	@$(LAB) down
	@for n in 2 3 4; do tests/lab/nth $$n sh -c 'test ! -e "$$HOMELAB_LAB_STATE" || exec $(LAB) down'; done

.PHONY: lab-images
lab-images: ## Build the base images of the lab and of the tests
	@$(LAB) build

.PHONY: llama-server
llama-server: ## Build the image with the llama-server of the tests, unless it is in the lab's cache
	@$(LAB) build forky-llama

.PHONY: test
test: ## All that CI checks
	@MAKE="$(MAKE)" tests/stages "sanity lint mypy docs fuzz-minute build units" \
	  lab-images integration functional functional-lab molecule
	@echo "make test: everything passed on $$($(BIN)/ansible --version | head -1)"

# --- its parts -------------------------------------------------------------------------------------------------

.PHONY: venv
venv: $(VENV)/ready ## The tools of the tests in .venv
$(VENV)/ready: tests/requirements.txt tests/bootstrap
	@tests/bootstrap $(VENV)
	@mkdir -p $(COLLECTIONS)/ansible_collections/homelab
	@ln -sfn $(CURDIR) $(COLLECTIONS)/ansible_collections/homelab/llamacpp
	@touch $@

.PHONY: lint
lint: venv ## ansible-lint (production), yamllint, ruff, changelog fragments
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) yamllint --strict .
	$(RUN) ansible-lint --offline --strict
	$(RUN) antsibull-changelog lint

.PHONY: format
format: venv ## Let ruff format the Python code
	$(RUN) ruff check --fix . && $(RUN) ruff format .

.PHONY: mypy
mypy: venv ## mypy, strict, on the plugins
	cd $(COLLECTIONS) && $(RUN) mypy --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.mypy_cache \
	  -p ansible_collections.homelab.llamacpp.plugins

.PHONY: docs
docs: venv ## Documentation of every plugin and role, and its cross references
	$(RUN) antsibull-docs lint-collection-docs --plugin-docs --validate-collection-refs all --skip-rstcheck .
	$(RUN) python tests/make_role_docs.py --check

.PHONY: role-docs
role-docs: venv ## Write the roles' READMEs from their argument_specs
	$(RUN) python tests/make_role_docs.py

.PHONY: sanity
sanity: venv ## ansible-test sanity
	@case $(PYTHON_VERSION) in 3.11) echo "Python 3.11 alone was found: sanity and units run on ansible-core 2.19 only";; esac
	tests/ansible-test sanity --color no --python $(PYTHON_VERSION)
	@tests/oldest-python

.PHONY: units
units: venv ## ansible-test units
	tests/ansible-test units --color no --python $(PYTHON_VERSION)

.PHONY: integration
integration: venv llama-server ## ansible-test integration: the modules against the real llama-server
	tests/ansible-test integration --color no --python $(PYTHON_VERSION)

.PHONY: functional
functional: venv llama-server ## Properties judged by the real llama-server and Open WebUI, and the Proxmox modules over HTTPS
	@tests/need chromium
	@tests/open-webui install
	@tests/nginx install
	$(RUN) pytest --durations 25 --numprocesses 2 --dist loadfile tests/functional --ignore tests/functional/lab

.PHONY: functional-lab
functional-lab: venv lab ## The connection, the Proxmox modules, the GPU module, the driver, the CPU build and the lab itself, on the lab
	@tests/need gpg && tests/need cc gcc && tests/need dpkg-scanpackages dpkg-dev
	$(RUN) pytest --durations 25 --numprocesses 2 --dist loadfile tests/functional/lab

.PHONY: molecule
molecule: venv lab ## The roles on two labs: check mode from nothing, converge, idempotence, verify
	@$(RUN) tests/molecule

.PHONY: build
build: venv ## Build the collection, install it offline, and show every plugin's and role's documentation
	@tests/build

# --- long forms, run by hand -----------------------------------------------------------------------------------

.PHONY: test-all-cores
test-all-cores: ## Sanity and units on every supported ansible-core (2.19, 2.20, 2.21)
	@tests/all-cores

.PHONY: test-build
test-build: venv lab ## The real CPU build in a guest of the lab, cut off, refused, switched: some ten minutes, a second time fewer
	HOMELAB_LONG_TESTS=1 $(RUN) pytest -sv tests/functional/lab/test_llama_cpp.py

.PHONY: test-cuda
test-cuda: venv lab ## The real CUDA build in a guest of the lab: half an hour, 8 GB of packages
	$(RUN) pytest -sv tests/cuda

.PHONY: test-clients
test-clients: venv lab ## Open WebUI installed in a guest beside a real router, updated and taken back: half an hour, downloads of 1 GB
	HOMELAB_LONG_TESTS=1 $(RUN) pytest -sv tests/functional/lab/test_open_webui.py

.PHONY: open-webui-lock
open-webui-lock: venv ## Pin what the role open_webui installs: make open-webui-lock VERSION=0.12.4
	$(RUN) python tests/make_open_webui_lock.py $(VERSION) > roles/open_webui/files/requirements-$(VERSION).txt

.PHONY: bench
bench: bench-preset bench-gguf bench-plan bench-models bench-exporter bench-scrapes bench-connection bench-proxmox bench-site bench-update ## All benchmarks

.PHONY: test-model-file-long
test-model-file-long: venv ## A download killed twenty times at random moments; the short form is in make functional
	MODEL_FILE_KILLS=20 $(RUN) pytest tests/functional/test_model_file.py -k kill -s

.PHONY: test-stream
test-stream: venv lab ## An answer of two minutes through the proxy; the short form is in make functional-lab
	HOMELAB_LONG_TESTS=1 $(RUN) pytest tests/functional/lab/test_service.py -k stream -s

.PHONY: bench-connection
bench-connection: venv lab ## The pct connection against the incumbent and plain ssh
	$(RUN) python tests/bench/connection.py

.PHONY: bench-proxmox
bench-proxmox: venv lab ## Calls and seconds of the Proxmox modules with a pvesh of 1 s: make bench-proxmox [REVISION=main]
	$(RUN) python tests/bench/proxmox.py $(REVISION)

.PHONY: bench-gguf
bench-gguf: venv ## The header reader against PyPI's gguf, time and memory
	$(RUN) python tests/bench/gguf.py

.PHONY: bench-models
bench-models: venv ## model_file against `hf download` and get_url: time, CPU, a second run of 200 models
	@tests/need curl
	$(RUN) python tests/bench/models.py

.PHONY: bench-plan
bench-plan: venv ## The plan of 200 models
	$(RUN) python tests/bench/plan.py

.PHONY: bench-exporter
bench-exporter: venv llama-server ## The CPU of a scrape with 50 models
	$(RUN) python tests/bench/exporter.py

.PHONY: bench-scrapes
bench-scrapes: venv llama-server ## What scrapes cost a model that answers: tokens a second
	$(RUN) python tests/bench/scrapes.py

.PHONY: test-monitoring
test-monitoring: venv lab ## Ten minutes of load beside the real Prometheus, and every alert fired; the short form is in make functional-lab
	MONITORING_SECONDS=600 $(RUN) pytest -sv tests/functional/lab/test_monitoring.py

.PHONY: fuzz-minute
fuzz-minute: venv ## A minute of it, which begins alike in every run
	$(RUN) tests/fuzz/run 60 all -seed=1

.PHONY: fuzz
fuzz: venv ## Ten minutes of coverage-guided fuzzing of what reads foreign data: files, names, records, answers
	$(RUN) tests/fuzz/run

.PHONY: mutants
mutants: venv ## Change each engine at random and count what the fast tests notice: make mutants [ENGINES="_part _files"] [SAMPLE=15] [SEED=1] [OWN=1]
	$(RUN) nice -n 19 python tests/mutants.py $(if $(SAMPLE),--sample $(SAMPLE)) $(if $(SEED),--seed $(SEED)) $(if $(OWN),--own) $(ENGINES)

.PHONY: bench-preset
bench-preset: venv ## router_preset against a loop of ini_file
	$(RUN) python tests/bench/preset.py

.PHONY: bench-site
bench-site: venv lab ## Playbooks with nothing to do: tasks, module starts, seconds: make bench-site [REVISION=main]
	$(RUN) python tests/bench/site.py $(REVISION)

.PHONY: bench-update
bench-update: venv lab ## The time without service of an update, beside the guide's way
	$(RUN) python tests/bench/update.py

.PHONY: test-update
test-update: venv lab ## Updates: every way to be bad, interrupted at every gate, full disks
	cd extensions && HOMELAB_LONG_TESTS=1 $(RUN) $(CURDIR)/tests/tell_failures molecule test --scenario-name update

.PHONY: requirements
requirements: ## Pin the tools anew from tests/requirements.in, with hashes
	@{ printf '# Made from requirements.in by `make requirements`; pins with hashes for every Python that the tests run on.\n'; \
	  $(PINS) 3.11 tests/requirements.in; } > tests/requirements.txt.new
	@mv tests/requirements.txt.new tests/requirements.txt
	@{ printf '# Made by `make requirements`; what tests/all-cores runs on.\n'; \
	  for core in $(CORES); do echo "ansible-core==$$core" | $(PINS) 3.12 --no-deps -; echo; done; } > tests/cores.txt.new
	@mv tests/cores.txt.new tests/cores.txt
	@{ printf '# Made by `make requirements`; the library behind the doubles of the node.\n'; \
	  printf 'fakepve\ncryptography\n' | $(PINS) 3.13 -c tests/requirements.txt -; } > tests/lab/images/node.txt.new
	@mv tests/lab/images/node.txt.new tests/lab/images/node.txt

.PHONY: clean
clean: ## Remove what was made in this checkout
	rm -rf .venv .cache .ansible build homelab-llamacpp-*.tar.gz
