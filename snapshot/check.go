package snapshot

import (
	"cmp"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"meshseal/identity"
)

// Bounds of names and texts, in bytes.
const (
	maxName         = 253  // of a mesh, proxy, workload: a DNS name's length
	maxResourceName = 4096 // of a resource, and of a policy's path
	maxText         = 4096 // of a waiver's reason
)

// MaxGrace is the longest Mesh.Grace.
const MaxGrace = time.Hour

// checkContent holds every rule that content keeps by itself. c is in the
// order of the format.
func checkContent(c Content) error {
	if c.Mesh.Format != FormatV1 {
		return fmt.Errorf("%w: %q; this release reads %q", ErrFormat, clip(c.Mesh.Format), FormatV1)
	}
	if len(c.Proxies) == 0 || len(c.Workloads) == 0 {
		return fmt.Errorf("%w: %d proxies, %d workloads", ErrEmpty, len(c.Proxies), len(c.Workloads))
	}
	for _, check := range []func(Content) error{checkMesh, checkProxies, checkWorkloads, checkPolicies, checkWaivers, checkAttestation} {
		if err := check(c); err != nil {
			return fmt.Errorf("%w: %w", ErrContent, err)
		}
	}
	return checkResources(c)
}

func checkMesh(c Content) error {
	m := c.Mesh
	if err := checkName("mesh", m.Name); err != nil {
		return err
	}
	if len(m.TrustDomains) == 0 {
		return fmt.Errorf("mesh %q lists no trust domain", m.Name)
	}
	for _, td := range m.TrustDomains {
		if again, err := spiffeid.TrustDomainFromString(td.Name()); err != nil || again != td {
			return fmt.Errorf("mesh %q: %q is not a trust domain", m.Name, clip(td.Name()))
		}
	}
	if err := ascending("trust domain", m.TrustDomains, spiffeid.TrustDomain.Name); err != nil {
		return err
	}
	switch {
	case m.StatementLifetime < time.Second || m.StatementLifetime > MaxStatementLifetime || m.StatementLifetime%time.Second != 0:
		return fmt.Errorf("the statement lifetime %s is not in whole seconds from 1s to %s", m.StatementLifetime, MaxStatementLifetime)
	case m.Grace < 0 || m.Grace > MaxGrace || m.Grace%time.Millisecond != 0:
		return fmt.Errorf("the grace %s is not in whole milliseconds from 0s to %s", m.Grace, MaxGrace)
	}
	if err := checkText("policy path", m.PolicyPath, maxName); err != nil {
		return err
	}
	return checkText("SDS cluster", m.SDSCluster, maxName)
}

func checkProxies(c Content) error {
	if err := ascending("proxy", c.Proxies, func(p Proxy) string { return p.Name }); err != nil {
		return err
	}
	owner := make(map[spiffeid.ID]string, len(c.Proxies))
	for _, p := range c.Proxies {
		if err := checkName("proxy", p.Name); err != nil {
			return err
		}
		if err := checkID(c.Mesh, p.ID); err != nil {
			return fmt.Errorf("proxy %q: %w", p.Name, err)
		}
		if other, ok := owner[p.ID]; ok {
			return fmt.Errorf("proxies %q and %q both have the ID %s", other, p.Name, p.ID)
		}
		owner[p.ID] = p.Name
		if p.Workload != "" && !slices.ContainsFunc(c.Workloads, func(w Workload) bool { return w.Name == p.Workload }) {
			return fmt.Errorf("proxy %q fronts the workload %q, which does not exist", p.Name, clip(p.Workload))
		}
		if err := checkEntries(p); err != nil {
			return fmt.Errorf("proxy %q: %w", p.Name, err)
		}
	}
	return nil
}

func checkEntries(p Proxy) error {
	for i, e := range p.Entries {
		if typeCodes[e.Type] == 0 {
			return fmt.Errorf("resource %q has the type %q, which a snapshot cannot hold", clip(e.Name), clip(string(e.Type)))
		}
		if err := checkText("resource", e.Name, maxResourceName); err != nil {
			return err
		}
		if e.Type == ClusterType && strings.HasPrefix(e.Name, ReservedPrefix) {
			return fmt.Errorf("cluster %q: names that begin with %q belong to meshseal", clip(e.Name), ReservedPrefix)
		}
		if i > 0 && p.Entries[i-1].compare(e) >= 0 {
			return fmt.Errorf("resource %q of type %s is there twice or out of order", clip(e.Name), e.Type)
		}
	}
	return nil
}

func checkWorkloads(c Content) error {
	if err := ascending("workload", c.Workloads, func(w Workload) string { return w.Name }); err != nil {
		return err
	}
	owner := make(map[spiffeid.ID]string, len(c.Workloads))
	for _, w := range c.Workloads {
		if err := checkName("workload", w.Name); err != nil {
			return err
		}
		if err := checkID(c.Mesh, w.ID); err != nil {
			return fmt.Errorf("workload %q: %w", w.Name, err)
		}
		if other, ok := owner[w.ID]; ok {
			return fmt.Errorf("workloads %q and %q both have the ID %s", other, w.Name, w.ID)
		}
		owner[w.ID] = w.Name
		if err := checkImages(w); err != nil {
			return fmt.Errorf("workload %q: %w", w.Name, err)
		}
		if err := checkPolicy(w); err != nil {
			return fmt.Errorf("workload %q: %w", w.Name, err)
		}
	}
	return nil
}

