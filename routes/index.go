package routes

import (
	"slices"
)

// index narrows the routes of a virtual host down to those that a path can
// take, in their order. It never leaves out one that matches; whether one does
// is for the route to say.
type index struct {
	exact map[string][]int32 // routes of one path, by it
	begin []beginnings       // routes that need a beginning of the path, by it
	rest  []int32            // all others
}

// beginnings are those of one length.
type beginnings struct {
	length int
	routes map[string][]int32
}

const (
	fewRoutes  = 8  // looked at one by one
	maxLengths = 24 // of beginnings; longer ones are cut to one of these
)

func newIndex(routes []route, ignoreSemi bool) index {
	x := index{exact: map[string][]int32{}}
	if len(routes) <= fewRoutes {
		for i := range routes {
			x.rest = append(x.rest, int32(i))
		}
		return x
	}
	x.begin = lengths(routes, ignoreSemi)
	for i := range routes {
		m, at := &routes[i].path, int32(i)
		if m.kind == pathExact && !m.fold {
			x.exact[m.want] = append(x.exact[m.want], at)
		} else if b := x.of(len(m.beginning(ignoreSemi))); b != nil {
			key := m.beginning(ignoreSemi)[:b.length]
			b.routes[key] = append(b.routes[key], at)
		} else {
			x.rest = append(x.rest, at)
		}
	}
	return x
}

// beginning is what each path that m matches begins with, to the byte.
func (m *pathMatch) beginning(ignoreSemi bool) string {
	switch {
	case m.fold || m.kind == pathConnect || m.kind == pathTemplate && ignoreSemi:
		return ""
	case m.re != nil:
		return m.re.begin
	}
	return m.want
}

// lengths are the lengths of beginnings to look up: all, or an even choice of
// them if they are many.
func lengths(routes []route, ignoreSemi bool) []beginnings {
	var all []int
	for i := range routes {
		if m := &routes[i].path; m.kind != pathExact {
			if n := len(m.beginning(ignoreSemi)); n > 0 {
				all = append(all, n)
			}
		}
	}
	slices.Sort(all)
	all = slices.Compact(all)
	var out []beginnings
	for i := range min(len(all), maxLengths) {
		n := all[i*len(all)/min(len(all), maxLengths)]
		out = append(out, beginnings{length: n, routes: map[string][]int32{}})
	}
	return out
}

// of are the longest beginnings that are not longer than n; nil if none is.
func (x *index) of(n int) *beginnings {
	for i := len(x.begin) - 1; i >= 0; i-- {
		if x.begin[i].length <= n {
			return &x.begin[i]
		}
	}
	return nil
}

// candidates goes through the routes that an index names for one path.
type candidates struct {
	lists [maxLengths + 2][]int32
	n     int
}

func (c *candidates) start(x *index, p *path) {
	c.add(x.rest)
	if p.missing {
		return
	}
	if len(x.exact) > 0 {
		c.add(x.exact[p.shown])
	}
	for i := range x.begin {
		b := &x.begin[i]
		if b.length > len(p.shown) {
			break
		}
		c.add(b.routes[p.shown[:b.length]])
	}
}

func (c *candidates) add(list []int32) {
	if len(list) > 0 {
		c.lists[c.n] = list
		c.n++
	}
}

// next is the lowest index that has not come yet; -1 at the end.
func (c *candidates) next() int {
	low := -1
	for i := range c.n {
		if len(c.lists[i]) > 0 && (low < 0 || c.lists[i][0] < c.lists[low][0]) {
			low = i
		}
	}
	if low < 0 {
		return -1
	}
	at := c.lists[low][0]
	c.lists[low] = c.lists[low][1:]
	return int(at)
}
