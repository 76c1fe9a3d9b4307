package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// row is one figure of the table, and the bound that it has to keep.
type row struct {
	name    string
	most    float64
	measure func(*bench) (float64, error)
}

var rows = []row{
	{"warm-vs-floor", 0.75, func(b *bench) (float64, error) { return b.warmVsFloor() }},
	{"warm-vs-opa", 1.0 / 15, func(b *bench) (float64, error) { return b.warmVsOPA() }},
}

// measure measures the rows of these names, or all of them.
func (b *bench) measure(names []string) error {
	for _, name := range names {
		if !slices.ContainsFunc(rows, func(r row) bool { return r.name == name }) {
			return fmt.Errorf("there is no row %q", name)
		}
	}
	b.prepare()
	var broken []string
	for _, r := range rows {
		if len(names) > 0 && !slices.Contains(names, r.name) {
			continue
		}
		value, err := r.measure(b)
		if err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
		fmt.Printf("%-20s at most %.4g\nRATIO %s %.4f\n", r.name, r.most, r.name, value)
		if !(value <= r.most) {
			broken = append(broken, fmt.Sprintf("%s is %.4f, at most %.4g", r.name, value, r.most))
		}
	}
	if len(broken) > 0 && len(names) == 0 {
		return errors.New(strings.Join(broken, "; "))
	}
	return nil
}

// side is one of the two that are compared: a server and what it is asked.
type side struct {
	name     string
	server   *server
	requests []*check
	want     int             // the code of every answer
	fresh    func() []*check // if set, the requests of each turn
}

// pair takes turns and returns the quotient of the medians of the processor time
// of a check.
func (b *bench) pair(row string, a, z *side) (float64, error) {
	figures := map[*side][]float64{}
	for _, s := range []*side{a, z} {
		if s.fresh == nil {
			if err := b.warm(s.server, s.requests, s.want); err != nil {
				return 0, fmt.Errorf("%s: %w", s.name, err)
			}
		}
	}
	for r := range b.rounds {
		order := []*side{a, z}
		if r%2 == 1 {
			slices.Reverse(order)
		}
		for _, s := range order {
			n := b.checks
			if s.fresh != nil {
				s.requests = s.fresh()
				n = len(s.requests)
			}
			took, err := s.server.client.turn(s.server.Pid(), n, s.requests, s.want)
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

func (b *bench) warmVsFloor() (float64, error) {
	requests := b.form.requests(b.callers, 4000)
	return b.pair("warm-vs-floor",
		&side{name: "meshseal", server: b.meshseal("shop", nothing, 0), requests: requests},
		&side{name: "always-allow", server: b.always(), requests: requests})
}

func (b *bench) warmVsOPA() (float64, error) {
	requests := b.form.requests(b.callers, 4000)
	return b.pair("warm-vs-opa",
		&side{name: "meshseal", server: b.meshseal("shop", nothing, 0), requests: requests},
		&side{name: "opa-envoy-plugin", server: b.opa("opa", nothing), requests: requests})
}

func spread(list []float64, unit string) string {
	return fmt.Sprintf("%.1f %s (%.1f to %.1f, %d times)", median(list), unit, slices.Min(list), slices.Max(list), len(list))
}

func median(list []float64) float64 {
	sorted := slices.Sorted(slices.Values(list))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}
