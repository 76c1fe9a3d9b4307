package snapshot

import (
	"slices"
	"testing"
	"time"
)

// forge writes a file as a signer would that does not keep to the format: any
// leaves and resources, under the root that they really have, and a statement
// after change, with a good signature.
func forge(t *testing.T, k Signer, p parts, change func(*Statement)) []byte {
	t.Helper()
	tr, err := growTree(p.leaves)
	if err != nil {
		t.Fatal(err)
	}
	st := Statement{
		Root: tr.root, TreeSize: tr.size, Format: FormatV1, Mesh: "shop", Repository: "shop",
		Commit: testCommit.Hash, CommitTime: testCommit.Time, Sequence: 7,
		Issued: now, Expires: now.Add(time.Hour),
	}
	change(&st)
	payload, err := st.encode()
	if err != nil {
		t.Fatal(err)
	}
	env, err := sign(envelope{payload: payload}, k)
	if err != nil {
		t.Fatal(err)
	}
	p.envelope = env.raw
	return p.bytes()
}

// A good signature does not excuse a file that is not in the one form.
func TestSignedButNotInTheOneForm(t *testing.T) {
	k := newKey(t, Ed25519)
	tr := trust(t, 1, k)
	good := take(t, build(t, shop(t), testCommit).Bytes())
	// The leaves of the shop: mesh, 2 policies, 2 proxies, waiver, 2 workloads.
	swap := func(i, j int) func(*parts) {
		return func(p *parts) { p.leaves[i], p.leaves[j] = p.leaves[j], p.leaves[i] }
	}
	set := func(i int, leaf []byte) func(*parts) { return func(p *parts) { p.leaves[i] = leaf } }
	for name, test := range map[string]struct {
		parts     func(*parts)
		statement func(*Statement)
		code      string
	}{
		"the one form":               {nil, nil, ""},
		"statement of another mesh":  {nil, func(s *Statement) { s.Mesh = "mall" }, "MESH_MISMATCH"},
		"statement of a later time":  {nil, func(s *Statement) { s.Issued, s.Expires = now.Add(time.Hour), now.Add(2*time.Hour) }, "STATEMENT_NOT_YET_VALID"},
		"statement for a month":      {nil, func(s *Statement) { s.Expires = now.AddDate(0, 1, 0) }, "STATEMENT_LIFETIME"},
		"statement without times":    {nil, func(s *Statement) { s.Issued, s.Expires = time.Time{}, time.Time{} }, "STATEMENT_MALFORMED"},
		"statement of another size":  {nil, func(s *Statement) { s.TreeSize++ }, "TREE_SIZE_MISMATCH"},
		"policies out of order":      {swap(1, 2), nil, "CONTENT_INVALID"},
		"kinds out of order":         {swap(0, 1), nil, "FILE_MALFORMED"},
		"waiver behind workloads":    {swap(5, 6), nil, "FILE_MALFORMED"},
		"two mesh leaves":            {func(p *parts) { p.leaves = slices.Insert(p.leaves, 0, p.leaves[0]) }, nil, "FILE_MALFORMED"},
		"no mesh leaf":               {func(p *parts) { p.leaves = p.leaves[1:] }, nil, "FORMAT_UNKNOWN"},
		"only the mesh leaf":         {func(p *parts) { p.leaves, p.resources = p.leaves[:1], nil }, nil, "MESH_EMPTY"},
		"a policy twice":             {func(p *parts) { p.leaves = slices.Insert(p.leaves, 1, p.leaves[1]) }, nil, "CONTENT_INVALID"},
		"an unknown kind":            {set(1, encodeLeaf("secret", "a", nil)), nil, "FILE_MALFORMED"},
		"an empty leaf":              {set(1, nil), nil, "FILE_MALFORMED"},
		"bytes behind a leaf":        {func(p *parts) { p.leaves[1] = append(slices.Clone(p.leaves[1]), 0) }, nil, "FILE_MALFORMED"},
		"bytes behind a body":        {set(5, encodeLeaf(waiverLeaf, "A\x00b\x00c", str("x", uint64(1), uint64(1)))), nil, "FILE_MALFORMED"},
		"a waiver of one part":       {set(5, encodeLeaf(waiverLeaf, "A", str("x", uint64(1)))), nil, "FILE_MALFORMED"},
		"a waiver of two parts":      {set(5, encodeLeaf(waiverLeaf, "A\x00b", str("x", uint64(1)))), nil, "CONTENT_INVALID"},
		"a waiver of four parts":     {set(5, encodeLeaf(waiverLeaf, "A\x00b\x00c\x00d", str("x", uint64(1)))), nil, "FILE_MALFORMED"},
		"a waiver beyond all time":   {set(5, encodeLeaf(waiverLeaf, "A\x00b\x00c", str("x", uint64(1)<<63))), nil, "FILE_MALFORMED"},
		"a waiver in the year 10000": {set(5, encodeLeaf(waiverLeaf, "A\x00b\x00c", str("x", uint64(253402300800)))), nil, "CONTENT_INVALID"},
		"a resource type of 0":       {set(3, encodeLeaf(proxyLeaf, "orders", str("spiffe://shop.test/orders", "", 1, []byte{0}, "x", image("x")))), nil, "FILE_MALFORMED"},
		"a resource type of 5":       {set(3, encodeLeaf(proxyLeaf, "orders", str("spiffe://shop.test/orders", "", 1, []byte{5}, "x", image("x")))), nil, "FILE_MALFORMED"},
		"an ID that is none":         {set(3, encodeLeaf(proxyLeaf, "orders", str("https://shop.test/orders", "", 0))), nil, "FILE_MALFORMED"},
		"an ID in another form":      {set(3, encodeLeaf(proxyLeaf, "orders", str("SPIFFE://shop.test/orders", "", 0))), nil, "FILE_MALFORMED"},
		"a lifetime that overflows": {set(0, encodeLeaf(meshLeaf, "shop", str("v1", 1, "shop.test", uint64(1)<<63, uint64(0), "p", "s"))),
			nil, "FILE_MALFORMED"},
		"a trust domain in another form": {set(0, encodeLeaf(meshLeaf, "shop", str("v1", 1, "spiffe://shop.test", uint64(1000), uint64(0), "p", "s"))),
			nil, "FILE_MALFORMED"},
		"resources out of order": {func(p *parts) { slices.Reverse(p.resources) }, nil, "FILE_MALFORMED"},
		"a resource twice":       {func(p *parts) { p.resources = slices.Insert(p.resources, 0, p.resources[0]) }, nil, "FILE_MALFORMED"},
	} {
		t.Run(name, func(t *testing.T) {
			p := parts{leaves: slices.Clone(good.leaves), resources: slices.Clone(good.resources)}
			if test.parts != nil {
				test.parts(&p)
			}
			change := test.statement
			if change == nil {
				change = func(*Statement) {}
			}
			_, err := Open(forge(t, k, p, change), tr, now)
			if test.code == "" && err != nil {
				t.Fatal(err)
			}
			wantCode(t, err, test.code)
		})
	}
}

