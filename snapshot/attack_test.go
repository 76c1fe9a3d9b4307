package snapshot

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"meshseal/identity"
)

// The attacks have the names of TUF's list:
// https://theupdateframework.github.io/specification/latest/#goals-to-protect-against-specific-attacks

// at returns the shop at another sequence, with other content if extra says
// so, signed by k at the time when.
func shopAt(t testing.TB, k Signer, sequence uint64, extra string, when time.Time) *Snapshot {
	t.Helper()
	c := shop(t)
	if extra != "" {
		c.Policies = append(c.Policies, File{Path: "policies/" + extra + ".rego", Data: []byte("package extra\n")})
	}
	commit := testCommit
	commit.Sequence = sequence
	d, err := build(t, c, commit).Sign(k, SignOptions{Now: when})
	if err != nil {
		t.Fatal(err)
	}
	s, err := d.Verify(trust(t, 1, k), when)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestRollback(t *testing.T) {
	k := newKey(t, Ed25519)
	tr := trust(t, 1, k)
	everyAdopter(t, tr, func(t *testing.T, a adopter) {
		accepts(t, a, draftAt(t, 7, "", now, Trust{}, k), now, tr)
		for range 2 {
			rejects(t, a, draftAt(t, 6, "", now.Add(time.Minute), Trust{}, k), now.Add(time.Minute), "ROLLBACK")
			// The same snapshot by an older statement would bring an earlier
			// expiry back.
			rejects(t, a, draftAt(t, 7, "", now.Add(-time.Second), Trust{}, k), now, "ROLLBACK")
			a.restart(t, tr)
		}
		accepts(t, a, draftAt(t, 7, "", now, Trust{}, k), now, tr)
		accepts(t, a, draftAt(t, 7, "", now.Add(time.Hour), Trust{}, k), now.Add(time.Hour), tr)
		accepts(t, a, draftAt(t, 8, "new", now, Trust{}, k), now, tr)
	})
}

func TestFastForward(t *testing.T) {
	k := newKey(t, Ed25519)
	tr := trust(t, 1, k)
	everyAdopter(t, tr, func(t *testing.T, a adopter) {
		accepts(t, a, draftAt(t, 7, "", now, Trust{}, k), now, tr)
		for range 2 {
			rejects(t, a, draftAt(t, 7, "fork", later(60), Trust{}, k), later(60), "FORK")
			a.restart(t, tr)
		}
	})
	// No sequence is so high that integers in JSON stop telling it from the
	// next one, or that nothing can follow by overflow.
	for _, n := range []uint64{0, MaxSequence + 1, math.MaxUint64} {
		commit := testCommit
		commit.Sequence = n
		_, err := New(shop(t), commit)
		wantCode(t, err, "STATEMENT_MALFORMED")
	}
}

// A thief with enough keys signs a sequence that no honest commit reaches. From
// then on nothing honest is adopted, until the record is forgotten by hand.
func TestFastForwardAndRecovery(t *testing.T) {
	stolen, fresh := newKey(t, Ed25519), newKey(t, Ed25519)
	before, after := trust(t, 1, stolen), trust(t, 1, fresh)
	honest, evil := draftAt(t, 8, "", later(2), Trust{}, fresh), draftAt(t, MaxSequence, "evil", later(1), Trust{}, stolen)
	everyAdopter(t, before, func(t *testing.T, a adopter) {
		accepts(t, a, draftAt(t, 7, "", now, Trust{}, stolen), now, before)
		accepts(t, a, evil, later(1), before)
		// New keys lower nothing: neither declared nor configured.
		rejects(t, a, draftAt(t, 8, "", later(2), after, stolen, fresh), later(2), "ROLLBACK")
		a.restart(t, after)
		rejects(t, a, honest, later(2), "ROLLBACK")
		if _, ok := a.(*rememberer); !ok {
			if err := a.forget(8); err == nil {
				t.Error("a record was forgotten by another number")
			}
			a.restart(t, after)
			rejects(t, a, honest, later(2), "ROLLBACK")
		}
		if err := a.forget(MaxSequence); err != nil {
			t.Fatal(err)
		}
		a.restart(t, after)
		rejects(t, a, evil, later(2), "SIGNATURE_UNTRUSTED")
		accepts(t, a, honest, later(2), after)
	})
}

// A key that was replaced in time cannot be used to run ahead.
func TestFastForwardAfterARotation(t *testing.T) {
	stolen, fresh := newKey(t, Ed25519), newKey(t, Ed25519)
	before, after := trust(t, 1, stolen), trust(t, 1, fresh)
	everyAdopter(t, before, func(t *testing.T, a adopter) {
		accepts(t, a, draftAt(t, 7, "", now, Trust{}, stolen), now, before)
		accepts(t, a, draftAt(t, 7, "", later(1), after, stolen, fresh), later(1), after)
		for range 2 {
			rejects(t, a, draftAt(t, MaxSequence, "evil", later(1), Trust{}, stolen), later(1), "SIGNATURE_UNTRUSTED")
			a.restart(t, before)
		}
		accepts(t, a, draftAt(t, 8, "", later(2), Trust{}, fresh), later(2), after)
	})
}

func TestIndefiniteFreeze(t *testing.T) {
	k := newKey(t, Ed25519)
	s := shopAt(t, k, 7, "", now)
	end := now.Add(DefaultStatementLifetime)
	// The shop's waiver ends at the same time as the statement; Open tells of
	// the statement first.
	tr := trust(t, 1, k)
	if _, err := Open(s.Bytes(), tr, end.Add(-time.Nanosecond)); err != nil {
		t.Errorf("just before the expiry: %v", err)
	}
	for _, when := range []time.Time{end, end.Add(time.Nanosecond), end.AddDate(1, 0, 0)} {
		_, err := Open(s.Bytes(), tr, when)
		wantCode(t, err, "STATEMENT_EXPIRED")
		wantCode(t, s.ValidAt(when), "STATEMENT_EXPIRED")
	}
	everyAdopter(t, tr, func(t *testing.T, a adopter) {
		d := draftAt(t, 7, "", now, Trust{}, k)
		rejects(t, a, d, end, "STATEMENT_EXPIRED")
		accepts(t, a, d, end.Add(-time.Second), tr)
		a.restart(t, tr)
		rejects(t, a, d, end, "STATEMENT_EXPIRED")
	})
	// Renewed: the same root, a later expiry.
	d, err := s.Draft().Sign(k, SignOptions{Now: now.Add(12 * time.Hour), Renew: true})
	if err != nil {
		t.Fatal(err)
	}
	if d.Root() != s.Root() || !d.Statement().Expires.Equal(end.Add(12*time.Hour)) {
		t.Errorf("renewed to %+v", d.Statement())
	}
}

func TestIssuedInTheFuture(t *testing.T) {
	k := newKey(t, Ed25519)
	s := shopAt(t, k, 7, "", now)
	if err := s.ValidAt(now.Add(-ClockSkew)); err != nil {
		t.Errorf("within the clocks' skew: %v", err)
	}
	wantCode(t, s.ValidAt(now.Add(-ClockSkew-time.Second)), "STATEMENT_NOT_YET_VALID")
	_, err := Open(s.Bytes(), trust(t, 1, k), now.AddDate(-1, 0, 0))
	wantCode(t, err, "STATEMENT_NOT_YET_VALID")
}

func TestWaiverThatHasEnded(t *testing.T) {
	k := newKey(t, Ed25519)
	c := shop(t)
	c.Waivers[0].Until = now.Add(time.Hour)
	d := signed(t, build(t, c, testCommit), k)
	s, err := d.Verify(trust(t, 1, k), now.Add(time.Hour-time.Second))
	if err != nil {
		t.Fatal(err)
	}
	_, err = d.Verify(trust(t, 1, k), now.Add(time.Hour))
	wantCode(t, err, "WAIVER_EXPIRED")
	wantCode(t, s.ValidAt(now.Add(time.Hour)), "WAIVER_EXPIRED")
}

// parts takes a file apart, so that an attacker can put it together otherwise.
type parts struct {
	envelope  []byte
	leaves    [][]byte
	resources [][]byte
}

func take(t testing.TB, data []byte) parts {
	t.Helper()
	env, body, err := frame(data)
	if err != nil {
		t.Fatal(err)
	}
	r := reader{b: body}
	p := parts{envelope: env}
	r.each(u32Size, func() { p.leaves = append(p.leaves, r.field()) })
	r.each(u32Size, func() { p.resources = append(p.resources, r.field()) })
	if err := r.done(); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p parts) bytes() []byte {
	w := writer{b: []byte(magic)}
	w.field(p.envelope)
	w.count(len(p.leaves))
	for _, l := range p.leaves {
		w.field(l)
	}
	w.count(len(p.resources))
	for _, r := range p.resources {
		w.field(r)
	}
	return w.b
}

func TestMixAndMatch(t *testing.T) {
	k := newKey(t, Ed25519)
	tr := trust(t, 1, k)
	a := shopAt(t, k, 7, "", now)
	c := shop(t)
	c.Workloads[1].Revoked = nil
	c.Proxies[0].Entries = c.Proxies[0].Entries[:1] // its listener is gone
	for h := range c.Resources {
		if !slices.ContainsFunc(c.Proxies, func(p Proxy) bool {
			return slices.ContainsFunc(p.Entries, func(e Entry) bool { return e.Hash == h })
		}) {
			delete(c.Resources, h)
		}
	}
	b, err := signed(t, build(t, c, testCommit), k).Verify(tr, now)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		change func(mine, other *parts)
		code   string
	}{
		"statement of another":  {func(p, o *parts) { p.envelope = o.envelope }, "ROOT_MISMATCH"},
		"leaf of another":       {func(p, o *parts) { p.leaves[7] = o.leaves[7] }, "ROOT_MISMATCH"},
		"leaves of another":     {func(p, o *parts) { p.leaves = o.leaves }, "ROOT_MISMATCH"},
		"resources of another":  {func(p, o *parts) { p.resources = o.resources }, "RESOURCE_MISMATCH"},
		"leaf left out":         {func(p, _ *parts) { p.leaves = slices.Delete(p.leaves, 2, 3) }, "TREE_SIZE_MISMATCH"},
		"leaf twice":            {func(p, _ *parts) { p.leaves = slices.Insert(p.leaves, 2, p.leaves[2]) }, "TREE_SIZE_MISMATCH"},
		"leaves out of order":   {func(p, _ *parts) { p.leaves[1], p.leaves[2] = p.leaves[2], p.leaves[1] }, "ROOT_MISMATCH"},
		"no leaves":             {func(p, _ *parts) { p.leaves = nil }, "FILE_MALFORMED"},
		"resource left out":     {func(p, _ *parts) { p.resources = p.resources[1:] }, "RESOURCE_MISMATCH"},
		"resource added":        {func(p, _ *parts) { p.add([]byte("more")) }, "RESOURCE_MISMATCH"},
		"empty resource added":  {func(p, _ *parts) { p.add(nil) }, "RESOURCE_MISMATCH"},
		"resource twice":        {func(p, _ *parts) { p.resources = slices.Insert(p.resources, 1, p.resources[0]) }, "FILE_MALFORMED"},
		"resource changed":      {func(p, _ *parts) { r := append(p.resources[0], 'x'); p.resources = p.resources[1:]; p.add(r) }, "RESOURCE_MISMATCH"},
		"resources not by hash": {func(p, _ *parts) { slices.Reverse(p.resources) }, "FILE_MALFORMED"},
	} {
		t.Run(name, func(t *testing.T) {
			mine, other := take(t, a.Bytes()), take(t, b.Bytes())
			test.change(&mine, &other)
			_, err := Open(mine.bytes(), tr, now)
			wantCode(t, err, test.code)
		})
	}
	t.Run("list of another seal", func(t *testing.T) {
		sa, errA := a.Seal("web")
		sb, errB := b.Seal("web")
		if errA != nil || errB != nil {
			t.Fatal(errA, errB)
		}
		for _, mixed := range []Seal{{sa.Statement, sb.List}, {sb.Statement, sa.List}} {
			_, err := VerifySeal(mixed, tr, "web", "shop", now)
			wantCode(t, err, "SEAL_PROOF")
		}
	})
}

