package main

import (
	"fmt"
	"net/http"
	"slices"
	"time"
)

func (b *bench) warmVsFloor() (float64, error) {
	requests := b.form.requests(b.callers, 4000)
	return b.pair("warm-vs-floor",
		&side{name: "meshseal", server: b.shop(), requests: requests},
		&side{name: "always-allow", server: b.always(), requests: requests})
}

func (b *bench) warmVsOPA() (float64, error) {
	requests := b.form.requests(b.callers, 4000)
	return b.pair("warm-vs-opa",
		&side{name: "meshseal", server: b.shop(), requests: requests},
		&side{name: "opa-envoy-plugin", server: b.opa("opa", nothing), requests: requests, part: slow})
}

// firstCertVsFloor has a new certificate in each check: its chain has to be
// verified, all else is known.
func (b *bench) firstCertVsFloor() (float64, error) {
	made := 0
	fresh := func() []*check {
		list := b.newCallers(made, 1500)
		made += len(list)
		return b.form.requests(list, len(list))
	}
	return b.pair("first-cert-vs-floor",
		&side{name: "meshseal", server: b.shop(), fresh: fresh},
		&side{name: "always-allow", server: b.always(), fresh: fresh})
}

// uncachedVsOPA has a policy that looks at the clock, so that every check is
// evaluated.
func (b *bench) uncachedVsOPA() (float64, error) {
	requests := b.form.requests(b.callers, 4000)
	defer b.end("uncached")
	return b.pair("uncached-vs-opa",
		&side{name: "meshseal", server: b.meshseal("uncached", byTime, 0), requests: requests, part: slow},
		&side{name: "opa-envoy-plugin", server: b.opa("opa-uncached", byTime), requests: requests, part: slow})
}

// denials are the ways to be denied that a caller has in its hand, whose
// certificate has been seen before.
func (b *bench) denials() map[string][]*check {
	method := func(method, path string, paths int) []*check {
		list := make([]*check, 2*len(b.callers))
		for i := range list {
			list[i] = b.form.request(b.callers[i%len(b.callers)], method, fmt.Sprintf(path, i%paths), i)
		}
		return list
	}
	certificate := func(id func(name string) string) []*check {
		var list []*caller
		for i := range 100 {
			list = append(list, b.newCaller(id(workload(i))))
		}
		return b.form.requests(list, 1000)
	}
	of := "spiffe://" + domain + "/"
	return map[string][]*check{
		"by the policy":            method(http.MethodPost, "/orders/%d", 8),
		"malformed path":           method(http.MethodGet, "/orders/%%zz%d", 8),
		"malformed query":          method(http.MethodGet, "/orders/1?page=%%zz%d", 8),
		"a new path each time":     method(http.MethodPost, "/orders/%d/x", 1000),
		"no such workload":         certificate(func(name string) string { return of + "nobody-" + name + "/sha256/" + digest(name) }),
		"digest not allowed":       certificate(func(name string) string { return of + name + "/sha256/" + digest("other") }),
		"digest revoked":           certificate(func(name string) string { return of + name + "/sha256/" + digest(name+"-revoked") }),
		"a certificate, no digest": certificate(func(name string) string { return of + name }),
		"no SPIFFE ID":             certificate(func(name string) string { return "https://shop.test/" + name }),
		"unknown trust domain":     certificate(func(name string) string { return "spiffe://elsewhere.test/" + name + "/sha256/" + digest(name) }),
	}
}

// permissionDenied is the code of a denial, google.rpc.Code.
const permissionDenied = 7

// denyVsAllow is the worst of the denials, beside an allow of the same server.
func (b *bench) denyVsAllow() (float64, error) {
	s := b.shop()
	worst := 0.0
	allow := b.form.requests(b.callers, 4000)
	denials := b.denials()
	for _, kind := range sortedKeys(denials) {
		ratio, err := b.pair("deny-vs-allow",
			&side{name: "denied: " + kind, server: s, requests: denials[kind], want: permissionDenied, part: slow},
			&side{name: "allowed", server: s, requests: allow, part: slow})
		if err != nil {
			return 0, err
		}
		worst = max(worst, ratio)
	}
	return worst, nil
}

// slow is the part of the checks of a turn that is enough where a check is dear
// or the bound is wide.
const slow = 4

// side is one of the two that are compared: a server and what it is asked.
type side struct {
	name     string
	server   *server
	requests []*check
	want     int             // the code of every answer
	fresh    func() []*check // if set, the requests of each turn
	part     int             // a turn has this part of the checks; all if 0
}

// pair takes turns and returns the quotient of the medians of the processor time
// of a check.
func (b *bench) pair(row string, a, z *side) (float64, error) {
	figures := map[*side][]float64{}
	for _, s := range []*side{a, z} {
		if s.fresh == nil {
			if err := s.server.client.send(2*len(s.requests), s.requests, s.want); err != nil {
				return 0, fmt.Errorf("%s: %w\n%s", s.name, err, s.server.Tail())
			}
		}
	}
	for r := range b.rounds {
		order := []*side{a, z}
		if r%2 == 1 {
			slices.Reverse(order)
		}
		for _, s := range order {
			took, err := b.turn(s)
			if err != nil {
				return 0, fmt.Errorf("%s: %w\n%s", s.name, err, s.server.Tail())
			}
			figures[s] = append(figures[s], float64(took)/float64(time.Microsecond))
		}
	}
	for _, s := range []*side{a, z} {
		fmt.Printf("%-20s %s: %s\n", row, s.name, spread(figures[s], "µs of CPU a check"))
	}
	return median(figures[a]) / median(figures[z]), nil
}

// turn is one turn of a side.
func (b *bench) turn(s *side) (perCheck time.Duration, err error) {
	n := b.checks / max(1, s.part)
	if s.fresh != nil {
		s.requests = s.fresh()
		n = len(s.requests)
	}
	perCheck, err = s.server.client.turn(s.server.Pid(), n, s.requests, s.want)
	s.server.forget(b)
	return perCheck, err
}
