# Everything runs in a virtual environment of its own. `make demo` and `make test` need python3 (3.11 to 3.13), pip and make.
PYTHON ?= python3
OLDEST_PYTHON ?= python3.11
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
OUT ?= runs/demo
EXTRAS = cloud,datasets,faiss,onnx,ray,serve,tensorboard,xlsx

# Those that meet every dependency, and one whole run.
DEPENDENCY_TESTS = tests/test_packaging.py tests/config/test_config.py tests/cli/test_cli.py tests/cli/test_json_output.py tests/store/test_untrusted_npy.py \
	tests/store/test_remote.py tests/store/test_mirror.py tests/pipeline/test_cloud.py tests/pipeline/test_cloud_out.py tests/datasets/test_shards.py \
	tests/datasets/test_images.py tests/annotations tests/clip tests/crf/test_crf_parity.py tests/crf/test_lattice.py \
	tests/datasets/test_coco.py tests/datasets/test_contours.py tests/tools/export/test_networks.py tests/hostile/test_bounds.py \
	tests/modeling/test_storage.py tests/tools/export/test_hf_dataset.py tests/pipeline/test_run.py tests/report/test_report.py \
	tests/review/test_serving.py tests/review/test_site.py tests/scripts/test_train_demo_clip.py \
	tests/training/test_tensorboard.py tests/fuzz
# Modules of the API reference beside those of `weakclip.__all__`: the documentation imports them.
REFERENCE = $(addprefix weakclip.,config.reading config.sections datasets.base datasets.classes datasets.images datasets.kinds inference.metrics \
	inference.pseudo_masks pipeline report seeds.base seeds.kinds segmenters.segmenter store.files store.layout)
TESTS ?=
# Whole jobs are for `make test-whole`, what takes minutes for `make test-slow`.
MARKS ?= not slow and not whole
WORKERS ?= auto
# The tests start many processes of the package: its modules are compiled once, whatever the shell says.
unexport PYTHONDONTWRITEBYTECODE

pip = $(VENV)/bin/python -m pip
install = $(pip) install --quiet --only-binary :all:
with_constraints = $(if $(CONSTRAINTS),-c $(CONSTRAINTS))
pinned = $(if $(CONSTRAINTS),pinned,free)
run_stamp = $(VENV)/.installed-run-$(pinned)
test_stamp = $(VENV)/.installed-test-$(pinned)
dev_stamp = $(VENV)/.installed-dev-$(pinned)

.PHONY: bench demo demo-full test test-whole test-oldest test-slow lint docs release-check clean help
.DEFAULT_GOAL := help

help:  ## say what there is
	@sed -n 's/^\([a-z-]*\):.*## /\1: /p' Makefile

demo: $(run_stamp)  ## the whole job on the embedded data set, CPU only
	$(VENV)/bin/weakclip run demo --out $(OUT)

demo-full: $(run_stamp)  ## the demo, and the same network trained on the true masks as its upper bound
	$(VENV)/bin/weakclip run demo --full --out $(OUT)

test: $(test_stamp)  ## the tests: no network, no GPU
	$(VENV)/bin/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "$(MARKS)" $(TESTS)

test-whole:  ## whole jobs: commands that are killed, browsers, clusters, stores, benchmarks, the documents' walks
	$(MAKE) test MARKS="whole and not slow"

test-oldest:  ## the tests that meet the dependencies, with the oldest versions that pyproject.toml allows
	$(MAKE) test VENV=$(VENV)-oldest PYTHON=$(OLDEST_PYTHON) CONSTRAINTS=constraints-oldest.txt TESTS="$(DEPENDENCY_TESTS)" MARKS="not slow"

test-slow: $(test_stamp)  ## the tests that take minutes
	$(VENV)/bin/python -m pytest -m slow

bench: $(test_stamp)  ## the parts of a run, timed beside what the released code computes; ten minutes at most
	$(VENV)/bin/python benchmarks/speed.py --json build/speed.json

lint: $(dev_stamp)  ## style and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

docs: $(test_stamp)  ## the API reference, from the docstrings: build/docs/index.html; a warning is an error
	$(VENV)/bin/python -W error::UserWarning -m pdoc weakclip $(REFERENCE) --docformat google --output-directory build/docs

release-check:  ## before a release: distributions, the wheel at work, bill of materials, known holes; network
	rm -rf build/release && mkdir -p build/release
	$(PYTHON) -m venv build/release/tools
	build/release/tools/bin/pip install --quiet --only-binary :all: build twine pip-audit cyclonedx-bom
	build/release/tools/bin/python -m build --outdir build/release/dist
	build/release/tools/bin/twine check --strict build/release/dist/*
	$(PYTHON) -m venv build/release/clean
	build/release/clean/bin/pip install --quiet --only-binary :all: build/release/dist/*.whl $(with_constraints)
	build/release/clean/bin/weakclip --version
	build/release/clean/bin/weakclip run demo --limit-steps 2 --set data.train_limit=4 --set data.val_limit=2 --out build/release/run
	build/release/clean/bin/pip install --quiet --only-binary :all: "$$(ls build/release/dist/*.whl)[$(EXTRAS)]" $(with_constraints)
	build/release/tools/bin/cyclonedx-py environment --output-file build/release/sbom.cdx.json build/release/clean
	build/release/clean/bin/pip freeze --all --exclude pip --exclude weakclip | sed 's/+.*//' > build/release/requirements.txt
	build/release/tools/bin/pip-audit --strict --no-deps --disable-pip --requirement build/release/requirements.txt

clean:  ## remove the environments; runs are kept
	rm -rf $(VENV) $(VENV)-oldest

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# A stamp says which set is installed; installing the other one (pinned or free) takes its stamps away.
$(VENV)/.installed-%-$(pinned): $(VENV)/bin/python pyproject.toml $(CONSTRAINTS)
	rm -f $(VENV)/.installed-*-$(if $(CONSTRAINTS),free,pinned)
	$(install) --editable '.$(if $(filter-out run,$*),[$*])' $(with_constraints)
	touch $@
