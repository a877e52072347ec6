# Eight targets, nothing clever. `make test` is what the README says.
GO ?= go
BIN := bin/tarbert

.PHONY: build test lint bench soak arm64 interop evidence-nvidia

build: ## one static binary
	CGO_ENABLED=0 $(GO) build -trimpath -o $(BIN) ./cmd/tarbert

test: ## everything quick: under five minutes cold on two cores
	$(GO) test ./...

lint: ## gofmt, vet, staticcheck
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); exit 1; }
	$(GO) vet ./...
	$(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2 ./...

bench: build ## figures beside their peers where those are installed; prints tables
	./bench/run

soak: ## minutes to an hour: three seeds end to end, random kills, a real cluster's faults
	TARBERT_SOAK=1 $(GO) test -timeout 90m -run Soak -v ./internal/...

arm64: ## the model and its kernels under qemu's arm64; says so where qemu is missing
	TARBERT_SOAK=1 $(GO) test -timeout 60m -run SoakArm64 -v ./internal/reference/...

interop: ## against the real tools, pinned (docs/howto/interop.md)
	./interop/run

evidence-nvidia: ## train, kill, resume and judge on this machine's NVIDIA chip (bench/evidence/README.md)
	@if command -v $(GO) >/dev/null; then $(MAKE) build; elif [ ! -x $(BIN) ]; then echo "no Go here and no $(BIN): build it elsewhere (make build) and copy it"; exit 3; fi
	$(or $(PYTHON),python3) bench/evidence/nvidia.py $(BIN)
