package routes

import (
	"fmt"
	"slices"
	"strings"
)

// domains finds the virtual host of a host name: an exact domain first, then
// the longest that begins with "*", then the longest that ends with it, then
// "*". Letters of ASCII are compared without their case.
type domains struct {
	exact              map[string]int
	suffixes, prefixes []wildcards // longest first
	any                int         // of "*"; -1 if no virtual host has it
}

// wildcards are those of one length.
type wildcards struct {
	length int
	hosts  map[string]int
}

func (d *domains) add(domain string, host int) error {
	low := lower(domain)
	switch {
	case low == "":
		return fmt.Errorf("a domain is empty")
	case low == "*":
		if d.any >= 0 {
			return fmt.Errorf("the domain * stands in two virtual hosts")
		}
		d.any = host
		return nil
	case low[0] == '*':
		return put(group(&d.suffixes, len(low)-1), low[1:], host, domain)
	case low[len(low)-1] == '*':
		return put(group(&d.prefixes, len(low)-1), low[:len(low)-1], host, domain)
	}
	return put(d.exact, low, host, domain)
}

func put(m map[string]int, key string, host int, domain string) error {
	if _, ok := m[key]; ok {
		return fmt.Errorf("the domain %q stands twice in the table", domain)
	}
	m[key] = host
	return nil
}

func group(all *[]wildcards, length int) map[string]int {
	for _, w := range *all {
		if w.length == length {
			return w.hosts
		}
	}
	w := wildcards{length: length, hosts: map[string]int{}}
	*all = append(*all, w)
	slices.SortFunc(*all, func(a, b wildcards) int { return b.length - a.length })
	return w.hosts
}

// find is the index of the virtual host of a host name.
func (d *domains) find(name string) (int, bool) {
	if len(d.exact) > 0 || len(d.suffixes) > 0 || len(d.prefixes) > 0 {
		var space [256]byte
		if at, ok := d.named(appendLower(space[:0], name)); ok {
			return at, true
		}
	}
	return d.any, d.any >= 0
}

// named looks name up among all but "*". A wildcard stands for at least one
// byte.
func (d *domains) named(name []byte) (int, bool) {
	if at, ok := d.exact[string(name)]; ok {
		return at, true
	}
	for _, w := range d.suffixes {
		if w.length < len(name) {
			if at, ok := w.hosts[string(name[len(name)-w.length:])]; ok {
				return at, true
			}
		}
	}
	for _, w := range d.prefixes {
		if w.length < len(name) {
			if at, ok := w.hosts[string(name[:w.length])]; ok {
				return at, true
			}
		}
	}
	return 0, false
}

// hostname is the authority without what follows the last colon, if the table
// ignores ports; the colons within [ ] of an IPv6 address are none.
func (t *Table) hostname(authority string) string {
	if !t.ignorePort {
		return authority
	}
	colon := strings.LastIndexByte(authority, ':')
	if colon < 0 || strings.LastIndexByte(authority, ']') > colon {
		return authority
	}
	return authority[:colon]
}