// add puts a resource in its place.
func (p *parts) add(data []byte) {
	p.resources = append(p.resources, data)
	slices.SortFunc(p.resources, func(a, b []byte) int {
		return identity.SumDigest(a).Compare(identity.SumDigest(b))
	})
}

func TestEndlessData(t *testing.T) {
	s, tr := sealedShop(t)
	data := s.Bytes()
	if _, err := Open(make([]byte, MaxFile+1), tr, now); Code(err) != "FILE_TOO_LARGE" {
		t.Error(err)
	}
	// Every length and count that says "four gigabytes" is found before
	// anything is made for it.
	for i := len(magic); i+4 <= len(data); i++ {
		variant := bytes.Clone(data)
		binary.BigEndian.PutUint32(variant[i:], math.MaxUint32)
		if _, err := Parse(variant); Code(err) == "" && bytes.Equal(variant[i:i+4], data[i:i+4]) == false {
			t.Fatalf("at byte %d: %v", i, err)
		}
	}
	announced := binary.BigEndian.AppendUint32([]byte(magic), math.MaxUint32)
	_, err := Parse(announced)
	wantCode(t, err, "FILE_MALFORMED")
	// An envelope, a statement and signatures have bounds of their own.
	p := take(t, data)
	p.envelope = bytes.Repeat([]byte(" "), maxEnvelope+1)
	_, err = Open(p.bytes(), tr, now)
	wantCode(t, err, "FILE_MALFORMED")
	seal, err := s.Seal("web")
	if err != nil {
		t.Fatal(err)
	}
	_, err = VerifySeal(Seal{Statement: p.envelope, List: seal.List}, tr, "web", "shop", now)
	wantCode(t, err, "SEAL_MALFORMED")
	_, err = VerifySeal(Seal{Statement: seal.Statement, List: make([]byte, MaxFile+1)}, tr, "web", "shop", now)
	wantCode(t, err, "FILE_TOO_LARGE")
	_, err = ParseRecord(bytes.Repeat([]byte(" "), maxRecord+1), tr)
	wantCode(t, err, "STORE_MALFORMED")
	_, err = parseStatement(bytes.Repeat([]byte(" "), maxStatement+1))
	wantCode(t, err, "STATEMENT_MALFORMED")
}

