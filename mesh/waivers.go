package mesh

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"go.yaml.in/yaml/v3"

	"meshseal/policies"
	"meshseal/snapshot"
)

func (repo *repository) readWaivers(r *reader) error {
	repo.waiverAt = map[[4]string]policies.Place{}
	s, err := r.yaml(waiversFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || s.root == nil {
		return err
	}
	err = s.list(s.root, func(n *yaml.Node) error {
		w, err := s.waiver(n)
		if err == nil && slices.ContainsFunc(repo.waivers, func(o snapshot.Waiver) bool { return compareWaivers(o, w) == 0 }) {
			err = s.fail(n, "a second waiver of %s for %s", w.Rule, waived(w))
		}
		repo.waivers = append(repo.waivers, w)
		repo.waiverAt[waiverKey(w)] = s.at(n).place()
		return err
	})
	slices.SortFunc(repo.waivers, compareWaivers)
	return err
}

func (s *source) waiver(n *yaml.Node) (snapshot.Waiver, error) {
	var w snapshot.Waiver
	err := s.object(n, "a waiver", map[string]func(*yaml.Node) error{
		"rule": s.text(&w.Rule), "proxy": parsed(s, &w.Proxy, parseName), "resource": s.text(&w.Resource),
		"workload": parsed(s, &w.Workload, parseName),
		"reason":   s.text(&w.Reason), "until": parsed(s, &w.Until, parseDate),
	})
	if err == nil {
		err = s.require(n, "rule", "reason", "until")
	}
	if err != nil {
		return w, err
	}
	switch ofWorkload := w.Rule == snapshot.UnprovenRule; {
	case ofWorkload && (w.Proxy != "" || w.Resource != ""):
		return w, s.fail(n, "%s is about a workload; write workload in place of proxy and resource", w.Rule)
	case ofWorkload:
		return w, s.require(n, "workload")
	case w.Workload != "":
		return w, s.fail(n, "only %s is about a workload; write proxy and resource in its place", snapshot.UnprovenRule)
	}
	return w, s.require(n, "proxy", "resource")
}

// waiverKey is what a waiver is for; no two of a repository are for the same.
func waiverKey(w snapshot.Waiver) [4]string {
	return [4]string{w.Rule, w.Proxy, w.Resource, w.Workload}
}

// waived is what w is for, in words.
func waived(w snapshot.Waiver) string {
	if w.Workload != "" {
		return "workload " + w.Workload
	}
	return w.Resource + " of proxy " + w.Proxy
}

func compareWaivers(a, b snapshot.Waiver) int {
	return cmp.Or(cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Resource, b.Resource),
		cmp.Compare(a.Proxy, b.Proxy), cmp.Compare(a.Workload, b.Workload))
}

// parseDate reads a day; a waiver ends when that day begins, in UTC.
func parseDate(s string) (time.Time, error) {
	t, err := time.Parse(time.DateOnly, s)
	if err != nil {
		return time.Time{}, fmt.Errorf("%q is not a date such as 2026-12-31", s)
	}
	return t, nil
}

// checkWaivers refuses a waiver for a proxy or a workload that does not exist,
// or for a workload that is not unproven: it would wake up the day somebody
// adds one.
func (repo *repository) checkWaivers() error {
	for _, w := range repo.waivers {
		wrong := ""
		switch {
		case w.Workload == "":
			if !slices.ContainsFunc(repo.proxies, func(p *proxyConfig) bool { return p.name == w.Proxy }) {
				wrong = fmt.Sprintf("names the proxy %q, which does not exist", w.Proxy)
			}
		case !slices.ContainsFunc(repo.workloads, func(o snapshot.Workload) bool { return o.Name == w.Workload }):
			wrong = fmt.Sprintf("names the workload %q, which does not exist", w.Workload)
		case repo.unprovenAt[w.Workload] == policies.Place{}:
			wrong = fmt.Sprintf("names the workload %q, which does not say digest: %s; remove the waiver", w.Workload, unproven)
		}
		if wrong != "" {
			return &policies.FileError{At: repo.waiverAt[waiverKey(w)], Err: fmt.Errorf("the waiver of %s %s", w.Rule, wrong)}
		}
	}
	return nil
}
