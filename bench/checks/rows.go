package main

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// row is one figure of the table, and the bound that it has to keep.
type row struct {
	name    string
	most    float64
	measure func(*bench) (float64, error)
}

var rows = []row{
	{"warm-vs-floor", 0.75, (*bench).warmVsFloor},
	{"warm-vs-opa", 1.0 / 15, (*bench).warmVsOPA},
	{"first-cert-vs-floor", 5, (*bench).firstCertVsFloor},
	{"uncached-vs-opa", 1.0 / 3, (*bench).uncachedVsOPA},
	{"deny-vs-allow", 3, (*bench).denyVsAllow},
	{"p99-vs-floor", 1.2, (*bench).p99VsFloor},
	{"memory-mib", 150, (*bench).memory},
	{"allocs", 0, (*bench).allocs},
}

// measure measures the rows of these names, or all of them and holds them to
// their bounds.
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

func spread(list []float64, unit string) string {
	return fmt.Sprintf("%.1f %s (%.1f to %.1f, %d times)", median(list), unit, slices.Min(list), slices.Max(list), len(list))
}

func median(list []float64) float64 {
	sorted := slices.Sorted(slices.Values(list))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
