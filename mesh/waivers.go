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
	repo.waiverAt = map[[3]string]policies.Place{}
	s, err := r.yaml(waiversFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || s.root == nil {
		return err
	}
	err = s.list(s.root, func(n *yaml.Node) error {
		var w snapshot.Waiver
		err := s.object(n, "a waiver", map[string]func(*yaml.Node) error{
			"rule": s.text(&w.Rule), "proxy": parsed(s, &w.Proxy, parseName), "resource": s.text(&w.Resource),
			"reason": s.text(&w.Reason), "until": parsed(s, &w.Until, parseDate),
		})
		if err == nil {
			err = s.require(n, "rule", "proxy", "resource", "reason", "until")
		}
		if err == nil && slices.ContainsFunc(repo.waivers, func(o snapshot.Waiver) bool { return compareWaivers(o, w) == 0 }) {
			err = s.fail(n, "a second waiver of %s for %s of proxy %s", w.Rule, w.Resource, w.Proxy)
		}
		repo.waivers = append(repo.waivers, w)
		repo.waiverAt[waiverKey(w)] = s.at(n).place()
		return err
	})
	slices.SortFunc(repo.waivers, compareWaivers)
	return err
}

// waiverKey is what a waiver is for; no two of a repository are for the same.
func waiverKey(w snapshot.Waiver) [3]string { return [3]string{w.Rule, w.Proxy, w.Resource} }

func compareWaivers(a, b snapshot.Waiver) int {
	return cmp.Or(cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Resource, b.Resource), cmp.Compare(a.Proxy, b.Proxy))
}

// parseDate reads a day; a waiver ends when that day begins, in UTC.
func parseDate(s string) (time.Time, error) {
	t, err := time.Parse(time.DateOnly, s)
	if err != nil {
		return time.Time{}, fmt.Errorf("%q is not a date such as 2026-12-31", s)
	}
	return t, nil
}

// checkWaivers refuses a waiver for a proxy that does not exist: it would
// wake up the day somebody adds one of that name.
func (repo *repository) checkWaivers() error {
	for _, w := range repo.waivers {
		if !slices.ContainsFunc(repo.proxies, func(p *proxyConfig) bool { return p.name == w.Proxy }) {
			return &policies.FileError{At: repo.waiverAt[waiverKey(w)], Err: fmt.Errorf("the waiver of %s names the proxy %q, which does not exist", w.Rule, w.Proxy)}
		}
	}
	return nil
}
