# Run the project's tasks; each target makes its own virtual environment and installs only what it needs.

PYTHON ?= python3
# Files, and options of pytest, for every target that runs tests: make test TESTS=tests/wire
TESTS ?=
# Options of the benchmarks: make bench BENCH='--quick --only 100B'
BENCH ?=
# Total bytes that the fuzzer feeds to its targets.
BYTES ?= 100000000
# Seconds: how long to feed random bytes, and how long one soak test may take.
MPSR_FUZZ_SECONDS ?= 600
SOAK_TIMEOUT ?= 3600
# Percent: the branch coverage that the core needs.
COVERED ?= 95

VENV := .venv
BIN  := $(VENV)/bin
PY   := $(BIN)/python
PIP  := $(PY) -m pip install --quiet --disable-pip-version-check
PYTEST := $(PY) -m pytest

# The tests start Python more than a thousand times: each start reads compiled files.
unexport PYTHONDONTWRITEBYTECODE
# The tests sync files some ten thousand times, which takes milliseconds on a disk: they use /dev/shm if it
# has 2 GB of room. TMPDIR=… overrides it.
IN_MEMORY = TMPDIR=$${TMPDIR:-$$(df --output=avail,target -t tmpfs /dev/shm 2>/dev/null \
	| awk 'NR == 2 && $$1 >= 2000000 {print $$2}')}
# /tmp is in memory on many systems, /var/tmp never.
ON_DISK := TMPDIR=$${TMPDIR:-/var/tmp}
# Four processes on two cores: the tests wait more than they compute.
IN_PARALLEL := -n 4 --dist worksteal
# Run tests, most in parallel, then those that measure time: $(call run-tests,ENVIRONMENT,FOLDERS). To collect all
# tests takes seconds, so that the second run collects only the files that have some. Status 5 of pytest, no test
# selected, is a failure only where a run must have tests.
define run-tests
@$(1) $(IN_MEMORY) $(PYTEST) -q $(IN_PARALLEL) -m "not soak and not timing" $(or $(TESTS),$(2)) $(if $(TESTS),|| [ $$? = 5 ])
@$(1) $(IN_MEMORY) $(PYTEST) -q -m "timing and not soak" $(or $(TESTS),$$(grep -rl --include='*.py' mark.timing $(2) || echo $(2))) || [ $$? = 5 ]
endef

