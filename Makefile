# Thin over run.py, which works without make (and is what Windows users call).
# make chat ARGS="-p hello"      make test ARGS="tests/test_demo.py"
# make bench ARGS="--verifier V.gguf --drafter D.gguf"
PYTHON ?= python3
ARGS ?=

.PHONY: chat test bench

chat:
	@$(PYTHON) run.py chat $(ARGS)

test:
	@$(PYTHON) run.py test $(ARGS)

bench:
	@$(PYTHON) run.py bench $(ARGS)
