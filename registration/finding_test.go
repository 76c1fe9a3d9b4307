package registration

import (
	"strings"
	"testing"
	"time"

	"meshseal/identity/spire"
)

func selectors(values ...string) []spire.Selector {
	var out []spire.Selector
	for _, v := range values {
		kind, value, _ := strings.Cut(v, ":")
		out = append(out, spire.Selector{Type: kind, Value: value})
	}
	return out
}

// TestEntriesOfOthers: what gives an identity of the mesh to something that is
// not pinned is told, and no plan touches it.
func TestEntriesOfOthers(t *testing.T) {
	orders := "/orders/sha256/" + image("orders-2").Hex()
	billing := "/billing/sha256/" + image("billing").Hex()
	pins := func(name string) []spire.Selector { return selectors("unix:sha256:" + image(name).Hex()) }
	open := selectors("unix:uid:0")
	for name, c := range map[string]struct {
		entry Entry
		want  Code
		owner string
	}{
		"an identity for a user":                  {foreign("x", orders, open...), Unpinned, "orders"},
		"an identity for another program":         {foreign("x", orders, pins("evil")...), Unpinned, "orders"},
		"a pod with room for a sidecar":           {foreign("x", orders, selectors("k8s:pod-image:r@"+image("orders-2").String())...), Unpinned, "orders"},
		"the base ID":                             {foreign("x", "/orders", pins("orders-2")...), Unpinned, "orders"},
		"a malformed digest":                      {foreign("x", "/orders/sha256/AB", pins("orders-2")...), Unpinned, "orders"},
		"below the digest":                        {foreign("x", orders+"/more", pins("orders-2")...), Unpinned, "orders"},
		"a second way in, pinned":                 {foreign("x", orders, pins("orders-2")...), Foreign, "orders"},
		"a digest that is not allowed, pinned":    {foreign("x", "/orders/sha256/"+image("old").Hex(), pins("old")...), Foreign, "orders"},
		"of another mesh of meshseal":             {foreign(entryID("other", image("x")), orders, pins("orders-2")...), Foreign, "orders"},
		"an ID that only begins like ours":        {foreign(prefix+"shop.x", orders, pins("orders-2")...), Foreign, "orders"},
		"a user as a proxy that has to prove":     {foreign("x", "/edge", open...), Unpinned, "edge"},
		"registered elsewhere, pinned":            {foreign("x", billing, pins("billing")...), "", ""},
		"registered elsewhere, open":              {foreign("x", billing, open...), Unpinned, "billing"},
		"a proxy that proves nothing":             {foreign("x", "/plain", open...), "", ""},
		"a proxy that proves nothing, its digest": {foreign("x", "/plain/sha256/"+image("a").Hex(), open...), Unpinned, "plain"},
		"a workload that may be unproven":         {foreign("x", "/legacy", open...), "", ""},
		"such a workload's digest, open":          {foreign("x", "/legacy/sha256/"+image("legacy").Hex(), open...), Unpinned, "legacy"},
		"a name that begins alike":                {foreign("x", "/orders-admin", open...), "", ""},
		"a name below, of its own":                {foreign("x", "/orders/jobs", open...), "", ""},
		"a node's alias":                          {foreign("x", "/nodes", open...), "", ""},
		"expired":                                 {func() Entry { e := foreign("x", orders, open...); e.Expires = now; return e }(), "", ""},
		"expires in a second":                     {func() Entry { e := foreign("x", orders, open...); e.Expires = now.Add(time.Second); return e }(), Unpinned, "orders"},
	} {
		t.Run(name, func(t *testing.T) {
			w := wanted(t, shop())
			have := []Entry{c.entry}
			for _, e := range w.Entries {
				have = append(have, e.Entry)
			}
			plan := Make(w, have, now)
			if len(plan.Steps) != 0 {
				t.Errorf("the plan touches something: %+v", plan.Steps)
			}
			switch {
			case c.want == "" && len(plan.Findings) != 0:
				t.Errorf("findings %+v", plan.Findings)
			case c.want != "" && (len(plan.Findings) != 1 || plan.Findings[0].Code != c.want || plan.Findings[0].Owner.Name != c.owner):
				t.Errorf("findings %+v; want %s of %s", plan.Findings, c.want, c.owner)
			}
		})
	}
}

// TestEntryInTheWayIsTold: SPIRE would not create ours beside it, also when it
// has expired and was not pruned yet.
func TestEntryInTheWayIsTold(t *testing.T) {
	w := wanted(t, shop())
	blocked := w.Entries[0]
	for _, expires := range []time.Time{{}, now.Add(-time.Hour)} {
		e := blocked.Entry
		e.ID, e.Expires = "somebody", expires
		plan := Make(w, []Entry{e}, now)
		if len(plan.Findings) != 1 || plan.Findings[0].Code != Blocks || !strings.Contains(plan.Findings[0].Text, "entry delete -entryID somebody") {
			t.Errorf("findings %+v", plan.Findings)
		}
		for _, s := range plan.Steps {
			if s.Entry.ID == blocked.ID {
				t.Errorf("it is tried all the same: %+v", s)
			}
		}
	}
}

// TestEntryEditedInPlaceIsReplacedAndTold: an own ID with another content.
func TestEntryEditedInPlaceIsReplacedAndTold(t *testing.T) {
	w := wanted(t, shop())
	for name, edit := range map[string]func(*Entry){
		"for everybody":   func(e *Entry) { e.Selectors = selectors("unix:uid:0") },
		"an admin":        func(e *Entry) { e.Admin = true },
		"a longer life":   func(e *Entry) { e.X509TTL *= 60 },
		"another ID":      func(e *Entry) { e.SPIFFEID = id("/other") },
		"a DNS name":      func(e *Entry) { e.DNSNames = []string{"bank.example"} },
		"an end":          func(e *Entry) { e.Expires = now.Add(time.Hour) },
		"another parent":  func(e *Entry) { e.ParentID = id("/evil") },
		"a SPIRE server":  func(e *Entry) { e.Downstream = true },
		"no federation":   func(e *Entry) { e.FederatesWith = append(e.FederatesWith, id("/x").TrustDomain()) },
		"a JTI in tokens": func(e *Entry) { e.JTI = true },
	} {
		have := []Entry{}
		for _, e := range w.Entries {
			have = append(have, e.Entry)
		}
		edit(&have[0])
		plan := Make(w, have, now)
		if len(plan.Steps) != 1 || plan.Steps[0].Action != Replace || !plan.Steps[0].Edited || plan.Steps[0].Entry.Digest() != w.Entries[0].Entry.Digest() {
			t.Errorf("%s: %+v", name, plan.Steps)
		}
	}
}

// TestRevokedDigestLosesItsEntry: and the digest that stays keeps its own.
func TestRevokedDigestLosesItsEntry(t *testing.T) {
	before := shop()
	before.workloads[2].Revoked = nil
	have := []Entry{}
	for _, e := range wanted(t, before).Entries {
		have = append(have, e.Entry)
	}
	plan := Make(wanted(t, shop()), have, now)
	if len(plan.Steps) != 2 { // one a parent
		t.Fatalf("%+v", plan.Steps)
	}
	for _, s := range plan.Steps {
		if s.Action != Delete || s.Edited || !strings.HasSuffix(s.Entry.SPIFFEID.Path(), image("orders-1").Hex()) {
			t.Errorf("%+v", s)
		}
	}
}