BUILT_FROM := pyproject.toml $(wildcard setup.py src/mpsr/_speedups/*.[ch])
# mypy refuses a folder that is not there.
CODE := $(wildcard src tests examples benchmarks)
CORE_TESTS := $(or $(wildcard tests/wire tests/conformance),tests)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help venv demo test test-serial test-pure test-all test-sdist soak fuzz fuzz-corpus fuzz-merge fuzz-random fuzz-targets fuzzer sanitize coverage lint format bench bench-full docs docs-look linkcheck man build wheels clean

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

venv: $(VENV)/.dev ## make .venv with all the tools that a contributor needs

demo: $(VENV)/.run ## run five producers and one receiver
	@$(BIN)/mpsr demo

test: $(VENV)/.test ## run the tests: most in parallel, then those that measure time
	$(call run-tests,,tests)

test-serial: $(VENV)/.test ## run the tests one by one, with temporary files on the disk
	@$(ON_DISK) $(PYTEST) $(TESTS)

test-pure: $(VENV)/.test ## run the core's tests on the pure-Python twins
	$(call run-tests,MPSR_SPEEDUPS=off,$(CORE_TESTS))

test-all: ## run the tests on every Python from 3.11 on that this machine has
	@failed=; .ci/pythons | { while read -r version python; do \
		echo "== Python $$version"; \
		$(MAKE) --no-print-directory test VENV=build/python-$$version PYTHON=$$python </dev/null \
			|| failed="$$failed $$version"; \
		seen="$$seen $$version"; \
	done; echo "ran on Python$$seen$${failed:+, failed on$$failed}"; [ "$$seen" ] && [ -z "$$failed" ]; }

SDIST       := build/sdist
SDIST_TESTS := tests/wire tests/fuzz tests/cli tests/engine tests/system tests/speedups tests/sync tests/test_*.py

test-sdist: PYTEST = $(abspath $(PY)) -m pytest
test-sdist: $(VENV)/.test,build ## run the quick tests of the sdist, unpacked elsewhere
	@rm -rf $(SDIST) && $(PY) -m build --sdist --outdir $(SDIST) >/dev/null
	@tar -C $(SDIST) --strip-components 1 -xzf $(SDIST)/*.tar.gz
	$(call run-tests,cd $(SDIST) && PYTHONPATH=src MPSR_SPEEDUPS=off,$(SDIST_TESTS))

soak: $(VENV)/.test ## run the tests that take minutes each (SOAK_TIMEOUT)
	@$(PYTEST) -m soak --timeout=$(SOAK_TIMEOUT) $(TESTS)

fuzz-random: $(VENV)/.test ## feed random bytes to the wire for ten minutes (MPSR_FUZZ_SECONDS)
	@MPSR_FUZZ_SECONDS=$(MPSR_FUZZ_SECONDS) $(PYTEST) -m soak --timeout=0 tests/wire/test_fuzz.py

# Coverage guides it: clang counts what the C reaches, and atheris, with libFuzzer, what the Python
# does. The C bears no memory error, and in a ring it is watched by a hostile peer.
FUZZ_VENV := .venv-fuzz
FUZZ      := build/fuzz
TARGETS   ?= codec session foreign answers observing outputs ring journal
COUNTED   := -std=c11 -O1 -g -fno-omit-frame-pointer -fPIC -Wall -Wextra -Werror \
	-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all
HOSTILE   := ring ring_reader
# What is Python alone goes without the C, and so without its memory checks, which slow it down. A
# large buffer is given back at once, or the gaps that the journal's leave would look like a leak.
IN_PYTHON := answers journal observing outputs
LONGEST   := 8192
CHECKED    = PYTHONMALLOC=malloc MPSR_SPEEDUPS=require \
	ASAN_OPTIONS=detect_leaks=0:quarantine_size_mb=16 \
	LD_PRELOAD=$$($(PY) -c 'import atheris; print(atheris.path())')/asan_with_fuzzer.so
RUN_FUZZ   = env PYTHONPATH=$(FUZZ):. $$(case " $(IN_PYTHON) " in *" $$target "*) \
	echo MPSR_SPEEDUPS=off MALLOC_MMAP_THRESHOLD_=1000000;; *) echo "$(CHECKED)";; esac) $(PY) -m tests.fuzz.run

# What a log says of a fault, without the frames of the interpreter and the fuzzer.
FAULT     := grep -avE '^( +\#[0-9]|\#|INFO|	)'

fuzz: ## feed 100 MB (BYTES) to the parsers (TARGETS), guided by coverage; needs clang
	@$(MAKE) --no-print-directory fuzzer VENV=$(FUZZ_VENV)
	@$(MAKE) --no-print-directory fuzz-targets VENV=$(FUZZ_VENV)

fuzzer: $(VENV)/.fuzz
	@command -v clang >/dev/null || { [ "$$(id -u)" = 0 ] && apt-get update -qq \
		&& DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends clang >/dev/null; } \
		|| { echo "clang is missing: install it, as with apt-get install clang"; exit 1; }
	@rm -rf $(FUZZ)/mpsr $(FUZZ)/objects && mkdir -p $(FUZZ)/objects && cp -R src/mpsr $(FUZZ)
	@rm -f $(FUZZ)/mpsr/_speedups/_c.*.so
	@for file in $(basename $(notdir $(wildcard src/mpsr/_speedups/*.c))); do \
		case " $(HOSTILE) " in *" $$file "*) before="-include tests/fuzz/hostile.h";; *) before=;; esac; \
		clang $(COUNTED) $$before -I$(INCLUDE) -c src/mpsr/_speedups/$$file.c \
			-o $(FUZZ)/objects/$$file.o || exit 1; \
	done
	@clang $(COUNTED) -fno-sanitize=all -c tests/fuzz/hostile.c -o $(FUZZ)/objects/hostile.o
	@cc -shared $(FUZZ)/objects/*.o -o $(FUZZ)/mpsr/_speedups/_c$(SUFFIX)

# What is found is kept in build/fuzz: inputs that reach more, and those that fail (found-…).
fuzz-targets:
	@for target in $(TARGETS); do \
		mkdir -p $(FUZZ)/corpus/$$target; \
		$(RUN_FUZZ) $$target $$(($(BYTES) / $(words $(TARGETS)))) -timeout=60 -rss_limit_mb=1024 \
			-max_len=$(LONGEST) -artifact_prefix=$(FUZZ)/found-$$target- $(FUZZ)/corpus/$$target \
			tests/fuzz/corpus/$$target 2>$(FUZZ)/$$target.log \
			|| { $(FAULT) $(FUZZ)/$$target.log; exit 1; }; \
	done

fuzz-corpus: ## reduce the inputs that fuzzing found to the fewest that reach as much; needs clang
	@$(MAKE) --no-print-directory fuzzer VENV=$(FUZZ_VENV)
	@$(MAKE) --no-print-directory fuzz-merge VENV=$(FUZZ_VENV)

fuzz-merge:
	@for target in $(TARGETS); do \
		rm -rf $(FUZZ)/merged && mkdir -p $(FUZZ)/merged $(FUZZ)/corpus/$$target; \
		$(RUN_FUZZ) $$target 0 -set_cover_merge=1 -timeout=1 -max_len=$(LONGEST) $(FUZZ)/merged \
			tests/fuzz/corpus/$$target $(FUZZ)/corpus/$$target 2>$(FUZZ)/$$target.log \
			|| { $(FAULT) $(FUZZ)/$$target.log; exit 1; }; \
		rm -rf tests/fuzz/corpus/$$target && mv $(FUZZ)/merged tests/fuzz/corpus/$$target || exit 1; \
	done

# The package with C that ends the process at the first bad access or undefined operation.
SANITIZED := build/sanitized
SANITIZE  := -fsanitize=address,undefined -fno-sanitize-recover=all
SUFFIX     = $(shell $(PY) -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')
INCLUDE    = $(shell $(PY) -c 'import sysconfig; print(sysconfig.get_path("include"))')

sanitize: $(VENV)/.test ## run the wire's tests on C that stops at a memory error; needs gcc
	@rm -rf $(SANITIZED) && mkdir -p $(SANITIZED) && cp -R src/mpsr $(SANITIZED)
	@rm -f $(SANITIZED)/mpsr/_speedups/_c.*.so && gcc -std=c11 -O1 -g -fno-omit-frame-pointer \
		$(SANITIZE) -Wall -Wextra -Werror -fPIC -shared -I$(INCLUDE) src/mpsr/_speedups/*.c \
		-o $(SANITIZED)/mpsr/_speedups/_c$(SUFFIX)
	@PYTHONPATH=$(SANITIZED) PYTHONMALLOC=malloc LD_PRELOAD="$$(gcc -print-file-name=libasan.so)" \
		ASAN_OPTIONS=detect_leaks=0 MPSR_SPEEDUPS=require MPSR_FUZZ_SECONDS=30 \
		$(PYTEST) --capture=sys -m "soak or not soak" --timeout=$(SOAK_TIMEOUT) \
		$(or $(TESTS),tests/wire tests/speedups tests/system/test_timer.py)

coverage: $(VENV)/.test ## measure branch coverage; the core, all but the cli, needs 95 % (COVERED)
	@$(PY) -m coverage erase
	@$(PY) -m coverage run -m pytest -q $(TESTS)
	@$(PY) -m coverage combine -q
	@$(PY) -m coverage report
	@echo "The core alone:"
	@$(PY) -m coverage report --omit='*/mpsr/cli/*' --fail-under=$(COVERED) --format=total

lint: $(VENV)/.test,lint ## check style, types and imports
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy $(CODE)
	@$(BIN)/lint-imports --no-logo
	@PYTHONPATH=$(CURDIR)/src $(BIN)/basedpyright --pythonpath $(PY) --verifytypes mpsr --ignoreexternal \
		--outputjson | $(PY) .ci/types

format: $(VENV)/.lint ## format the code
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

bench: $(VENV)/.bench ## compare mpsr with its peers in a few minutes (BENCH)
	@$(PY) -m benchmarks $(BENCH)

bench-full: $(VENV)/.bench ## compare them with more sizes and repetitions, in about an hour
	@$(PY) -m benchmarks --full $(BENCH)

docs: $(VENV)/.docs ## build the documentation into build/docs
	@$(BIN)/sphinx-build -q -W --keep-going docs build/docs
	@echo "build/docs/index.html"

docs-look: docs ## take pictures of the documentation; needs chromium
	@$(PY) docs/look.py build/docs

linkcheck: $(VENV)/.docs ## check the links to other sites; needs a network
	@$(BIN)/sphinx-build -q -b linkcheck docs build/linkcheck

man: $(VENV)/.run ## write the manual pages to build/man
	@$(BIN)/mpsr man --directory build/man

build: $(VENV)/.build ## build the sdist and the wheel into dist
	@$(PY) -m build

wheels: ## build and try a wheel for every Python from 3.11 on that this machine has
	@.ci/wheels

clean: ## remove the files that these targets made
	@rm -rf $(VENV) $(FUZZ_VENV) build dist src/*.egg-info .coverage .coverage.* htmlcov \
		.hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find $(CODE) -name __pycache__ -prune -exec rm -rf {} +

# One stamp per set of packages: .run is mpsr without extras, .test,lint is mpsr[test,lint].

$(PY):
	@echo "making $(VENV)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mpsr needs Python 3.11 or later: make PYTHON=…")'
	@$(PYTHON) -m venv $(VENV)

# Compiled at once, so that the first start is as quick as any other, even where Python may not write.
$(VENV)/.run: $(BUILT_FROM) | $(PY)
	@echo "installing mpsr"
	@$(PIP) -e .
	@$(PY) -m compileall -q src
	@touch $@

# A peer that cannot be installed here is left out, and the benchmarks report it.
PEERS_OF := import tomllib; \
	print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["bench"], sep="\n")

$(VENV)/.bench: $(BUILT_FROM) | $(PY)
	@echo "installing mpsr[bench]"
	@$(PIP) -e '.[bench]' || { $(PIP) -e . && \
		$(PY) -c '$(PEERS_OF)' | while read -r peer; do $(PIP) "$$peer" || true; done; }
	@touch $@

$(VENV)/.%: $(BUILT_FROM) | $(PY)
	@echo "installing mpsr[$*]"
	@$(PIP) -e '.[$*]'
	@$(PY) -m compileall -q src
	@touch $@
