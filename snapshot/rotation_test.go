package snapshot

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// later is n seconds after the beginning: a statement that changes the keys is
// never as old as the one before it.
func later(n int) time.Time { return now.Add(time.Duration(n) * time.Second) }

func TestKeysChangeOnlyByBothSets(t *testing.T) {
	a, b, c, d, e, f := newKey(t, Ed25519), newKey(t, ECDSAP256), newKey(t, Ed25519), newKey(t, Ed25519), newKey(t, ECDSAP256), newKey(t, Ed25519)
	for name, test := range map[string]struct {
		old, declared Trust
		signers       []Signer
		code          string
	}{
		"the old only":                     {trust(t, 1, a), trust(t, 1, b), []Signer{a}, "SIGNATURE_ROTATION"},
		"the new only":                     {trust(t, 1, a), trust(t, 1, b), []Signer{b}, "SIGNATURE_UNTRUSTED"},
		"neither":                          {trust(t, 1, a), trust(t, 1, b), []Signer{c}, "SIGNATURE_UNTRUSTED"},
		"both":                             {trust(t, 1, a), trust(t, 1, b), []Signer{a, b}, ""},
		"both, and a stranger":             {trust(t, 1, a), trust(t, 1, b), []Signer{a, b, c}, ""},
		"too few of both":                  {trust(t, 2, a, b, c), trust(t, 2, d, e, f), []Signer{a, d}, "SIGNATURE_THRESHOLD"},
		"too few of the new":               {trust(t, 2, a, b, c), trust(t, 2, d, e, f), []Signer{a, b, d}, "SIGNATURE_ROTATION"},
		"too few of the old":               {trust(t, 2, a, b, c), trust(t, 2, d, e, f), []Signer{a, d, e}, "SIGNATURE_THRESHOLD"},
		"all of the new, one of the old":   {trust(t, 2, a, b, c), trust(t, 2, d, e, f), []Signer{c, d, e, f}, "SIGNATURE_THRESHOLD"},
		"enough of both":                   {trust(t, 2, a, b, c), trust(t, 2, d, e, f), []Signer{a, c, e, f}, ""},
		"one key in both, without the new": {trust(t, 2, a, b), trust(t, 2, b, c), []Signer{a, b}, "SIGNATURE_ROTATION"},
		"one key in both, without the old": {trust(t, 2, a, b), trust(t, 2, b, c), []Signer{b, c}, "SIGNATURE_THRESHOLD"},
		"one key in both, all":             {trust(t, 2, a, b), trust(t, 2, b, c), []Signer{a, b, c}, ""},
		"one key in both is enough":        {trust(t, 1, a, b), trust(t, 1, b, c), []Signer{b}, ""},
		"a key taken out":                  {trust(t, 1, a, b), trust(t, 1, b), []Signer{b}, ""},
		"a key taken out, by that key":     {trust(t, 1, a, b), trust(t, 1, b), []Signer{a}, "SIGNATURE_ROTATION"},
		"a key added, by the others":       {trust(t, 1, a), trust(t, 1, a, b), []Signer{a}, ""},
		"threshold raised by too few":      {trust(t, 1, a, b), trust(t, 2, a, b), []Signer{a}, "SIGNATURE_ROTATION"},
		"threshold raised":                 {trust(t, 1, a, b), trust(t, 2, a, b), []Signer{a, b}, ""},
		"threshold lowered by too few":     {trust(t, 2, a, b), trust(t, 1, a, b), []Signer{a}, "SIGNATURE_THRESHOLD"},
		"threshold lowered":                {trust(t, 2, a, b), trust(t, 1, a, b), []Signer{a, b}, ""},
		"the same keys":                    {trust(t, 1, a, b), trust(t, 1, b, a), []Signer{a}, ""},
		"none declared":                    {trust(t, 1, a), Trust{}, []Signer{a}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			everyAdopter(t, test.old, func(t *testing.T, who adopter) {
				draft := draftAt(t, 7, "", now, test.declared, test.signers...)
				if test.code != "" {
					rejects(t, who, draft, now, test.code)
					return
				}
				counts := test.declared
				if counts.IsZero() {
					counts = test.old
				}
				accepts(t, who, draft, now, counts)
			})
		})
	}
}

