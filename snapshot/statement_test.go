package snapshot

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// statementText is a signed statement's JSON.
func statementText(t testing.TB) string {
	t.Helper()
	return string(signed(t, build(t, shop(t), testCommit), newKey(t, Ed25519)).envelope.payload)
}

func TestStatementInOneFormOnly(t *testing.T) {
	text := statementText(t)
	if _, err := parseStatement([]byte(text)); err != nil {
		t.Fatal(err)
	}
	replace := func(old, new string) string {
		if !strings.Contains(text, old) {
			t.Fatalf("%s does not hold %s", text, old)
		}
		return strings.Replace(text, old, new, 1)
	}
	for name, bad := range map[string]string{
		"empty":                   "",
		"null":                    "null",
		"white space before":      " " + text,
		"white space inside":      replace(`,"predicate"`, `, "predicate"`),
		"newline behind":          text + "\n",
		"something behind":        text + "{}",
		"duplicate key":           replace(`"sequence":7`, `"sequence":7,"sequence":7`),
		"duplicate key, other":    replace(`"sequence":7`, `"sequence":9,"sequence":7`),
		"key in another case":     replace(`"sequence"`, `"Sequence"`),
		"escaped key":             replace(`"sequence"`, `"\u0073equence"`),
		"escaped value":           replace(`"mesh":"shop"`, `"mesh":"sho\u0070"`),
		"unknown key":             replace(`"sequence":7`, `"sequence":7,"more":1`),
		"other order":             replace(`"sequence":7,"treeSize":8`, `"treeSize":8,"sequence":7`),
		"key missing":             replace(`"sequence":7,`, ``),
		"number as text":          replace(`"sequence":7`, `"sequence":"7"`),
		"number with exponent":    replace(`"sequence":7`, `"sequence":7e0`),
		"number with fraction":    replace(`"sequence":7`, `"sequence":7.0`),
		"number below zero":       replace(`"sequence":7`, `"sequence":-7`),
		"number of zero":          replace(`"sequence":7`, `"sequence":0`),
		"tree of nothing":         replace(`"treeSize":8`, `"treeSize":0`),
		"previous, unsigned":      strings.Replace(text, text[strings.Index(text, `"issued"`):], `"previous":"`+image("p").String()+`"}}`, 1),
		"number too large":        replace(`"sequence":7`, `"sequence":9007199254740992`),
		"number beyond 64 bits":   replace(`"sequence":7`, `"sequence":18446744073709551623`),
		"another type":            replace(`Statement/v1`, `Statement/v0.1`),
		"another predicate":       replace(`urn:meshseal:snapshot:v1`, `https://slsa.dev/provenance/v1`),
		"another mesh inside":     replace(`"mesh":"shop"`, `"mesh":"shap"`),
		"two subjects":            replace(`"subject":[`, `"subject":[{"name":"a","digest":{"sha256":"00"}},`),
		"no subjects":             `{"_type":"https://in-toto.io/Statement/v1","subject":[]}`,
		"digest in upper case":    strings.Replace(text, text[strings.Index(text, `"sha256":"`)+10:][:64], strings.ToUpper(text[strings.Index(text, `"sha256":"`)+10:][:64]), 1),
		"digest of zeros":         strings.Replace(text, text[strings.Index(text, `"sha256":"`)+10:][:64], strings.Repeat("0", 64), 1),
		"another digest too":      replace(`{"sha256":`, `{"sha512":"00","sha256":`),
		"time with an offset":     replace(`"issued":"2031-05-04T03:02:01Z"`, `"issued":"2031-05-04T04:02:01+01:00"`),
		"time with a fraction":    replace(`"issued":"2031-05-04T03:02:01Z"`, `"issued":"2031-05-04T03:02:01.0Z"`),
		"time in lower case":      replace(`03:02:01Z`, `03:02:01z`),
		"no issue":                replace(`"issued":"2031-05-04T03:02:01Z",`, ``),
		"no expiry":               replace(`,"expires":"2031-05-05T03:02:01Z"`, ``),
		"expires when issued":     replace(`"expires":"2031-05-05T03:02:01Z"`, `"expires":"2031-05-04T03:02:01Z"`),
		"expires before issued":   replace(`"expires":"2031-05-05T03:02:01Z"`, `"expires":"2031-05-03T03:02:01Z"`),
		"previous of another sum": replace(`"issued"`, `"previous":"sha512:00","issued"`),
		"not UTF-8":               replace(`"repository":"shop"`, "\"repository\":\"sh\xffp\""),
		"deep nesting":            strings.Repeat(`{"_type":`, 900),
		"deep nesting of lists":   `{"subject":` + strings.Repeat(`[`, 8000),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parseStatement([]byte(bad))
			wantCode(t, err, "STATEMENT_MALFORMED")
		})
	}
	_, err := parseStatement([]byte(replace(`"format":"v1"`, `"format":"v2"`)))
	wantCode(t, err, "FORMAT_UNKNOWN")
	_, err = parseStatement([]byte(replace(`"expires":"2031-05-05`, `"expires":"2031-05-12`)))
	wantCode(t, err, "STATEMENT_LIFETIME")
}

