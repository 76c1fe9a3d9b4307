package snapshot

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
)

// payloadOf is the statement that is signed elsewhere.
func payloadOf(t testing.TB, d *Draft, opts SignOptions) []byte {
	t.Helper()
	payload, err := d.Payload(opts)
	if err != nil {
		t.Fatal(err)
	}
	return payload
}

func sigOf(t testing.TB, k *PrivateKey, payload []byte) []byte {
	t.Helper()
	sig, err := k.Sign(dsse.PAE(PayloadType, payload))
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

// foreignJSON is an envelope as some other tool could write it.
func foreignJSON(payload []byte, sigs ...[]byte) string {
	var list []string
	for _, s := range sigs {
		list = append(list, fmt.Sprintf(`{"sig": %q}`, base64.StdEncoding.EncodeToString(s)))
	}
	return fmt.Sprintf(`{"signatures": [%s], "payloadType": %q, "payload": %q}`,
		strings.Join(list, ", "), PayloadType, base64.StdEncoding.EncodeToString(payload))
}

// What Attach makes of a foreign envelope is what Sign would have made: the
// bytes are equal, for a key whose signatures are.
func TestAttachIsSignElsewhere(t *testing.T) {
	k := newKey(t, Ed25519)
	d := build(t, shop(t), testCommit)
	payload := payloadOf(t, d, SignOptions{Now: now})
	got, err := d.Attach([]byte(foreignJSON(payload, sigOf(t, k, payload))), k.Public(), SignOptions{Now: now.Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), signed(t, d, k).Bytes()) {
		t.Error("the attached file is another than the signed one")
	}
	if len(d.SignedBy()) > 0 {
		t.Error("the draft itself was changed")
	}
}

// Every form that DSSE allows is one envelope.
func TestAttachAnyFormOfDSSE(t *testing.T) {
	k, other := newKey(t, ECDSAP256), newKey(t, Ed25519)
	d := build(t, shop(t), testCommit)
	payload := payloadOf(t, d, SignOptions{Now: now})
	// Until its base64 has both of the characters that differ, so that the
	// alphabet counts.
	sig := sigOf(t, k, payload)
	for !strings.Contains(base64.StdEncoding.EncodeToString(sig), "+") || !strings.Contains(base64.StdEncoding.EncodeToString(sig), "/") {
		sig = sigOf(t, k, payload)
	}
	std, url := base64.StdEncoding, base64.URLEncoding
	p, s := std.EncodeToString(payload), std.EncodeToString(sig)
	big := make([]byte, 4096)
	if _, err := rand.Read(big); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"as we write it":       fmt.Sprintf(`{"payloadType":%q,"payload":%q,"signatures":[{"keyid":%q,"sig":%q}]}`, PayloadType, p, k.Public().ID(), s),
		"other order, spaces":  fmt.Sprintf("\n{ \"signatures\" : [ {\t\"sig\" : %q } ],\r\n \"payload\":%q, \"payloadType\": %q }\n", s, p, PayloadType),
		"URL-safe":             fmt.Sprintf(`{"payloadType":%q,"payload":%q,"signatures":[{"sig":%q}]}`, PayloadType, url.EncodeToString(payload), url.EncodeToString(sig)),
		"without padding":      fmt.Sprintf(`{"payloadType":%q,"payload":%q,"signatures":[{"sig":%q}]}`, PayloadType, base64.RawStdEncoding.EncodeToString(payload), base64.RawURLEncoding.EncodeToString(sig)),
		"escapes":              fmt.Sprintf(`{"payload\u0054ype":"application\/vnd.in-toto+json","payload":%q,"signatures":[{"sig":%q}]}`, p, s),
		"empty keyid":          fmt.Sprintf(`{"payloadType":%q,"payload":%q,"signatures":[{"keyid":"","sig":%q}]}`, PayloadType, p, s),
		"foreign keyid":        fmt.Sprintf(`{"payloadType":%q,"payload":%q,"signatures":[{"keyid":"SHA256:abc","sig":%q}]}`, PayloadType, p, s),
		"another's keyid":      fmt.Sprintf(`{"payloadType":%q,"payload":%q,"signatures":[{"keyid":%q,"sig":%q}]}`, PayloadType, p, other.Public().ID(), s),
		"fields not known":     fmt.Sprintf(`{"payloadType":%q,"payload":%q,"PAYLOAD":"x","extra":[{}],"signatures":[{"sig":%q,"cert":"…","SIG":"x"}]}`, PayloadType, p, s),
		"others signed first":  foreignJSON(payload, sigOf(t, other, payload), sig),
		"a wrong one as well":  foreignJSON(payload, make([]byte, 64), sig),
		"one of another kind":  foreignJSON(payload, big, sig),
		"the same one twice":   foreignJSON(payload, sig, sig),
		"an empty one as well": foreignJSON(payload, nil, sig),
	} {
		t.Run(name, func(t *testing.T) {
			got, err := d.Attach([]byte(text), k.Public(), SignOptions{Now: now})
			if err != nil {
				t.Fatal(err)
			}
			if by := got.SignedBy(); len(by) != 1 || by[0] != k.Public().ID() {
				t.Errorf("it names the signers %v", by)
			}
			if _, err := Open(got.Bytes(), trust(t, 1, k), now); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestAttachRefused(t *testing.T) {
	k, other := newKey(t, Ed25519), newKey(t, Ed25519)
	d := build(t, shop(t), testCommit)
	payload := payloadOf(t, d, SignOptions{Now: now})
	good := foreignJSON(payload, sigOf(t, k, payload))
	p, s := base64.StdEncoding.EncodeToString(payload), base64.StdEncoding.EncodeToString(sigOf(t, k, payload))
	around := func(payload []byte) string { return foreignJSON(payload, sigOf(t, k, payload)) }
	edit := func(old, new string) []byte {
		edited := strings.Replace(string(payload), old, new, 1)
		if edited == string(payload) {
			t.Fatalf("the statement has no %s", old)
		}
		return []byte(edited)
	}
	more := shop(t)
	more.Mesh.PolicyPath = "other/path"
	elsewhere := build(t, more, testCommit)
	for name, c := range map[string]struct{ text, code string }{
		"nothing":                  {"", "ENVELOPE_INVALID"},
		"null":                     {"null", "ENVELOPE_INVALID"},
		"a list":                   {"[" + good + "]", "ENVELOPE_INVALID"},
		"cut off":                  {good[:len(good)-1], "ENVELOPE_INVALID"},
		"something behind it":      {good + "{}", "ENVELOPE_INVALID"},
		"endless":                  {good + strings.Repeat(" ", maxEnvelope), "ENVELOPE_INVALID"},
		"deep":                     {`{"x":` + strings.Repeat("[", 60000) + strings.Repeat("]", 60000) + "}", "ENVELOPE_INVALID"},
		"not UTF-8":                {good[:len(good)-1] + ",\"x\":\"\xff\"}", "ENVELOPE_INVALID"},
		"two payloads":             {strings.Replace(good, "{", `{"payload": "e30=", `, 1), "ENVELOPE_INVALID"},
		"two payloads, an escape":  {strings.Replace(good, "{", `{"\u0070ayload": "e30=", `, 1), "ENVELOPE_INVALID"},
		"two sigs":                 {strings.Replace(good, `{"sig"`, `{"sig": "e30=", "sig"`, 1), "ENVELOPE_INVALID"},
		"no payload":               {strings.Replace(good, `"payload"`, `"Payload"`, 1), "ENVELOPE_INVALID"},
		"payload null":             {strings.Replace(good, `"`+p+`"`, "null", 1), "ENVELOPE_INVALID"},
		"no type":                  {strings.Replace(good, `"payloadType"`, `"type"`, 1), "ENVELOPE_INVALID"},
		"another type":             {strings.Replace(good, PayloadType, "application/json", 1), "ENVELOPE_INVALID"},
		"no signatures":            {foreignJSON(payload), "ENVELOPE_INVALID"},
		"signatures null":          {strings.Replace(good, `[{"sig": "`+s+`"}]`, "null", 1), "ENVELOPE_INVALID"},
		"too many signatures":      {foreignJSON(payload, make([][]byte, MaxSignatures+1)...), "ENVELOPE_INVALID"},
		"a signature with no sig":  {strings.Replace(good, `{"sig"`, `{"keyid": "x"}, {"sig"`, 1), "ENVELOPE_INVALID"},
		"a line break in base64":   {strings.Replace(good, p[:8], p[:8]+`\n`, 1), "ENVELOPE_INVALID"},
		"alphabets mixed":          {strings.Replace(good, s, s[:4]+"-+"+s[6:], 1), "ENVELOPE_INVALID"},
		"padding alone":            {strings.Replace(good, `"`+s+`"`, `"===="`, 1), "ENVELOPE_INVALID"},
		"another's signature":      {foreignJSON(payload, sigOf(t, other, payload)), "SIGNATURE_INVALID"},
		"a signature of the JSON":  {foreignJSON(payload, mustSign(t, k, payload)), "SIGNATURE_INVALID"},
		"one byte changed":         {foreignJSON(edit(`"sequence":7`, `"sequence":8`), sigOf(t, k, payload)), "SIGNATURE_INVALID"},
		"another sequence":         {around(edit(`"sequence":7`, `"sequence":8`)), "ENVELOPE_INVALID"},
		"another snapshot's":       {around(payloadOf(t, elsewhere, SignOptions{Now: now})), "ENVELOPE_INVALID"},
		"a longer life":            {around(edit("2031-05-05", "2031-05-06")), "ENVELOPE_INVALID"},
		"not a statement":          {around([]byte("{}")), "STATEMENT_MALFORMED"},
		"white space in it":        {around(append([]byte(" "), payload...)), "STATEMENT_MALFORMED"},
		"unsigned, without times":  {around(d.envelope.payload), "SIGNATURE_MISSING"},
		"expired":                  {around(payloadOf(t, d, SignOptions{Now: now.Add(-2 * DefaultStatementLifetime)})), "STATEMENT_EXPIRED"},
		"issued in the future":     {around(payloadOf(t, d, SignOptions{Now: now.Add(time.Hour)})), "STATEMENT_NOT_YET_VALID"},
		"another predecessor":      {around(payloadOf(t, d, SignOptions{Now: now, Previous: image("a")})), "ENVELOPE_INVALID"},
		"keys that nobody expects": {around(payloadOf(t, d, SignOptions{Now: now, Previous: image("b"), Keys: trust(t, 1, other)})), "ENVELOPE_INVALID"},
	} {
		t.Run(name, func(t *testing.T) {
			opts := SignOptions{Now: now}
			if name == "another predecessor" || strings.HasPrefix(name, "keys") {
				opts.Previous = image("b")
			}
			if strings.HasPrefix(name, "keys") {
				opts.Keys = trust(t, 1, k)
			}
			got, err := d.Attach([]byte(c.text), k.Public(), opts)
			if got != nil {
				t.Error("attached")
			}
			if code := Code(err); code != c.code {
				t.Fatalf("got %q (%v), want %q", code, err, c.code)
			}
		})
	}
	if _, err := d.Attach([]byte(good), PublicKey{}, SignOptions{Now: now}); Code(err) != "KEY_INVALID" {
		t.Errorf("with no key: %v", err)
	}
}

// mustSign signs bytes that are no DSSE message.
func mustSign(t *testing.T, k *PrivateKey, data []byte) []byte {
	t.Helper()
	sig, err := k.Sign(data)
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

// The second signer signs what the first one did, and a renewal begins anew.
func TestAttachToWhatOthersSigned(t *testing.T) {
	a, b := newKey(t, Ed25519), newKey(t, ECDSAP256)
	d := signed(t, build(t, shop(t), testCommit), a)
	later := now.Add(time.Hour)
	same := payloadOf(t, d, SignOptions{Now: later})
	if !bytes.Equal(same, d.envelope.payload) {
		t.Fatal("what is exported is not what was signed")
	}
	both, err := d.Attach([]byte(foreignJSON(same, sigOf(t, b, same))), b.Public(), SignOptions{Now: later})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := both.Verify(trust(t, 2, a, b), later); err != nil {
		t.Error(err)
	}

	renewed := payloadOf(t, d, SignOptions{Now: later, Renew: true})
	env := []byte(foreignJSON(renewed, sigOf(t, b, renewed)))
	_, err = d.Attach(env, b.Public(), SignOptions{Now: later})
	wantCode(t, err, "ENVELOPE_INVALID")
	anew, err := d.Attach(env, b.Public(), SignOptions{Now: later, Renew: true})
	if err != nil {
		t.Fatal(err)
	}
	if by := anew.SignedBy(); len(by) != 1 || !anew.Statement().Issued.Equal(later) {
		t.Errorf("renewed: signed by %v, issued %v", by, anew.Statement().Issued)
	}
	// A statement that is older than the one in the file is no renewal.
	_, err = anew.Attach([]byte(foreignJSON(same, sigOf(t, b, same))), b.Public(), SignOptions{Now: later, Renew: true})
	wantCode(t, err, "ENVELOPE_INVALID")
	// Past its expiry nobody adds to a statement.
	_, err = d.Attach([]byte(foreignJSON(same, sigOf(t, b, same))), b.Public(), SignOptions{Now: now.Add(DefaultStatementLifetime)})
	wantCode(t, err, "STATEMENT_EXPIRED")
}

// A set of keys that is declared elsewhere is declared here.
func TestAttachDeclaresKeys(t *testing.T) {
	a, b := newKey(t, Ed25519), newKey(t, Ed25519)
	d := build(t, shop(t), testCommit)
	next := trust(t, 1, b)
	payload := payloadOf(t, d, SignOptions{Now: now, Keys: next})
	got, err := d.Attach([]byte(foreignJSON(payload, sigOf(t, a, payload))), a.Public(), SignOptions{Now: now, Keys: next})
	if err != nil {
		t.Fatal(err)
	}
	if !got.Statement().Keys.Equal(next) {
		t.Error("the keys are not declared")
	}
}

// fixedKey is the same key in every process of a fuzzing run, so that what one
// of them has signed counts for the others.
func fixedKey(t testing.TB, name string) *PrivateKey {
	t.Helper()
	seed := image(name)
	k, err := newPrivateKey(ed25519.NewKeyFromSeed(seed[:]))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// FuzzAttach: what is attached verifies by the key, and holds the snapshot that
// it was attached to; also where the key has signed whatever it was handed.
func FuzzAttach(f *testing.F) {
	k, other := fixedKey(f, "k"), fixedKey(f, "other")
	d := build(f, shop(f), testCommit)
	payload := payloadOf(f, d, SignOptions{Now: now})
	f.Add([]byte(foreignJSON(payload, sigOf(f, k, payload))), false)
	f.Add([]byte(foreignJSON(payload, sigOf(f, other, payload), sigOf(f, k, payload))), false)
	f.Add([]byte(foreignJSON(d.envelope.payload, sigOf(f, k, d.envelope.payload))), false)
	f.Add(signed(f, d, k, other).envelope.raw, false)
	url, err := json.MarshalIndent(map[string]any{
		"payload": base64.URLEncoding.EncodeToString(payload), "payloadType": PayloadType, "more": []any{nil, 1.5, "ä"},
		"signatures": []any{map[string]any{"keyid": nil, "sig": base64.RawURLEncoding.EncodeToString(sigOf(f, k, payload))}},
	}, "", "\t")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(url, false)
	f.Add(payload, true)
	f.Add(payloadOf(f, d, SignOptions{Now: now, Previous: image("a"), Keys: trust(f, 1, other)}), true)
	tr := trust(f, 1, k)
	f.Fuzz(func(t *testing.T, data []byte, sign bool) {
		if sign {
			data = []byte(foreignJSON(data, sigOf(t, k, data)))
		}
		got, err := d.Attach(data, k.Public(), SignOptions{Now: now})
		if err != nil {
			if Code(err) == "" || got != nil {
				t.Fatalf("refused without a code: %v", err)
			}
			return
		}
		s, err := Open(got.Bytes(), tr, now)
		if errors.Is(err, ErrRotation) {
			return // the keys that it declares have yet to sign
		}
		if err != nil || s.Root() != d.Root() {
			t.Fatalf("attached, and not verified: %v", err)
		}
	})
}