// A bad signature by a declared key is no signature, whatever its kind.
func TestDeclaredKeyWithAnothersSignature(t *testing.T) {
	a, b, thief := newKey(t, Ed25519), newKey(t, Ed25519), newKey(t, Ed25519)
	d := draftAt(t, 7, "", now, trust(t, 1, b), a, thief)
	env := d.envelope
	env.signatures = slices.Clone(env.signatures)
	for i, s := range env.signatures {
		if s.keyID == thief.Public().ID() {
			env.signatures[i].keyID = b.Public().ID()
		}
	}
	env, err := env.seal()
	if err != nil {
		t.Fatal(err)
	}
	f, err := decode(env, d.body)
	if err != nil {
		t.Fatal(err)
	}
	everyAdopter(t, trust(t, 1, a), func(t *testing.T, who adopter) {
		rejects(t, who, &Draft{file: f}, now, "SIGNATURE_ROTATION")
	})
}

func TestKeysChangeTwice(t *testing.T) {
	a, b, c := newKey(t, Ed25519), newKey(t, Ed25519), newKey(t, ECDSAP256)
	ta, tb, tc := trust(t, 1, a), trust(t, 1, b), trust(t, 1, c)
	toB, toC := draftAt(t, 7, "", later(1), tb, a, b), draftAt(t, 8, "", later(2), tc, b, c)
	everyAdopter(t, ta, func(t *testing.T, who adopter) {
		accepts(t, who, draftAt(t, 7, "", now, Trust{}, a), now, ta)
		accepts(t, who, toB, later(1), tb)
		// The old key is worth nothing from here on, the new one is enough.
		rejects(t, who, draftAt(t, 8, "", later(2), Trust{}, a), later(2), "SIGNATURE_UNTRUSTED")
		rejects(t, who, draftAt(t, 8, "", later(2), ta, a), later(2), "SIGNATURE_UNTRUSTED")
		accepts(t, who, draftAt(t, 7, "", later(2), Trust{}, b), later(2), tb)
		who.restart(t, ta)
		accepts(t, who, toC, later(3), tc)
		who.restart(t, ta)
		rejects(t, who, draftAt(t, 9, "", later(4), Trust{}, b), later(4), "SIGNATURE_UNTRUSTED")
		accepts(t, who, draftAt(t, 9, "", later(4), Trust{}, c), later(4), tc)
	})
}

// The keys went from a to b and back to a: the first change is not accepted a
// second time.
func TestRotationReplayed(t *testing.T) {
	a, b := newKey(t, Ed25519), newKey(t, Ed25519)
	ta, tb := trust(t, 1, a), trust(t, 1, b)
	there, back := draftAt(t, 7, "", later(1), tb, a, b), draftAt(t, 7, "", later(2), ta, b, a)
	everyAdopter(t, ta, func(t *testing.T, who adopter) {
		accepts(t, who, there, later(3), tb)
		accepts(t, who, there, later(3), tb) // what is in force changes nothing
		accepts(t, who, back, later(3), ta)
		rejects(t, who, there, later(3), "ROLLBACK")
		who.restart(t, ta)
		rejects(t, who, there, later(3), "ROLLBACK")
		// Nor where both were signed in one second.
		rejects(t, who, draftAt(t, 7, "", later(2), tb, a, b), later(3), "ROLLBACK")
		accepts(t, who, draftAt(t, 7, "", later(3), tb, a, b), later(3), tb)
	})
}

// Who was away while the keys changed knows only the old ones, and takes what
// both sets have signed, however many changes later.
func TestStragglerThatMissedARotation(t *testing.T) {
	a, b, c := newKey(t, Ed25519), newKey(t, Ed25519), newKey(t, Ed25519)
	ta, tc := trust(t, 1, a), trust(t, 1, c)
	everyAdopter(t, ta, func(t *testing.T, who adopter) {
		accepts(t, who, draftAt(t, 7, "", now, Trust{}, a), now, ta)
		rejects(t, who, draftAt(t, 9, "", later(9), Trust{}, c), later(9), "SIGNATURE_UNTRUSTED")
		rejects(t, who, draftAt(t, 9, "", later(9), tc, b, c), later(9), "SIGNATURE_UNTRUSTED")
		// The old key's signature beside the new one's is worth nothing where
		// the statement does not say that c follows: a stays what counts.
		accepts(t, who, draftAt(t, 9, "", later(9), Trust{}, a, c), later(9), ta)
		accepts(t, who, draftAt(t, 10, "", later(10), tc, a, b, c), later(10), tc)
	})
}