func TestEnvelopeInOneFormOnly(t *testing.T) {
	text := string(signed(t, build(t, shop(t), testCommit), newKey(t, Ed25519)).envelope.raw)
	if _, err := parseEnvelope([]byte(text)); err != nil {
		t.Fatal(err)
	}
	replace := func(old, new string) string {
		if !strings.Contains(text, old) {
			t.Fatalf("%s does not hold %s", text, old)
		}
		return strings.Replace(text, old, new, 1)
	}
	sig := strings.SplitN(strings.SplitN(text, `"sig":"`, 2)[1], `"`, 2)[0]
	for name, bad := range map[string]string{
		"empty":                 "",
		"null":                  "null",
		"another payload type":  replace(PayloadType, "text/plain"),
		"unknown key":           replace(`{"payloadType"`, `{"alg":"none","payloadType"`),
		"duplicate payload":     replace(`"payload":`, `"payload":"","payload":`),
		"signatures null":       `{"payloadType":"` + PayloadType + `","payload":"","signatures":null}`,
		"newline in base64":     replace(sig, sig[:10]+`\n`+sig[10:]),
		"no padding":            replace(`=="}]`, `"}]`),
		"base64 of URLs":        replace(sig, strings.Repeat("_", 86)+"=="),
		"base64 with odd end":   replace(sig, sig[:len(sig)-3]+oddEnd(sig[len(sig)-3])+"=="),
		"signature empty":       replace(sig, ""),
		"signature too long":    replace(sig, strings.Repeat("AAAA", 200)),
		"keyid short":           replace(`"keyid":"`, `"keyid":"0`),
		"keyid missing":         replace(`"keyid"`, `"kid"`),
		"deep nesting":          `{"signatures":` + strings.Repeat(`[`, 100_000),
		"deep nesting of maps":  strings.Repeat(`{"payload":`, 9_000),
		"too many signatures":   replace(`"signatures":[`, `"signatures":[`+strings.Repeat(`{"keyid":"`+strings.Repeat("0", 64)+`","sig":"AA=="},`, MaxSignatures)),
		"signatures not sorted": replace(`"signatures":[`, `"signatures":[{"keyid":"`+strings.Repeat("f", 64)+`","sig":"AA=="},`),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := parseEnvelope([]byte(bad)); err == nil {
				t.Error("accepted")
			}
		})
	}
}

// A form that is right in everything but its size.
func TestEnvelopeHasBounds(t *testing.T) {
	var e envelope
	for i := range MaxSignatures + 1 {
		e.signatures = append(e.signatures, signature{keyID: image(fmt.Sprint(i)).Hex(), sig: []byte{1}})
	}
	many, err := e.seal()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parseEnvelope(many.raw); err == nil {
		t.Errorf("%d signatures are accepted", len(e.signatures))
	}
	if _, err := many.with(signature{keyID: image("one more").Hex(), sig: []byte{1}}); err == nil {
		t.Error("one more is added")
	}
	e.signatures = e.signatures[:MaxSignatures]
	full, err := e.seal()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parseEnvelope(full.raw); err != nil {
		t.Error(err)
	}
	large, err := envelope{payload: make([]byte, maxEnvelope)}.seal()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parseEnvelope(large.raw); err == nil {
		t.Errorf("%d bytes are accepted", len(large.raw))
	}
}

// oddEnd is another last character of the same bytes: the bits that do not
// count are set.
func oddEnd(c byte) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	return string(alphabet[strings.IndexByte(alphabet, c)+1])
}

func TestSigningAgain(t *testing.T) {
	a, b := newKey(t, Ed25519), newKey(t, Ed25519)
	d := build(t, shop(t), testCommit)
	one := signed(t, d, a)
	later := SignOptions{Now: now.Add(time.Hour)}

	// A second key signs the same statement.
	two, err := one.Sign(b, later)
	if err != nil {
		t.Fatal(err)
	}
	if !cmp.Equal(two.Statement(), one.Statement()) || len(two.SignedBy()) != 2 {
		t.Errorf("co-signed: %+v by %v", two.Statement(), two.SignedBy())
	}
	// In whatever order, the bytes are the same.
	other := signed(t, d, b)
	if other, err = other.Sign(a, later); err != nil || string(other.Bytes()) != string(two.Bytes()) {
		t.Error("the order of signing shows in the file", err)
	}
	// The same key again changes nothing.
	if again, err := two.Sign(a, later); err != nil || string(again.Bytes()) != string(two.Bytes()) {
		t.Error("signing twice is not signing once", err)
	}
	// Renewal drops the others' signatures and names what it follows.
	previous := image("previous")
	renewed, err := two.Sign(a, SignOptions{Now: now.Add(time.Hour), Renew: true, Previous: previous})
	if err != nil {
		t.Fatal(err)
	}
	st := renewed.Statement()
	if len(renewed.SignedBy()) != 1 || !st.Issued.Equal(now.Add(time.Hour)) || st.Previous != previous || st.Root != d.Root() {
		t.Errorf("renewed: %+v by %v", st, renewed.SignedBy())
	}
	if d.Statement().timed() || len(d.SignedBy()) != 0 || len(one.SignedBy()) != 1 {
		t.Error("signing changed the draft that was signed")
	}
	// Nobody co-signs what no verifier accepts, or another predecessor.
	_, err = one.Sign(b, SignOptions{Now: now.Add(25 * time.Hour)})
	wantCode(t, err, "STATEMENT_EXPIRED")
	_, err = one.Sign(b, SignOptions{Now: now.Add(-time.Hour)})
	wantCode(t, err, "STATEMENT_NOT_YET_VALID")
	_, err = one.Sign(b, SignOptions{Now: now, Previous: previous})
	wantCode(t, err, "STATEMENT_MALFORMED")
	if _, err = renewed.Sign(b, SignOptions{Now: now.Add(time.Hour), Previous: previous}); err != nil {
		t.Error(err)
	}
	// A clock that is not set.
	_, err = d.Sign(a, SignOptions{})
	wantCode(t, err, "STATEMENT_MALFORMED")
}
