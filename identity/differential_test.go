package identity_test

import (
	"crypto"
	"crypto/ecdh"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"pgregory.net/rapid"

	"meshseal/identity"
	"meshseal/identity/identitytest"
)

// stricter is one rule by which VerifySVID refuses what go-spiffe 2.9 accepts.
// docs/identity.md holds the same table.
type stricter struct {
	what   string
	breaks string // the section of the standard, or "own bound, stricter"
	name   string // of the sentinel
	is     error
	// holds tells, apart from VerifySVID, whether a chain breaks this rule.
	holds func(w *differential, chain []*x509.Certificate) bool
}

const ownBound = "own bound, stricter"

var stricterRules = []stricter{
	{"more than 8 certificates in the chain", ownBound, "ErrCertificateMalformed", identity.ErrCertificateMalformed,
		func(_ *differential, chain []*x509.Certificate) bool { return len(chain) > 8 }},
	{"a certificate of more than 16 KiB", ownBound, "ErrCertificateMalformed", identity.ErrCertificateMalformed,
		func(_ *differential, chain []*x509.Certificate) bool { return anyOf(chain, largerThan16KiB) }},
	{"a scheme that is not in lower case", ownBound, "ErrID", identity.ErrID,
		func(_ *differential, chain []*x509.Certificate) bool {
			return !strings.HasPrefix(rawURI(chain[0]), "spiffe:")
		}},
	{"an empty fragment", "SPIFFE-ID 2", "ErrID", identity.ErrID,
		func(_ *differential, chain []*x509.Certificate) bool { return strings.HasSuffix(rawURI(chain[0]), "#") }},
	{"an ID without a path", "X.509-SVID 3.1, 5.2", "ErrID", identity.ErrID,
		func(_ *differential, chain []*x509.Certificate) bool { return chain[0].URIs[0].Path == "" }},
	{"an ID below `/spire`", ownBound, "ErrID", identity.ErrID,
		func(_ *differential, chain []*x509.Certificate) bool {
			return strings.HasPrefix(chain[0].URIs[0].Path+"/", "/spire/")
		}},
	{"an ID of more than 2048 bytes", "SPIFFE-ID 2.3", "ErrID", identity.ErrID,
		func(_ *differential, chain []*x509.Certificate) bool { return len(rawURI(chain[0])) > 2048 }},
	{"a leaf without `digitalSignature`", "X.509-SVID 4.3", "ErrKeyUsage", identity.ErrKeyUsage,
		func(_ *differential, chain []*x509.Certificate) bool {
			return chain[0].KeyUsage&x509.KeyUsageDigitalSignature == 0
		}},
	{"an intermediate without key usage", "X.509-SVID 3.2, 4.3", "ErrChain", identity.ErrChain,
		func(_ *differential, chain []*x509.Certificate) bool {
			return anyOf(chain[1:], func(c *x509.Certificate) bool { return c.KeyUsage == 0 })
		}},
	{"an RSA key of fewer than 2048 bits", ownBound, "ErrChain", identity.ErrChain,
		func(w *differential, chain []*x509.Certificate) bool {
			return anyOf(w.withRoots(chain), rsaBelow2048)
		}},
	{"an RSA key of more than 8192 bits, or with an exponent above 65537", ownBound, "ErrCertificateMalformed", identity.ErrCertificateMalformed,
		func(_ *differential, chain []*x509.Certificate) bool { return anyOf(chain, rsaAbove8192) }},
	{"an ECDSA key on P-224", ownBound, "ErrChain", identity.ErrChain,
		func(w *differential, chain []*x509.Certificate) bool { return anyOf(w.withRoots(chain), onP224) }},
	{"a key that can sign nothing, such as X25519", ownBound, "ErrChain", identity.ErrChain,
		func(_ *differential, chain []*x509.Certificate) bool {
			_, verifies := chain[0].PublicKey.(interface{ Equal(crypto.PublicKey) bool })
			_, ecdh := chain[0].PublicKey.(*ecdh.PublicKey)
			return !verifies || ecdh
		}},
}

// differential is both verifiers with the same trust bundles.
type differential struct {
	*minter
	ours   *identity.TrustBundles
	theirs *x509bundle.Set
	known  *identity.Intermediates
	// knownCerts is what known holds.
	knownCerts []*x509.Certificate
	// accepted, both, helped and seen count what the run came by.
	accepted, both, helped int
	seen                   map[string]int
}

func newDifferential(t testing.TB) *differential {
	m := newMinter(t)
	w := &differential{minter: m, ours: identitytest.Bundles(t, m.roots...), theirs: x509bundle.NewSet(), seen: map[string]int{}}
	for _, ca := range m.roots {
		b, ok := w.theirs.Get(ca.TrustDomain())
		if !ok {
			b = x509bundle.New(ca.TrustDomain())
			w.theirs.Add(b)
		}
		b.AddX509Authority(ca.Certificate())
	}
	for _, ca := range m.signers {
		for _, c := range ca.Intermediates() {
			if c.IsCA {
				w.knownCerts = append(w.knownCerts, c)
			}
		}
	}
	w.known = intermediates(t, w.knownCerts...)
	return w
}

func (w *differential) withRoots(chain []*x509.Certificate) []*x509.Certificate {
	all := append([]*x509.Certificate(nil), chain...)
	for _, ca := range w.roots {
		if string(ca.Certificate().RawSubject) == string(chain[len(chain)-1].RawIssuer) {
			all = append(all, ca.Certificate())
		}
	}
	return all
}

