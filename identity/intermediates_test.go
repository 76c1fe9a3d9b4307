package identity_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"meshseal/identity"
	"meshseal/identity/identitytest"
)

func intermediates(t testing.TB, configured ...*x509.Certificate) *identity.Intermediates {
	t.Helper()
	i, err := identity.NewIntermediates(configured...)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// TestLeafAloneIsVerifiedThroughKnownIntermediates: what another SVID came with,
// or an operator configured, leads a leaf to its trust bundle, over two steps too.
func TestLeafAloneIsVerifiedThroughKnownIntermediates(t *testing.T) {
	now := time.Now()
	root := identitytest.NewCA(t, "shop.test")
	middle := root.Intermediate(t)
	nested := middle.Intermediate(t)
	bundles := identitytest.Bundles(t, root)
	whole := identitytest.Chain(t, nested.SVID(t, "spiffe://shop.test/meshseal"))
	alone := identitytest.Chain(t, nested.SVID(t, webID))[:1]
	learned, configured := intermediates(t), intermediates(t, nested.Certificate(), middle.Certificate())
	half := intermediates(t, nested.Certificate())

	_, err := identity.VerifySVIDWith(learned, alone, bundles, now)
	wantReason(t, err, identity.ErrChain)
	_, err = identity.VerifySVIDWith(half, alone, bundles, now)
	wantReason(t, err, identity.ErrChain)
	if !learned.Learn(verified(t, whole, bundles, now), now) || learned.Len() != 2 {
		t.Errorf("%d are known, and the SVID came with two", learned.Len())
	}
	if learned.Learn(verified(t, whole, bundles, now), now) {
		t.Error("there was something new in what was known")
	}
	for name, known := range map[string]*identity.Intermediates{"learned": learned, "configured": configured} {
		svid, err := identity.VerifySVIDWith(known, alone, bundles, now)
		if err != nil || svid.ID().String() != webID {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := identity.VerifySVIDWith(half, append(alone, middle.Certificate()), bundles, now); err != nil {
		t.Errorf("one came along and one was known: %v", err)
	}
	if svid, err := identity.VerifySVIDWith(configured, append(alone, repeat(middle.Certificate(), 7)...), bundles, now); err != nil {
		t.Errorf("a chain as long as may be: %v, %v", svid, err)
	}
	_, err = identity.VerifySVIDWith(configured, append(alone, repeat(middle.Certificate(), 8)...), bundles, now)
	wantReason(t, err, identity.ErrCertificateMalformed)
}

// TestIntermediatesAreNoTrust: however many are known, only the bundle of the
// ID's own trust domain vouches.
func TestIntermediatesAreNoTrust(t *testing.T) {
	now := time.Now()
	root, impostor, partner := identitytest.NewCA(t, "shop.test"), identitytest.NewCA(t, "shop.test"), identitytest.NewCA(t, "partner.test")
	ended := root.Intermediate(t, identitytest.WithTimes(now.Add(-time.Hour), now.Add(-time.Second)))
	bundles := identitytest.Bundles(t, root, partner)
	var known []*x509.Certificate
	for _, ca := range []*identitytest.CA{impostor, impostor.Intermediate(t), partner, ended} {
		known = append(known, ca.Certificate())
	}
	for name, ca := range map[string]*identitytest.CA{
		"an impostor's root":         impostor,
		"below an impostor":          impostor.Intermediate(t),
		"a federated domain's root":  partner,
		"one that nobody knows":      root.Intermediate(t),
		"an intermediate that ended": ended,
	} {
		alone := identitytest.Chain(t, ca.SVID(t, webID))[:1]
		_, err := identity.VerifySVIDWith(intermediates(t, known...), alone, bundles, now)
		wantReasonNamed(t, name, err, identity.ErrChain)
	}
}

// TestIntermediatesTakeOnlyWhatMaySign: configured ones are checked.
func TestIntermediatesTakeOnlyWhatMaySign(t *testing.T) {
	ca := identitytest.NewCA(t, "shop.test")
	leaf := identitytest.Chain(t, ca.SVID(t, webID))[0]
	for name, bad := range map[string][]*x509.Certificate{
		"a leaf":   {leaf},
		"nothing":  {nil},
		"too many": many(t, ca, 257),
	} {
		_, err := identity.NewIntermediates(bad...)
		wantReasonNamed(t, name, err, identity.ErrBundle)
	}
	if n := intermediates(t, many(t, ca, 256)...).Len(); n != 256 {
		t.Errorf("%d of 256 are known", n)
	}
}

func many(t *testing.T, ca *identitytest.CA, n int) []*x509.Certificate {
	t.Helper()
	out := make([]*x509.Certificate, n)
	for i := range out {
		out[i] = ca.Intermediate(t).Certificate()
	}
	return out
}

// TestIntermediatesAreBounded: a server that signs ever new ones fills the room
// and no more. What is configured stays, and what ends first gives way.
func TestIntermediatesAreBounded(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	root := identitytest.NewCA(t, "shop.test")
	bundles := identitytest.Bundles(t, root)
	fixed := root.Intermediate(t, identitytest.WithTimes(now.Add(-time.Hour), now.Add(time.Minute)))
	known := intermediates(t, fixed.Certificate())
	learn := func(until time.Duration) *identitytest.CA {
		ca := root.Intermediate(t, identitytest.WithTimes(now.Add(-time.Hour), now.Add(until)))
		known.Learn(verified(t, identitytest.Chain(t, ca.SVID(t, webID)), bundles, now), now)
		return ca
	}
	knows := func(ca *identitytest.CA) bool {
		_, err := identity.VerifySVIDWith(known, identitytest.Chain(t, ca.SVID(t, webID))[:1], bundles, now)
		return err == nil
	}
	short := learn(2 * time.Minute)
	for range 254 {
		learn(time.Hour)
	}
	learn(time.Hour)
	if known.Len() != 257 || !knows(short) {
		t.Errorf("%d are known, the short-lived one: %v", known.Len(), knows(short))
	}
	long := learn(2 * time.Hour)
	if known.Len() != 257 || knows(short) || !knows(long) || !knows(fixed) {
		t.Errorf("%d are known; one that ends first gives way to one that ends last: %v %v; the configured: %v", known.Len(), knows(short), knows(long), knows(fixed))
	}
	if late := learn(3 * time.Minute); knows(late) {
		t.Error("one that ends before all others drove one of them out")
	}
	later := now.Add(90 * time.Minute)
	last := root.Intermediate(t)
	known.Learn(verified(t, identitytest.Chain(t, last.SVID(t, webID, identitytest.WithTimes(now, later.Add(time.Hour)))), bundles, later), later)
	if n := known.Len(); n != 3 {
		t.Errorf("%d are known after all but one ended; the configured one, that one and the new one should be", n)
	}
}

// TestIntermediatesOfAFederatedDomain: its authorities can name theirs as they
// like and make as many as they like; another domain's are still there and found.
func TestIntermediatesOfAFederatedDomain(t *testing.T) {
	now := time.Now()
	shop, partner := identitytest.NewCA(t, "shop.test"), identitytest.NewCA(t, "partner.test")
	bundles := identitytest.Bundles(t, shop, partner)
	name := identitytest.WithTemplate(func(c *x509.Certificate) {
		c.Subject, c.SubjectKeyId = pkix.Name{CommonName: "nested"}, []byte{1}
	})
	end := identitytest.WithTimes(now.Add(-time.Hour), now.Add(time.Minute))
	known := intermediates(t)
	nested := shop.Intermediate(t, name, end)
	known.Learn(verified(t, identitytest.Chain(t, nested.SVID(t, webID)), bundles, now), now)
	for range 300 {
		theirs := partner.Intermediate(t, name).SVID(t, "spiffe://partner.test/x")
		known.Learn(verified(t, identitytest.Chain(t, theirs), bundles, now), now)
	}
	if _, err := identity.VerifySVIDWith(known, identitytest.Chain(t, nested.SVID(t, webID))[:1], bundles, now); err != nil {
		t.Error(err)
	}
	if n := known.Len(); n != 257 {
		t.Errorf("%d are known", n)
	}
}

// TestIntermediatesStayInTheirDomain: what was learned from one trust domain is
// not tried for another, even where one root vouches for both.
func TestIntermediatesStayInTheirDomain(t *testing.T) {
	now := time.Now()
	root := identitytest.NewCA(t, "shop.test")
	bundles, err := identity.NewTrustBundles(map[spiffeid.TrustDomain][]*x509.Certificate{
		root.TrustDomain(): root.Bundle(), spiffeid.RequireTrustDomainFromString("partner.test"): root.Bundle(),
	})
	if err != nil {
		t.Fatal(err)
	}
	nested, known := root.Intermediate(t), intermediates(t)
	known.Learn(verified(t, identitytest.Chain(t, nested.SVID(t, "spiffe://partner.test/x")), bundles, now), now)
	if _, err := identity.VerifySVIDWith(known, identitytest.Chain(t, nested.SVID(t, "spiffe://partner.test/y"))[:1], bundles, now); err != nil {
		t.Error(err)
	}
	_, err = identity.VerifySVIDWith(known, identitytest.Chain(t, nested.SVID(t, webID))[:1], bundles, now)
	wantReason(t, err, identity.ErrChain)
}

// TestIntermediatesEndWithWhatIsAboveThem: one that leads through another is of
// no use when that has ended, and leaves with it.
func TestIntermediatesEndWithWhatIsAboveThem(t *testing.T) {
	now := time.Now()
	root := identitytest.NewCA(t, "shop.test")
	bundles := identitytest.Bundles(t, root)
	nested := root.Intermediate(t, identitytest.WithTimes(now.Add(-time.Hour), now.Add(time.Minute))).Intermediate(t)
	known := intermediates(t)
	known.Learn(verified(t, identitytest.Chain(t, nested.SVID(t, webID)), bundles, now), now)
	later := now.Add(2 * time.Minute)
	known.Learn(verified(t, identitytest.Chain(t, root.Intermediate(t).SVID(t, webID)), bundles, later), later)
	if n := known.Len(); n != 1 {
		t.Errorf("%d are known, and two of three have come to their end", n)
	}
}

// TestIntermediatesMakeNoPathLonger than one that could be sent.
func TestIntermediatesMakeNoPathLonger(t *testing.T) {
	ca := identitytest.NewCA(t, "shop.test")
	bundles := identitytest.Bundles(t, ca)
	var certs []*x509.Certificate
	for depth := 1; depth <= 9; depth++ {
		ca = ca.Intermediate(t)
		certs = append(certs, ca.Certificate())
		_, err := identity.VerifySVIDWith(intermediates(t, certs...), identitytest.Chain(t, ca.SVID(t, webID))[:1], bundles, time.Now())
		if depth <= 7 && err != nil {
			t.Errorf("%d intermediates: %v", depth, err)
		}
		if depth > 7 {
			wantReason(t, err, identity.ErrChain)
		}
	}
}

// TestIntermediatesOfOneName: many of the same name are told apart by the key
// ID, and of those that lie about theirs only so many are tried.
func TestIntermediatesOfOneName(t *testing.T) {
	now := time.Now()
	name := identitytest.WithTemplate(func(c *x509.Certificate) { c.Subject = pkix.Name{CommonName: "nested"} })
	sameKeyID := identitytest.WithTemplate(func(c *x509.Certificate) {
		c.Subject, c.SubjectKeyId = pkix.Name{CommonName: "nested"}, []byte{1}
	})
	root := identitytest.NewCA(t, "shop.test")
	bundles := identitytest.Bundles(t, root)
	var certs []*x509.Certificate
	for range 100 {
		certs = append(certs, root.Intermediate(t, name).Certificate())
	}
	signer := root.Intermediate(t, name)
	known := intermediates(t, append(certs, signer.Certificate())...)
	alone := identitytest.Chain(t, signer.SVID(t, webID))[:1]
	if _, err := identity.VerifySVIDWith(known, alone, bundles, now); err != nil {
		t.Error(err)
	}
	certs = nil
	for range 200 {
		certs = append(certs, root.Intermediate(t, sameKeyID).Certificate())
	}
	stranger := identitytest.Chain(t, identitytest.NewCA(t, "shop.test").Intermediate(t, sameKeyID).SVID(t, webID))[:1]
	_, err := identity.VerifySVIDWith(intermediates(t, certs...), stranger, bundles, now)
	wantReason(t, err, identity.ErrChain)
	if strings.Contains(err.Error(), "limit") {
		t.Errorf("so many were tried that crypto/x509 gave up: %v", err)
	}
}

// TestIntermediatesAreSafeTogether: learning and verifying at the same time.
func TestIntermediatesAreSafeTogether(t *testing.T) {
	now := time.Now()
	root := identitytest.NewCA(t, "shop.test")
	bundles := identitytest.Bundles(t, root)
	known := intermediates(t)
	var all sync.WaitGroup
	errs := make([]error, 8)
	for n := range errs {
		nested := root.Intermediate(t)
		chain := identitytest.Chain(t, nested.SVID(t, fmt.Sprintf("spiffe://shop.test/%d", n)))
		all.Go(func() {
			for range 20 {
				svid, err := identity.VerifySVIDWith(known, chain, bundles, now)
				if err != nil {
					errs[n] = err
					return
				}
				known.Learn(svid, now)
				if _, err := identity.VerifySVIDWith(known, chain[:1], bundles, now); err != nil {
					errs[n] = err
				}
			}
		})
	}
	all.Wait()
	for n, err := range errs {
		if err != nil {
			t.Errorf("%d: %v", n, err)
		}
	}
	if known.Len() != len(errs) {
		t.Errorf("%d are known", known.Len())
	}
}

// TestNoIntermediates: nil holds none.
func TestNoIntermediates(t *testing.T) {
	var none *identity.Intermediates
	ca := identitytest.NewCA(t, "shop.test")
	svid, err := identity.VerifySVIDWith(none, identitytest.Chain(t, ca.Intermediate(t).SVID(t, webID)), identitytest.Bundles(t, ca), time.Now())
	if err != nil || none.Learn(svid, time.Now()) || none.Len() != 0 {
		t.Errorf("%v; %d are known", err, none.Len())
	}
}
