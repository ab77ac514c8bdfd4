# What the targets run are plain pip and python commands, to type as they are where there is no make.

PYTHON ?= python3
# More arguments for installing torch and its torchvision, as: make demo TORCH_ARGS='--extra-index-url URL'
TORCH_ARGS ?=

SUPPORTED = import sys; \
	sys.exit(None if (3, 11) <= sys.version_info < (3, 14) else \
	'castling_det needs Python 3.11, 3.12 or 3.13; $(PYTHON) is %d.%d.' % sys.version_info[:2])

DEMO = castling-picodet_levit-nano_1xb16-8e_shapes-64x512
DEMO_CONFIG = configs/castling_picodet/$(DEMO).py
DEMO_DIR = work_dirs/$(DEMO)
DEMO_SEG = castling-segformer_levit-nano_1xb16-1200i_shapes-seg-64x512
DEMO_SEG_CONFIG = configs/castling_seg/$(DEMO_SEG).py
DEMO_SEG_DIR = work_dirs/$(DEMO_SEG)

.PHONY: install install-dev demo demo-seg lint test tables docs

install: .venv/.installed
install-dev: .venv/.installed-dev

.venv/bin/python:
	@$(PYTHON) -c "$(SUPPORTED)"
	$(PYTHON) -m venv .venv

# Two wheels write the folder cv2: the headless one, which needs no libGL, has to come last.
.venv/.installed: setup.py constraints.txt | .venv/bin/python
	.venv/bin/python -m pip install -c constraints.txt $(TORCH_ARGS) torch torchvision
	.venv/bin/python -m pip install -c constraints.txt -e .
	.venv/bin/python -m pip install -c constraints.txt --force-reinstall --no-deps opencv-python-headless
	touch $@

.venv/.installed-dev: .venv/.installed
	.venv/bin/python -m pip install -c constraints.txt -e '.[dev,export]'
	touch $@

# The demo: the commands that the README shows.
demo: install
	.venv/bin/python tools/make_shapes.py data/shapes
	.venv/bin/python tools/train.py $(DEMO_CONFIG)
	.venv/bin/python tools/test.py $(DEMO_CONFIG) $(DEMO_DIR)/epoch_8.pth --show-dir $(DEMO_DIR)/pictures

# The same scenes as label maps.
demo-seg: install
	.venv/bin/python tools/make_shapes.py data/shapes
	.venv/bin/python tools/train.py $(DEMO_SEG_CONFIG)
	.venv/bin/python tools/test.py $(DEMO_SEG_CONFIG) $(DEMO_SEG_DIR)/iter_1200.pth --show-dir $(DEMO_SEG_DIR)/pictures

# What a new or measured config changes in the configs' READMEs.
tables: install-dev
	.venv/bin/python tools/studies/update_tables.py

# The reference of the public names, to be opened as site/index.html.
docs: install-dev
	.venv/bin/python docs/reference/write.py site

lint: install-dev
	.venv/bin/python -m ruff check
	.venv/bin/python -m ruff format --check
	.venv/bin/python -m pytest tests/test_style.py

test: install-dev
	.venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
