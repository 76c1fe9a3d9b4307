package extauthz_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"strings"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"meshseal/extauthz"
	"meshseal/identity"
	"meshseal/identity/identitytest"
	"meshseal/snapshot"
)

// sameKey is a key that is the same in every process, for the same reason as
// that of fixedCA.
func sameKey(t testing.TB, last byte) *ecdsa.PrivateKey {
	t.Helper()
	scalar := make([]byte, 32)
	scalar[31] = last
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), scalar)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// FuzzEvidence: whatever certificate, token and forwarded chain a request
// brings, it is allowed only with the certificate of web, that leads to the
// root, and a token that go-spiffe takes too and that is of the same SPIFFE ID.
func FuzzEvidence(f *testing.F) {
	known, err := identity.NewIntermediates()
	if err != nil {
		f.Fatal(err)
	}
	e := demanding(f, demandJWT, config(func(c *extauthz.Config) { c.Records, c.Intermediates = discard{}, known }), content(func(c *snapshot.Content) {
		c.Mesh.Evidence.Chain = true
		c.Mesh.Evidence.JWT.MaxAge = time.Hour
	}))
	e.fixedCA()
	e.shopJWT = &issuer{t: f, key: sameKey(f, 7), kid: "one"}
	e.trust(map[string]*issuer{"shop.test": e.shopJWT})
	middle := e.shop.Intermediate(f, identitytest.WithKey(sameKey(f, 9)), identitytest.WithTemplate(func(c *x509.Certificate) {
		c.SerialNumber, c.Subject = big.NewInt(2), pkix.Name{CommonName: "between"}
	}))
	nested := middle.SVID(f, webSVID())
	good := e.shopJWT.sign(e.claims("exp", e.clock.Now().Add(time.Hour).Unix()))
	parts := strings.Split(good, ".")
	for _, token := range []string{good, "", good + "," + good, parts[0] + "." + parts[1] + ".", e.shopJWT.sign(e.claims("sub", webID))} {
		f.Add(e.webCertificate, token, "")
		f.Add(identitytest.Envoy(nested), token, handedOver(nested))
	}
	f.Add(identitytest.Envoy(e.shop.SVID(f, webID)), good, "")
	f.Add(identitytest.Envoy(e.stranger.SVID(f, webSVID())), good, handedOver(nested))
	keys := jwtbundle.FromJWTAuthorities(e.shop.TrustDomain(), map[string]crypto.PublicKey{"one": e.shopJWT.key.Public()})
	q := e.honest()
	ctx := metadata.NewIncomingContext(e.asOrders(nil), q.md)
	honest := proto.Clone(e.showing(good).with(e.webCertificate).req).(*authv3.CheckRequest)
	if answer, err := e.server.Check(ctx, honest); err != nil || reason(f, answer) != extauthz.OK {
		f.Fatalf("the honest request: %v, %v", answer, err)
	}
	f.Fuzz(func(t *testing.T, certificate, token, chain string) {
		req := proto.Clone(q.req).(*authv3.CheckRequest)
		req.Attributes.Source.Certificate = certificate
		h := req.Attributes.Request.Http.Headers
		h[tokenHeader], h[forwarded] = token, chain
		answer, err := e.server.Check(ctx, req)
		if err != nil || answer == nil {
			t.Fatalf("answered %v, %v", answer, err)
		}
		if reason(t, answer) != extauthz.OK {
			return
		}
		leaf, err := identity.PeerCertificate(certificate)
		if err != nil {
			t.Fatalf("allowed without a certificate: %v", err)
		}
		svid, err := identity.VerifySVID([]*x509.Certificate{leaf, middle.Certificate()}, e.bundles.Load(), e.clock.Now())
		if err != nil || svid.ID().String() != webSVID() {
			t.Errorf("allowed %q: %v", svid.ID(), err)
		}
		theirs, err := jwtsvid.ParseAndValidate(token, keys, []string{audience})
		if err != nil || theirs.ID != svid.ID() || len(theirs.Audience) != 1 {
			t.Errorf("allowed a token that go-spiffe reads as %+v, %v", theirs, err)
		}
	})
}