// Counts that fit the bytes, but not what a snapshot may have.
func TestTooManyThings(t *testing.T) {
	var w writer
	w.count(maxLeaves + 1)
	w.b = append(w.b, make([]byte, (maxLeaves+1)*u32Size)...)
	_, _, err := decodeBody(w.b)
	wantCode(t, err, "FILE_MALFORMED")
	if !strings.Contains(err.Error(), "leaves") {
		t.Error(err)
	}
}

func TestArbitrarySoftware(t *testing.T) {
	mine, other := newKey(t, Ed25519), newKey(t, Ed25519)
	d := build(t, shop(t), testCommit)
	_, err := Open(d.Bytes(), trust(t, 1, mine), now)
	wantCode(t, err, "SIGNATURE_MISSING")
	_, err = Open(signed(t, d, other).Bytes(), trust(t, 1, mine), now)
	wantCode(t, err, "SIGNATURE_UNTRUSTED")
	// Another's signature under a trusted key's ID.
	forged := signed(t, d, other)
	env := forged.envelope
	env.signatures = []signature{{keyID: mine.Public().ID(), sig: env.signatures[0].sig}}
	if env, err = env.seal(); err != nil {
		t.Fatal(err)
	}
	f, err := decode(env, forged.body)
	if err != nil {
		t.Fatal(err)
	}
	_, err = (&Draft{file: f}).Verify(trust(t, 1, mine), now)
	wantCode(t, err, "SIGNATURE_INVALID")
	tr := trust(t, 1, mine)
	everyAdopter(t, tr, func(t *testing.T, a adopter) {
		for range 2 {
			rejects(t, a, draftAt(t, 8, "", now, Trust{}), now, "SIGNATURE_MISSING")
			rejects(t, a, draftAt(t, 8, "", now, Trust{}, other), now, "SIGNATURE_UNTRUSTED")
			rejects(t, a, draftAt(t, 8, "", now, trust(t, 1, other), other), now, "SIGNATURE_UNTRUSTED")
			rejects(t, a, &Draft{file: f}, now, "SIGNATURE_INVALID")
			accepts(t, a, draftAt(t, 7, "", now, Trust{}, mine), now, tr)
			a.restart(t, tr)
		}
	})
}

