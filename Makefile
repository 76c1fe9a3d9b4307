# Two commands do everything: `make demo` and `make test`. They need Go, git,
# make and Python's pip, and nothing that runs as root.

# The same settings for every build, so that packages are compiled once.
export CGO_ENABLED := 0
export GOFLAGS := -trimpath

staticcheck := honnef.co/go/tools/cmd/staticcheck@v0.7.0
govulncheck := golang.org/x/vuln/cmd/govulncheck@v1.9.0

# How often the two sides of `make bench` take turns.
ROUNDS ?= 7

.PHONY: help build demo test test-faults test-spire fuzz bench soak bench-xds bench-revocation check envoy spire clean

help:
	@echo 'make build   bin/meshseal, and the guard where there is a C compiler'
	@echo 'make demo    the shop on real Envoys, step by step'
	@echo 'make test    every test, the ones on a real Envoy too'
	@echo 'make test-faults   a kill or an I/O error at every call of an adoption; needs strace'
	@echo 'make test-spire    a real SPIRE, real Envoys with its certificates; builds SPIRE the first time;'
	@echo '                   the tests of pods need root'
	@echo 'make fuzz    every fuzz target for FUZZTIME (10m), one after the other'
	@echo 'make bench   a check beside an always-allow server and opa-envoy-plugin, in one run of under 10 minutes'
	@echo 'make soak    checks for SOAK (10m), then goroutines, descriptors and memory as before'
	@echo 'make bench-xds   the xDS server beside go-control-plane, in one run of under 4 minutes'
	@echo 'make bench-revocation   from the commit that revokes to the last request, the entry, the last SVID: 20 runs'
	@echo 'make check   format, vet, staticcheck, race tests, known vulnerabilities, go.mod'
	@echo 'make envoy   fetch the pinned Envoy into the cache folder, print its path'
	@echo 'make spire   build the pinned SPIRE into the cache folder (6 to 10 minutes, once), print its folder'
	@echo 'make clean   remove bin/'

build:
	go build -o bin/meshseal ./cmd/meshseal
	@scripts/guard $(CURDIR)/bin/libmeshseal_guard.so || [ $$? -eq 3 ]

envoy:
	@scripts/envoy

spire:
	@scripts/spire

demo: build
	@envoy=$$(scripts/envoy) && MESHSEAL_ENVOY=$$envoy MESHSEAL_BIN=$(CURDIR)/bin/meshseal go run ./examples/shop/demo

test: build
	@envoy=$$(scripts/envoy) && MESHSEAL_ENVOY=$$envoy MESHSEAL_BIN=$(CURDIR)/bin/meshseal go run ./scripts/testrun

test-faults:
	@strace=$$(scripts/strace) && go vet -tags faults ./integration/faults && \
		MESHSEAL_STRACE=$$strace go test -count=1 -vet=off -tags faults -timeout 5m ./integration/faults

test-spire: build
	@envoy=$$(scripts/envoy) && spire=$$(scripts/spire) && go vet -tags spire ./integration/spire/... && \
		export MESHSEAL_ENVOY=$$envoy MESHSEAL_SPIRE=$$spire MESHSEAL_BIN=$(CURDIR)/bin/meshseal && \
		go test -count=1 -vet=off -tags spire -parallel 4 -timeout 10m ./integration/spire/... && \
		go -C integration/clusterstaticentry test -count=1 -vet=off -timeout 5m ./...

fuzz:
	@scripts/fuzz

bench: build
	@envoy=$$(scripts/envoy) && plugin=$$(scripts/opaplugin) && \
		MESHSEAL_ENVOY=$$envoy MESHSEAL_OPA_PLUGIN=$$plugin MESHSEAL_BIN=$(CURDIR)/bin/meshseal go -C bench run ./checks -rounds $(ROUNDS)

soak: build
	@envoy=$$(scripts/envoy) && MESHSEAL_ENVOY=$$envoy MESHSEAL_BIN=$(CURDIR)/bin/meshseal \
		go -C bench run ./checks -soak $${SOAK:-10m}

bench-xds:
	@go -C bench run .

bench-revocation: build
	@envoy=$$(scripts/envoy) && spire=$$(scripts/spire) && \
		REVOCATIONS=20 MESHSEAL_ENVOY=$$envoy MESHSEAL_SPIRE=$$spire MESHSEAL_BIN=$(CURDIR)/bin/meshseal \
		go test -count=1 -vet=off -tags spire -timeout 10m -v -run '^TestSPIRERevocation$$' ./integration/spire

check:
	@scripts/check $(staticcheck) $(govulncheck)

clean:
	rm -rf bin
