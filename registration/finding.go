package registration

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"meshseal/identity"
)

// Code names a kind of finding; stable.
type Code string

// The findings about entries that are not meshseal's own. They are never
// touched: somebody has to look at them.
const (
	// Unpinned: the entry gives an identity of the mesh to something whose digest
	// it does not pin.
	Unpinned Code = "ENTRY_UNPINNED"
	// Foreign: the entry pins what its SPIFFE ID says, and gives an identity that
	// meshseal registers. On which nodes is not what the snapshot says.
	Foreign Code = "ENTRY_FOREIGN"
	// Blocks: the entry takes the place of one that is wanted, so that this one
	// cannot be created.
	Blocks Code = "ENTRY_BLOCKS"
)

// Finding is what is wrong with one entry of a server.
type Finding struct {
	Code  Code
	Entry Entry
	Owner Owner // whose identity it is about
	Text  string
}

// find judges every entry that is not own.
func (m *model) find(have []Entry, now time.Time) []Finding {
	blocked := map[string]Want{}
	for _, w := range m.wanted.Entries {
		if !m.kept[w.ID] {
			blocked[w.Place()] = w
		}
	}
	var out []Finding
	for _, e := range have {
		if own(m.wanted.Mesh, e.ID) {
			continue
		}
		if w, ok := blocked[e.Place()]; ok {
			out = append(out, Finding{Blocks, e, w.Owner, fmt.Sprintf("it has the parent, SPIFFE ID and selectors of the entry %s, which cannot be created beside it; delete it: spire-server entry delete -entryID %s", w.ID, e.ID)})
			continue
		}
		if e.ExpiredAt(now) {
			continue
		}
		for _, at := range basesOf(e.SPIFFEID) {
			if b, ours := m.bases[at]; ours {
				if f, bad := b.judge(e); bad {
					out = append(out, f)
				}
			}
		}
	}
	slices.SortStableFunc(out, func(a, b Finding) int { return strings.Compare(a.Entry.ID, b.Entry.ID) })
	return out
}

// basesOf is the base IDs whose identity id may be. The identities of a base are
// itself and everything below its "sha256" segment; what lies beside that is of
// another name.
func basesOf(id spiffeid.ID) []string {
	out := []string{id.String()}
	for i := range id.String() {
		if strings.HasPrefix(id.String()[i:], "/sha256/") {
			out = append(out, id.String()[:i])
		}
	}
	return out
}

// judge looks at an entry that is not own and gives an identity of b.
func (b base) judge(e Entry) (Finding, bool) {
	of, digest, err := identity.Split(e.SPIFFEID)
	switch {
	case errors.Is(err, identity.ErrNoDigest):
		if b.plain {
			return Finding{}, false
		}
		return Finding{Unpinned, e, b.owner, "its SPIFFE ID carries no digest, and the snapshot demands one"}, true
	case err != nil || of != b.id:
		return Finding{Unpinned, e, b.owner, "its SPIFFE ID carries no well-formed digest"}, true
	}
	if pinned, err := e.Pinned(); err != nil {
		return Finding{Unpinned, e, b.owner, fmt.Sprintf("its selectors leave open what runs: %v", err)}, true
	} else if pinned != digest {
		return Finding{Unpinned, e, b.owner, fmt.Sprintf("its selectors pin %s, and its SPIFFE ID says %s", pinned, digest)}, true
	}
	if b.registered {
		return Finding{Foreign, e, b.owner, "meshseal registers this identity, and did not write this entry"}, true
	}
	return Finding{}, false
}