// What an honest signer made for somebody else.
func TestWrongSoftware(t *testing.T) {
	k := newKey(t, Ed25519)
	tr := trust(t, 1, k)
	c := shop(t)
	c.Mesh.Name = "mall"
	commit := testCommit
	commit.Sequence = 100
	mall := signed(t, build(t, c, commit), k)
	everyAdopter(t, tr, func(t *testing.T, a adopter) {
		accepts(t, a, draftAt(t, 7, "", now, Trust{}, k), now, tr)
		for range 2 {
			rejects(t, a, mall, now, "MESH_MISMATCH")
			a.restart(t, tr)
		}
	})
	// The record alone keeps another mesh out, whoever verified its seal.
	s, err := mall.Verify(tr, now)
	if err != nil {
		t.Fatal(err)
	}
	seal, err := s.Seal("web")
	if err != nil {
		t.Fatal(err)
	}
	other, err := VerifySeal(seal, tr, "web", "mall", now)
	if err != nil {
		t.Fatal(err)
	}
	_, err = adopted(t, tr, shopAt(t, k, 7, "", now)).Next(other, nil)
	wantCode(t, err, "MESH_MISMATCH")
	_, err = VerifySeal(seal, tr, "orders", "mall", now)
	wantCode(t, err, "SEAL_PROXY")
}