// compare has both verify a chain. Whatever is accepted here, go-spiffe accepts
// for the same ID; whatever go-spiffe accepts and is refused here breaks a rule
// that is listed, by the sentinel of that rule.
func (w *differential) compare(chain []*x509.Certificate) error {
	svid, err := identity.VerifySVID(chain, w.ours, w.now)
	if helped := w.compareHelped(chain, err == nil); helped != nil {
		return helped
	}
	id, _, theirErr := x509svid.Verify(chain, w.theirs, x509svid.WithTime(w.now))
	switch {
	case err == nil && theirErr != nil:
		return errors.New("accepted what go-spiffe refuses: " + theirErr.Error())
	case err == nil && (svid.ID() != id || rawURI(chain[0]) != id.String()):
		return errors.New("read the ID " + svid.ID().String() + " where go-spiffe reads " + id.String())
	case err == nil:
		w.accepted++
		return nil
	case theirErr != nil:
		w.both++
		return nil
	}
	listed := false
	for _, rule := range stricterRules {
		if errors.Is(err, rule.is) && rule.holds(w, chain) {
			w.seen[rule.what]++
			listed = true
		}
	}
	if !listed {
		return errors.New("refused what go-spiffe accepts, by no rule that is listed: " + err.Error())
	}
	return nil
}

// compareHelped: known intermediates break nothing that is accepted without
// them, and what is accepted with them go-spiffe accepts with all of them sent
// along.
func (w *differential) compareHelped(chain []*x509.Certificate, unhelped bool) error {
	svid, err := identity.VerifySVIDWith(w.known, chain, w.ours, w.now)
	if err != nil {
		if unhelped {
			return errors.New("refused with known intermediates what is accepted without: " + err.Error())
		}
		return nil
	}
	if !unhelped {
		w.helped++
	}
	id, _, err := x509svid.Verify(append(append([]*x509.Certificate(nil), chain...), w.knownCerts...), w.theirs, x509svid.WithTime(w.now))
	if err != nil || id != svid.ID() {
		return fmt.Errorf("accepted with known intermediates what go-spiffe refuses: %v, %v", id, err)
	}
	return nil
}

// TestStricterThanGoSPIFFE: over certificates of every shape that the minter
// knows, one by one, by twos and at random, both verifiers agree but for the
// rules that are listed, and each of these is come by.
func TestStricterThanGoSPIFFE(t *testing.T) {
	w := newDifferential(t)
	try := func(s shape) error {
		chain, err := w.mint(s)
		if err != nil {
			return nil // no certificate that crypto/x509 would hand to anybody
		}
		return w.compare(chain)
	}
	for a := range choices {
		for b := a; b < len(choices); b++ {
			s := usual
			choices[a](&s)
			choices[b](&s)
			if err := try(s); err != nil {
				t.Fatalf("%+v: %v", s, err)
			}
		}
	}
	rapid.Check(t, func(rt *rapid.T) {
		s := usual
		for _, n := range rapid.SliceOfN(rapid.IntRange(0, len(choices)-1), 0, 6).Draw(rt, "choices") {
			choices[n](&s)
		}
		if err := try(s); err != nil {
			rt.Fatalf("%+v: %v", s, err)
		}
	})
	for _, rule := range stricterRules {
		if w.seen[rule.what] == 0 {
			t.Errorf("no certificate came by %q", rule.what)
		}
	}
	if w.accepted == 0 || w.both == 0 || w.helped == 0 {
		t.Errorf("%d were accepted, %d of them by the help of known intermediates, and %d refused by both", w.accepted, w.helped, w.both)
	}
	t.Logf("%d accepted by both, %d refused by both; refused here alone: %v", w.accepted, w.both, w.seen)
}

// TestStricterRulesAreDocumented: the table in docs/identity.md is the list.
func TestStricterRulesAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../docs/identity.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, ok := strings.Cut(string(page), "| go-spiffe accepts | which breaks | error |\n|---|---|---|\n")
	if !ok {
		t.Fatal("docs/identity.md has no such table")
	}
	table, _, _ := strings.Cut(after, "\n\n")
	var want []string
	for _, rule := range stricterRules {
		want = append(want, "| "+rule.what+" | "+rule.breaks+" | `"+rule.name+"` |")
	}
	if got := strings.TrimRight(table, "\n"); got != strings.Join(want, "\n") {
		t.Errorf("docs/identity.md says\n%s\nand the rules are\n%s", got, strings.Join(want, "\n"))
	}
}

// FuzzVerifySVID: the same comparison over certificates of any shape: the fuzzer
// writes what the leaf says, and it is signed as it says it.
func FuzzVerifySVID(f *testing.F) {
	w := newDifferential(f)
	add := func(s shape) {
		f.Add(s.uris, s.names, s.usage, s.rawUsage, s.constraints, s.extension, s.critical, s.from, s.to, s.signer, s.key, s.sent)
	}
	add(usual)
	for _, choose := range choices {
		s := usual
		choose(&s)
		if len(s.extension) < 4096 && len(s.uris) < 4096 {
			add(s)
		}
	}
	f.Fuzz(func(t *testing.T, uris string, names []byte, usage uint16, rawUsage, constraints, extension []byte, critical bool, from, to int8, signer, key, sent uint8) {
		s := shape{uris, names, usage, rawUsage, constraints, extension, critical, from, to, signer, key, sent}
		chain, err := w.mint(s)
		if err != nil {
			return
		}
		if err := w.compare(chain); err != nil {
			t.Fatalf("%+v: %v", s, err)
		}
		later := w.now.Add(time.Duration(to) * time.Second)
		if svid, err := identity.VerifySVID(chain, w.ours, w.now); err == nil && svid.ValidAt(later.Add(2*time.Second)) == nil {
			t.Fatalf("%+v: valid two seconds after the leaf's end", s)
		}
	})
}