func TestRestartAfterARotation(t *testing.T) {
	a, b, c := newKey(t, Ed25519), newKey(t, Ed25519), newKey(t, Ed25519)
	ta, tb, tc := trust(t, 1, a), trust(t, 1, b), trust(t, 1, c)
	for name, test := range map[string]struct {
		configured, counts Trust
		code               string // of loading what is stored
	}{
		"the same configuration":          {ta, tb, ""},
		"the new keys configured":         {tb, tb, ""},
		"the old and the new":             {trust(t, 1, a, b), trust(t, 1, a, b), ""},
		"keys that have not signed it":    {tc, tc, "SIGNATURE_UNTRUSTED"},
		"a threshold that is not reached": {trust(t, 2, b, c), trust(t, 2, b, c), "SIGNATURE_THRESHOLD"},
	} {
		t.Run(name, func(t *testing.T) {
			everyAdopter(t, ta, func(t *testing.T, who adopter) {
				accepts(t, who, draftAt(t, 8, "", now, tb, a, b), now, tb)
				for range 2 {
					who.restart(t, test.configured)
					if r := who.record(); !r.Trust().Equal(test.counts) || r.High().Sequence != 8 {
						t.Fatalf("%v count, the highest is %+v", r.Trust().KeyIDs(), r.High())
					}
				}
				if s, ok := who.(*storekeeper); ok && (Code(s.err) != test.code || (s.loaded == nil) != (test.code != "")) {
					t.Errorf("what is stored came back as %v, %v", s.loaded, s.err)
				}
				// The mark is not what the operator configures.
				keys := map[string]Signer{a.Public().ID(): a, b.Public().ID(): b, c.Public().ID(): c}
				var signers []Signer
				for _, id := range test.counts.KeyIDs() {
					signers = append(signers, keys[id])
				}
				rejects(t, who, draftAt(t, 7, "", later(1), Trust{}, signers...), later(1), "ROLLBACK")
				rejects(t, who, draftAt(t, 8, "fork", later(1), Trust{}, signers...), later(1), "FORK")
				accepts(t, who, draftAt(t, 9, "", later(1), Trust{}, signers...), later(1), test.counts)
				// What was adopted under other keys began with those.
				who.restart(t, test.configured)
				if r := who.record(); !r.Trust().Equal(test.counts) {
					t.Errorf("%v count after one more restart", r.Trust().KeyIDs())
				}
			})
		})
	}
}

// The way of a server that changes its own key: the old one retires.
func TestServerChangesItsOwnKey(t *testing.T) {
	a, b := newKey(t, Ed25519), newKey(t, Ed25519)
	ta, tb := trust(t, 1, a), trust(t, 1, b)
	who := &storekeeper{Store: openStore(t, t.TempDir(), ta)}
	t.Cleanup(func() { who.Close() })
	restart := func(configured Trust) {
		t.Helper()
		if who.restart(t, configured); who.err != nil {
			t.Fatal(who.err)
		}
	}
	accepts(t, who, draftAt(t, 7, "", now, Trust{}, a), now, ta)
	restart(ta) // key b, retiring a
	renewed, err := who.loaded.Draft().Sign(b, SignOptions{Now: later(1), Renew: true, Keys: tb})
	if err != nil {
		t.Fatal(err)
	}
	if renewed, err = renewed.Sign(a, SignOptions{Now: later(1)}); err != nil {
		t.Fatal(err)
	}
	accepts(t, who, renewed, later(1), tb)
	restart(ta)
	accepts(t, who, draftAt(t, 8, "", later(2), tb, b, a), later(2), tb)
	restart(tb) // key b
	accepts(t, who, draftAt(t, 9, "", later(3), Trust{}, b), later(3), tb)
	restart(tb)
}