// The same for the list of a seal.
func TestSignedSealNotInTheOneForm(t *testing.T) {
	k := newKey(t, Ed25519)
	tr := trust(t, 1, k)
	for name, test := range map[string]struct {
		leaf []byte
		code string
	}{
		"the one form":             {str("proxy", "web", string(str("spiffe://shop.test/web", "", 0))), ""},
		"entries out of order":     {str("proxy", "web", string(str("spiffe://shop.test/web", "", 2, []byte{1}, "b", image("b"), []byte{1}, "a", image("a")))), "SEAL_MALFORMED"},
		"an entry twice":           {str("proxy", "web", string(str("spiffe://shop.test/web", "", 2, []byte{1}, "a", image("a"), []byte{1}, "a", image("b")))), "SEAL_MALFORMED"},
		"a trust domain's ID":      {str("proxy", "web", string(str("spiffe://shop.test", "", 0))), "SEAL_MALFORMED"},
		"a name that is none":      {str("proxy", "We b", string(str("spiffe://shop.test/web", "", 0))), "SEAL_MALFORMED"},
		"an ID in another form":    {str("proxy", "web", string(str("SPIFFE://shop.test/web", "", 0))), "SEAL_MALFORMED"},
		"bytes behind":             {str("proxy", "web", string(str("spiffe://shop.test/web", "", 0, 0))), "SEAL_MALFORMED"},
		"a workload in its place":  {str("workload", "web", string(str("spiffe://shop.test/web", 0, 0))), "SEAL_MALFORMED"},
		"entries that are not all": {str("proxy", "web", string(str("spiffe://shop.test/web", "", 1<<30))), "SEAL_MALFORMED"},
	} {
		t.Run(name, func(t *testing.T) {
			p := parts{leaves: [][]byte{test.leaf}}
			env := take(t, forge(t, k, p, func(*Statement) {})).envelope
			_, err := VerifySeal(Seal{Statement: env, List: encodeList(0, nil, test.leaf)}, tr, "web", "shop", now)
			if test.code == "" && err != nil {
				t.Fatal(err)
			}
			wantCode(t, err, test.code)
		})
	}
}
