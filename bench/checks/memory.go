package main

import (
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
)

// What memory is measured with.
const (
	routes    = 10000
	decisions = 100000
)

// memory is the resident memory of a server, in MiB, when the last of so many
// different decisions was given.
func (b *bench) memory() (float64, error) {
	s := b.meshseal("memory", byPath, routes)
	defer b.end("memory")
	begin, err := resident(s.Pid(), "VmRSS")
	if err != nil {
		return 0, err
	}
	const batch = 5000
	for first := 0; first < decisions; first += batch {
		list := make([]*check, batch)
		for i := range list {
			n := first + i
			list[i] = b.form.request(b.callers[n%len(b.callers)], http.MethodGet, fmt.Sprintf("/orders/a/%d", n), n)
		}
		if err := s.client.send(batch, list, 0); err != nil {
			return 0, fmt.Errorf("%w\n%s", err, s.Tail())
		}
		s.forget(b)
	}
	end, err := resident(s.Pid(), "VmRSS")
	if err != nil {
		return 0, err
	}
	peak, err := resident(s.Pid(), "VmHWM")
	fmt.Printf("%-20s meshseal: %.0f MiB before the first check, %.0f after the last, %.0f at most\n", "memory-mib", begin, end, peak)
	return end, err
}

// resident is a figure of /proc/<pid>/status, in MiB.
func resident(pid int, field string) (float64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(line, field+":"); ok {
			kib, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 64)
			return kib / 1024, err
		}
	}
	return 0, fmt.Errorf("process %d tells no %s", pid, field)
}