func TestRenewalCarriesDeclaredKeysOver(t *testing.T) {
	a, b, c := newKey(t, Ed25519), newKey(t, Ed25519), newKey(t, Ed25519)
	tb, tc := trust(t, 1, b), trust(t, 1, c)
	d := draftAt(t, 7, "", now, tb, a, b)
	renewed, err := d.Sign(b, SignOptions{Now: later(5), Renew: true})
	if err != nil || !renewed.Statement().Keys.Equal(tb) {
		t.Errorf("renewed, it declares %v: %v", renewed.Statement().Keys.KeyIDs(), err)
	}
	other, err := d.Sign(b, SignOptions{Now: later(5), Renew: true, Keys: tc})
	if err != nil || !other.Statement().Keys.Equal(tc) {
		t.Errorf("renewed with other keys, it declares %v: %v", other.Statement().Keys.KeyIDs(), err)
	}
	// Nobody adds to a statement that declares others than it meant.
	_, err = d.Sign(c, SignOptions{Now: later(1), Keys: tc})
	wantCode(t, err, "STATEMENT_MALFORMED")
	_, err = draftAt(t, 7, "", now, Trust{}, a).Sign(b, SignOptions{Now: later(1), Keys: tb})
	wantCode(t, err, "STATEMENT_MALFORMED")
	if again, err := d.Sign(c, SignOptions{Now: later(1), Keys: tb}); err != nil || len(again.SignedBy()) != 3 {
		t.Error(err)
	}
}

// forgedKeys signs, with a and b, a statement whose JSON has keys where an
// honest one declares {b}.
func forgedKeys(t testing.TB, keys string, a, b Signer) []byte {
	t.Helper()
	honest := draftAt(t, 7, "", now, trust(t, 1, b), a)
	text := string(honest.envelope.payload)
	i := strings.Index(text, `,"keys":`)
	env := envelope{payload: []byte(text[:i] + keys + "}}")}
	for _, s := range []Signer{a, b} {
		var err error
		if env, err = sign(env, s); err != nil {
			t.Fatal(err)
		}
	}
	p := take(t, honest.Bytes())
	p.envelope = env.raw
	return p.bytes()
}