func TestKeyCompromiseBelowTheThreshold(t *testing.T) {
	a, b, c := newKey(t, Ed25519), newKey(t, ECDSAP256), newKey(t, Ed25519)
	tr := trust(t, 2, a, b, c)
	d := build(t, shop(t), testCommit)
	_, err := signed(t, d, a).Verify(tr, now)
	wantCode(t, err, "SIGNATURE_THRESHOLD")
	for _, pair := range [][]Signer{{a, b}, {b, c}, {c, a}} {
		s, err := signed(t, d, pair...).Verify(tr, now)
		if err != nil {
			t.Fatal(err)
		}
		if len(s.KeyIDs()) != 2 {
			t.Errorf("verified by %v", s.KeyIDs())
		}
	}
	// The thief signs with the stolen key twice, and with keys of its own.
	thief := newKey(t, Ed25519)
	_, err = signed(t, d, a, a, thief).Verify(tr, now)
	wantCode(t, err, "SIGNATURE_THRESHOLD")
	env := signed(t, d, a).envelope
	env.signatures = append(env.signatures, env.signatures[0])
	raw, err := env.seal()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parseEnvelope(raw.raw); err == nil {
		t.Error("an envelope carries one key's signature twice")
	}
	_, err = tr.verify(raw)
	wantCode(t, err, "SIGNATURE_THRESHOLD")
	// Nor can it change the keys.
	everyAdopter(t, tr, func(t *testing.T, who adopter) {
		accepts(t, who, draftAt(t, 7, "", now, Trust{}, a, b), now, tr)
		for range 2 {
			for _, evil := range []Trust{{}, trust(t, 1, thief), trust(t, 1, a, thief), trust(t, 1, a, b, c)} {
				rejects(t, who, draftAt(t, 8, "", later(1), evil, a, thief), later(1), "SIGNATURE_THRESHOLD")
			}
			who.restart(t, tr)
		}
	})
}

// A signature that does not verify, and one by an unknown key, change nothing
// beside enough good ones.
func TestExtraSignaturesChangeNothing(t *testing.T) {
	a, b, stranger := newKey(t, Ed25519), newKey(t, Ed25519), newKey(t, ECDSAP256)
	d := signed(t, build(t, shop(t), testCommit), a, b, stranger)
	env := d.envelope
	env.signatures = slices.Clone(env.signatures)
	for i, s := range env.signatures {
		if s.keyID == b.Public().ID() {
			env.signatures[i].sig = make([]byte, ed25519.SignatureSize)
		}
	}
	env, err := env.seal()
	if err != nil {
		t.Fatal(err)
	}
	data := slices.Concat(writeField([]byte(magic), env.raw), d.body)
	if _, err := Open(data, trust(t, 1, a, b), now); err != nil {
		t.Errorf("one of two is needed and good: %v", err)
	}
	_, err = Open(data, trust(t, 2, a, b), now)
	wantCode(t, err, "SIGNATURE_INVALID")
}

func writeField(b, v []byte) []byte {
	w := writer{b: b}
	w.field(v)
	return w.b
}

// The algorithm is the trusted key's: a signature of one kind never fits a key
// of the other, whatever the envelope claims.
func TestAlgorithmConfusion(t *testing.T) {
	ed, ec := newKey(t, Ed25519), newKey(t, ECDSAP256)
	message := []byte("message")
	for _, pair := range [][2]*PrivateKey{{ed, ec}, {ec, ed}} {
		sig, err := pair[0].Sign(message)
		if err != nil {
			t.Fatal(err)
		}
		if !pair[0].Public().verify(message, sig) || pair[1].Public().verify(message, sig) {
			t.Error("a signature verifies with a key of the other algorithm")
		}
	}
	if (PublicKey{}).verify(message, nil) {
		t.Error("the zero key verifies")
	}
}