func checkImages(w Workload) error {
	if err := checkSets(w.Allowed); err != nil {
		return err
	}
	if len(w.Revoked) > 0 && w.Revoked[0].IsZero() {
		return fmt.Errorf("a revoked digest is zero")
	}
	return ascending("revoked image", w.Revoked, Digest.Hex)
}

func checkSets(sets []ImageSet) error {
	for i, set := range sets {
		if _, err := identity.SetDigest(set); err != nil {
			return err
		}
		if err := ascending("image", set, Digest.Hex); err != nil {
			return err
		}
		if set[0].IsZero() {
			return fmt.Errorf("an image digest is zero")
		}
		if i > 0 && slices.CompareFunc(sets[i-1], set, Digest.Compare) >= 0 {
			return fmt.Errorf("the image set that begins with %s is there twice or out of order", set[0])
		}
	}
	return nil
}

func checkPolicies(c Content) error {
	for _, f := range c.Policies {
		if err := checkText("policy file", f.Path, maxResourceName); err != nil {
			return err
		}
		if !fs.ValidPath(f.Path) || f.Path == "." {
			return fmt.Errorf("policy file %q: not a clean relative path", clip(f.Path))
		}
	}
	return ascending("policy file", c.Policies, func(f File) string { return f.Path })
}

func checkWaivers(c Content) error {
	for _, v := range c.Waivers {
		for _, t := range v.texts() {
			if err := checkText("waiver's "+t.what, t.text, t.max); err != nil {
				return err
			}
		}
		if v.Workload != "" && (v.Proxy != "" || v.Resource != "") {
			return fmt.Errorf("the waiver of %s is for the workload %q and for a resource too", v.Rule, clip(v.Workload))
		}
		if (v.Workload != "") != (v.Rule == UnprovenRule) {
			return fmt.Errorf("the waiver of %s for %s: %s is waived for workloads, and nothing else is", clip(v.Rule), v.target(), UnprovenRule)
		}
		if !writable(v.Until) {
			return fmt.Errorf("the waiver of %s for %s ends at %v, which is not a UTC time of whole seconds", v.Rule, v.target(), v.Until)
		}
	}
	return ascending("waiver", c.Waivers, Waiver.key)
}

// boundedText is a text of something, with the most bytes that it may have.
type boundedText struct {
	what, text string
	max        int
}

func (v Waiver) texts() []boundedText {
	texts := []boundedText{{"rule", v.Rule, maxName}, {"reason", v.Reason, maxText}}
	if v.Workload != "" {
		return append(texts, boundedText{"workload", v.Workload, maxName})
	}
	return append(texts, boundedText{"proxy", v.Proxy, maxName}, boundedText{"resource", v.Resource, maxResourceName})
}

// target is what v is for, in words.
func (v Waiver) target() string {
	if v.Workload != "" {
		return fmt.Sprintf("the workload %q", clip(v.Workload))
	}
	return fmt.Sprintf("%q of proxy %q", clip(v.Resource), clip(v.Proxy))
}

// checkResources holds that entries and resources belong together.
func checkResources(c Content) error {
	used := make(map[Digest]bool, len(c.Resources))
	for _, p := range c.Proxies {
		for _, e := range p.Entries {
			if len(c.Resources[e.Hash]) == 0 {
				return fmt.Errorf("%w: %s %q of proxy %q has no bytes", ErrResource, e.Type, clip(e.Name), p.Name)
			}
			used[e.Hash] = true
		}
	}
	for hash, data := range c.Resources {
		switch {
		case identity.SumDigest(data) != hash:
			return fmt.Errorf("%w: %s is listed as %s", ErrResource, identity.SumDigest(data), hash)
		case !used[hash]:
			return fmt.Errorf("%w: no proxy holds %s", ErrResource, hash)
		}
	}
	return nil
}

func checkID(m Mesh, id spiffeid.ID) error {
	if _, err := identity.ParseBaseID(id.String()); err != nil {
		return err
	}
	if !slices.Contains(m.TrustDomains, id.TrustDomain()) {
		return fmt.Errorf("%s: the mesh does not list the trust domain %q", id, id.TrustDomain().Name())
	}
	return nil
}

// checkName accepts names of meshes, proxies and workloads.
func checkName(what, s string) error {
	const first, rest = "abcdefghijklmnopqrstuvwxyz0123456789", "abcdefghijklmnopqrstuvwxyz0123456789._-"
	if s == "" || len(s) > maxName || !strings.ContainsRune(first, rune(s[0])) || strings.Trim(s, rest) != "" {
		return fmt.Errorf("the name %q of a %s: it needs 1 to %d of a-z, 0-9, '.', '_', '-', the first a letter or digit", clip(s), what, maxName)
	}
	return nil
}

// checkText accepts printable text, and keeps control characters out of logs
// and terminals.
func checkText(what, s string, limit int) error {
	if s == "" || len(s) > limit || !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
		return fmt.Errorf("the %s %q: it needs 1 to %d bytes of UTF-8 without control characters", what, clip(s), limit)
	}
	return nil
}

// ascending holds that the keys of list ascend, so that none is there twice.
func ascending[T any, K cmp.Ordered](what string, list []T, key func(T) K) error {
	for i := 1; i < len(list); i++ {
		if key(list[i-1]) >= key(list[i]) {
			return fmt.Errorf("%s %v is there twice or out of order", what, key(list[i]))
		}
	}
	return nil
}

// clip keeps an error message short whatever was sent.
func clip(s string) string {
	if len(s) > 100 {
		return s[:100] + "…"
	}
	return s
}