func TestDeclaredKeysInOneFormOnly(t *testing.T) {
	a, b := newKey(t, Ed25519), newKey(t, Ed25519)
	second := newKey(t, ECDSAP256).Public()
	declared := func(threshold int, keys ...string) string {
		text, err := json.Marshal(keys)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf(`,"keys":{"threshold":%d,"keys":%s}`, threshold, text)
	}
	one, two := b.Public().Base64(), second.Base64()
	sorted, err := NewTrust([]PublicKey{b.Public(), second}, 1)
	if err != nil {
		t.Fatal(err)
	}
	ordered := []string{sorted.keys[0].Base64(), sorted.keys[1].Base64()}
	var many []PublicKey
	for range MaxKeys + 1 {
		many = append(many, newKey(t, Ed25519).Public())
	}
	var texts []string
	large, err := NewTrust(many, 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range large.Public() {
		texts = append(texts, k.Base64())
	}
	for name, test := range map[string]struct {
		keys string
		ok   bool
	}{
		"one key":                  {declared(1, one), true},
		"two keys":                 {declared(1, ordered...), true},
		"no keys at all":           {"", true}, // declares none
		"an empty set":             {`,"keys":{"threshold":0,"keys":[]}`, false},
		"an empty set, threshold":  {`,"keys":{"threshold":1,"keys":[]}`, false},
		"null":                     {`,"keys":null`, false},
		"keys null":                {`,"keys":{"threshold":0,"keys":null}`, false},
		"an empty object":          {`,"keys":{}`, false},
		"threshold 0":              {declared(0, one), false},
		"threshold below 0":        {declared(-1, one), false},
		"threshold above":          {declared(2, one), false},
		"threshold beyond an int":  {strings.Replace(declared(1, one), ":1,", ":18446744073709551617,", 1), false},
		"threshold as text":        {strings.Replace(declared(1, one), ":1,", `:"1",`, 1), false},
		"a key twice":              {declared(1, one, one), false},
		"not by their ids":         {declared(1, ordered[1], ordered[0]), false},
		"no base64":                {declared(1, "*"), false},
		"base64 with a line break": {declared(1, one[:20]+"\n"+one[20:]), false},
		"base64 without padding":   {declared(1, strings.TrimRight(two, "=")), false},
		"empty key":                {declared(1, ""), false},
		"not a key":                {declared(1, "AAAA"), false},
		"a point of small order": {declared(1, strictBase64.EncodeToString(append(b.Public().DER()[:12],
			append([]byte{1}, make([]byte, 31)...)...))), false},
		"more than may be": {declared(1, texts...), false},
		"keys first":       {`,"keys":{"keys":["` + one + `"],"threshold":1}`, false},
		"more beside":      {strings.Replace(declared(1, one), `{"threshold"`, `{"a":1,"threshold"`, 1), false},
		"declared twice":   {declared(1, one) + declared(1, one), false},
	} {
		t.Run(name, func(t *testing.T) {
			data := forgedKeys(t, test.keys, a, b)
			_, err := Open(data, trust(t, 1, a), now)
			if test.ok {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			wantCode(t, err, "STATEMENT_MALFORMED")
		})
	}
	// A signer is told before anybody else is.
	_, err = build(t, shop(t), testCommit).Sign(a, SignOptions{Now: now, Keys: large})
	wantCode(t, err, "STATEMENT_MALFORMED")
	// As many as may be fit the statement, with the longest texts beside them.
	var longest []PublicKey
	for range MaxKeys {
		longest = append(longest, newKey(t, ECDSAP256).Public())
	}
	full, err := NewTrust(longest, MaxKeys)
	if err != nil {
		t.Fatal(err)
	}
	st := draftAt(t, MaxSequence, "", now, Trust{}, a).Statement()
	st.Mesh, st.Repository, st.Commit = strings.Repeat("m", maxName), strings.Repeat(`"`, maxName), strings.Repeat("0", 64)
	st.TreeSize, st.Previous, st.Keys = maxLeaves, st.Root, full
	payload, err := st.encode()
	if err != nil {
		t.Fatal(err)
	}
	if again, err := parseStatement(payload); err != nil || !again.Keys.Equal(full) {
		t.Errorf("%d bytes: %v", len(payload), err)
	}
}

// An unsigned statement declares nothing: nobody has said it.
func TestUnsignedStatementDeclaresNoKeys(t *testing.T) {
	st := build(t, shop(t), testCommit).Statement()
	st.Keys = trust(t, 1, newKey(t, Ed25519))
	payload, err := st.encode()
	if err != nil {
		t.Fatal(err)
	}
	_, err = parseStatement(payload)
	wantCode(t, err, "STATEMENT_MALFORMED")
}

func TestTrustHasOneName(t *testing.T) {
	a, b := newKey(t, Ed25519), newKey(t, ECDSAP256)
	one := trust(t, 1, a, b)
	if one.ID() != trust(t, 1, b, a).ID() || !one.Equal(trust(t, 1, b, a)) {
		t.Error("the order of the keys shows in the name")
	}
	for _, other := range []Trust{trust(t, 2, a, b), trust(t, 1, a), trust(t, 1, b), {}} {
		if one.Equal(other) || one.ID() == other.ID() {
			t.Errorf("%v with %d has the name of another", other.KeyIDs(), other.Threshold())
		}
	}
	if !(Trust{}).IsZero() || !(Trust{}).ID().IsZero() || one.IsZero() {
		t.Error("the zero Trust has a name")
	}
	for _, k := range one.Public() {
		for _, parse := range []func() (PublicKey, error){
			func() (PublicKey, error) { return ParsePublicKeyDER(k.DER()) },
			func() (PublicKey, error) { return ParsePublicKeyBase64(k.Base64()) },
		} {
			if again, err := parse(); err != nil || again.ID() != k.ID() {
				t.Errorf("%s came back as %s: %v", k.ID(), again.ID(), err)
			}
		}
	}
	one.Public()[0] = PublicKey{}
	one.Public()[1].DER()[0]++
	if one.ID() != trust(t, 1, a, b).ID() {
		t.Error("what Public returned is the Trust itself")
	}
	for _, bad := range []string{"", "*", a.Public().Base64() + "\n", strings.Repeat("A", maxKeyFile+4)} {
		_, err := ParsePublicKeyBase64(bad)
		wantCode(t, err, "KEY_INVALID")
	}
	_, err := ParsePublicKeyDER(make([]byte, maxKeyFile+1))
	wantCode(t, err, "KEY_INVALID")
}
