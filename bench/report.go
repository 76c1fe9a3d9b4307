package main

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
)

// bound is a ratio that has to be kept.
type bound struct {
	name string
	of   []string // the figure that is the worst of these counts
	most float64
}

var bounds = []bound{
	{"xds-update-group", []string{"update-group"}, 0.3},
	{"xds-update-nodes", []string{"update-nodes"}, 0.02},
	{"xds-reconnect-cpu", []string{"reconnect-group", "reconnect-nodes"}, 0.15},
	{"xds-memory", []string{"memory-nodes"}, 0.15},
}

// units are those of the figures, by the beginning of the name.
var units = map[string]string{
	"update": "ms", "reconnect": "ms of CPU", "resume": "ms of CPU", "memory": "KiB a client",
}

// report prints all figures, then the ratios, and holds them to their bounds.
func report(f figures, partly bool) error {
	for _, name := range slices.Sorted(maps.Keys(f)) {
		unit := units[strings.SplitN(name, "-", 2)[0]]
		fmt.Printf("%-16s %s; %s; ratio %.4f\n", name, spread(f, name, kinds[0], unit), spread(f, name, kinds[1], unit), ratio(f, name))
	}
	if partly {
		return nil
	}
	var broken []string
	for _, b := range bounds {
		worst := 0.0
		for _, name := range b.of {
			worst = math.Max(worst, ratio(f, name)) // NaN stays
		}
		fmt.Printf("RATIO %s %.4f\n", b.name, worst)
		if !(worst <= b.most) {
			broken = append(broken, fmt.Sprintf("%s is %.4f, at most %g", b.name, worst, b.most))
		}
	}
	if len(broken) > 0 {
		return errors.New(strings.Join(broken, "; "))
	}
	return nil
}

func ratio(f figures, name string) float64 {
	return median(f[name][kinds[0]]) / median(f[name][kinds[1]])
}

func spread(f figures, name, kind, unit string) string {
	list := f[name][kind]
	if len(list) == 0 {
		return kind + " was not measured"
	}
	return fmt.Sprintf("%s %.0f %s (%.0f to %.0f, %d times)", kind, median(list), unit, slices.Min(list), slices.Max(list), len(list))
}

func median(list []float64) float64 {
	sorted := slices.Sorted(slices.Values(list))
	if len(sorted) == 0 {
		return math.NaN()
	}
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}
