# Six targets, nothing clever. `make test` is what the README says.
GO ?= go
BIN := bin/tarbert

.PHONY: build test lint bench soak interop

build: ## one static binary
	CGO_ENABLED=0 $(GO) build -trimpath -o $(BIN) ./cmd/tarbert

test: ## everything quick: under five minutes cold on two cores
	$(GO) test ./...

lint: ## gofmt, vet, staticcheck
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); exit 1; }
	$(GO) vet ./...
	$(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2 ./...

bench: ## figures beside their peers; writes nothing, prints tables
	$(GO) -C bench run ./kernel

soak: ## minutes to an hour: three seeds end to end, random kills
	TARBERT_SOAK=1 $(GO) test -timeout 90m -run Soak -v ./internal/...

interop: ## against the real tools, pinned (docs/howto/interop.md)
	./interop/run
