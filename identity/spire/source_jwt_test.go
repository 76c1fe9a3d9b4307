package spire

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"meshseal/identity"
	"meshseal/identity/identitytest"
)

// FetchJWTBundles sends what the test gives it: *workload.JWTBundlesResponse, or
// an error that ends the stream.
func (a *agent) FetchJWTBundles(_ *workload.JWTBundlesRequest, stream grpc.ServerStreamingServer[workload.JWTBundlesResponse]) error {
	for {
		select {
		case <-stream.Context().Done():
			return stream.Context().Err()
		case what := <-a.sayJWT:
			if err, ok := what.(error); ok {
				return err
			}
			if err := stream.Send(what.(*workload.JWTBundlesResponse)); err != nil {
				return err
			}
		}
	}
}

var (
	shopDomain    = spiffeid.RequireTrustDomainFromString("shop.test")
	partnerDomain = spiffeid.RequireTrustDomainFromString("partner.test")
)

func newKey(t *testing.T) crypto.PublicKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key.Public()
}

func jwks(t *testing.T, keys map[string]crypto.PublicKey) []byte {
	t.Helper()
	set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{}}
	for id, key := range keys {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: key, KeyID: id})
	}
	out, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func wantKey(t *testing.T, s *Source, td spiffeid.TrustDomain, id string, key crypto.PublicKey) {
	t.Helper()
	got, ok := s.JWTBundles().Lookup(td, id)
	if key == nil && ok {
		t.Errorf("%s: key %q is there", td, id)
	}
	if key != nil && (!ok || !key.(*ecdsa.PublicKey).Equal(got)) {
		t.Errorf("%s: key %q is %v", td, id, got)
	}
}

// jwtSource is a source that has its SVID and the given JWT bundles.
func jwtSource(t *testing.T, own map[string]crypto.PublicKey) (a *agent, s *Source, updates <-chan struct{}, problems <-chan error) {
	t.Helper()
	ca := identitytest.NewCA(t, "shop.test")
	a = newAgent(t)
	s, updates, problems = opened(t, a, message(t, ca.SVID(t, me), ca.Bundle(), nil))
	if s.JWTBundles() != nil {
		t.Error("JWT bundles before any came")
	}
	a.sayJWT <- bundlesOf(map[string][]byte{"spiffe://shop.test": jwks(t, own)})
	<-updates
	return a, s, updates, problems
}

func bundlesOf(m map[string][]byte) *workload.JWTBundlesResponse {
	return &workload.JWTBundlesResponse{Bundles: m}
}

func TestJWTBundlesAreTheNewestMessage(t *testing.T) {
	first, second, theirs := newKey(t), newKey(t), newKey(t)
	a, s, updates, problems := jwtSource(t, map[string]crypto.PublicKey{"a": first})
	wantKey(t, s, shopDomain, "a", first)

	a.sayJWT <- bundlesOf(map[string][]byte{
		"spiffe://shop.test":    jwks(t, map[string]crypto.PublicKey{"a": first, "b": second}),
		"spiffe://partner.test": jwks(t, map[string]crypto.PublicKey{"a": theirs}),
	})
	<-updates
	wantKey(t, s, shopDomain, "a", first)
	wantKey(t, s, shopDomain, "b", second)
	wantKey(t, s, partnerDomain, "a", theirs)

	a.sayJWT <- bundlesOf(map[string][]byte{"spiffe://shop.test": jwks(t, nil)})
	<-updates
	wantKey(t, s, shopDomain, "a", nil)
	wantKey(t, s, partnerDomain, "a", nil)
	if len(problems) != 0 {
		t.Errorf("told of %v", <-problems)
	}
}

// TestJWTBundlesKeepTheLastGoodMessage, and nothing that is wrong with them
// keeps a new SVID away.
func TestJWTBundlesKeepTheLastGoodMessage(t *testing.T) {
	for name, bad := range map[string]any{
		"no bundle":             bundlesOf(nil),
		"garbage":               bundlesOf(map[string][]byte{"spiffe://shop.test": []byte("x")}),
		"a domain that is none": bundlesOf(map[string][]byte{"Shop test": []byte(`{"keys":[]}`)}),
		"a key without an ID":   bundlesOf(map[string][]byte{"spiffe://shop.test": jwks(t, map[string]crypto.PublicKey{"": newKey(t)})}),
		"the stream ends":       status.Error(codes.Unavailable, "bye"),
		"the identity is gone":  status.Error(codes.PermissionDenied, "no identity issued"),
		"the agent says cancel": status.Error(codes.Canceled, "shutting down"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			key := newKey(t)
			a, s, updates, problems := jwtSource(t, map[string]crypto.PublicKey{"a": key})
			a.sayJWT <- bad
			if err := <-problems; !strings.HasPrefix(err.Error(), "JWT bundles: ") {
				t.Errorf("told of %v", err)
			}
			wantKey(t, s, shopDomain, "a", key)

			ca := identitytest.NewCA(t, "shop.test")
			svid := ca.SVID(t, me)
			a.say <- message(t, svid, ca.Bundle(), nil)
			<-updates
			wantSVID(t, s, svid)

			next := newKey(t)
			a.sayJWT <- bundlesOf(map[string][]byte{"spiffe://shop.test": jwks(t, map[string]crypto.PublicKey{"b": next})})
			<-updates
			wantKey(t, s, shopDomain, "a", nil)
			wantKey(t, s, shopDomain, "b", next)
		})
	}
}

// TestJWTBundlesComeWithoutAnSVIDStream: the end of the SVID's stream leaves
// that of the JWT bundles alone.
func TestJWTBundlesComeWithoutAnSVIDStream(t *testing.T) {
	a, s, updates, problems := jwtSource(t, map[string]crypto.PublicKey{"a": newKey(t)})
	a.say <- status.Error(codes.PermissionDenied, "no identity issued")
	<-problems
	next := newKey(t)
	a.sayJWT <- bundlesOf(map[string][]byte{"spiffe://shop.test": jwks(t, map[string]crypto.PublicKey{"a": next})})
	<-updates
	wantKey(t, s, shopDomain, "a", next)
}

func TestJWTBundlesLeaveOutABadDomain(t *testing.T) {
	odd, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key := newKey(t)
	a, s, updates, problems := jwtSource(t, map[string]crypto.PublicKey{"a": key})
	a.sayJWT <- bundlesOf(map[string][]byte{
		"spiffe://shop.test":    jwks(t, map[string]crypto.PublicKey{"a": key}),
		"spiffe://partner.test": jwks(t, map[string]crypto.PublicKey{"a": odd, "b": newKey(t)}),
	})
	if err := <-problems; !errors.Is(err, identity.ErrBundle) || !strings.Contains(err.Error(), "partner.test") {
		t.Errorf("told of %v", err)
	}
	<-updates
	wantKey(t, s, shopDomain, "a", key)
	wantKey(t, s, partnerDomain, "a", nil)
	wantKey(t, s, partnerDomain, "b", nil)
}

// TestNoJWTSVIDsAreNoProblem: a Workload API need not serve them.
func TestNoJWTSVIDsAreNoProblem(t *testing.T) {
	key := newKey(t)
	a, s, updates, problems := jwtSource(t, map[string]crypto.PublicKey{"a": key})
	a.sayJWT <- status.Error(codes.Unimplemented, "no JWT-SVIDs here")
	next := newKey(t)
	a.sayJWT <- bundlesOf(map[string][]byte{"spiffe://shop.test": jwks(t, map[string]crypto.PublicKey{"a": next})})
	<-updates
	wantKey(t, s, shopDomain, "a", next)
	if len(problems) != 0 {
		t.Errorf("told of %v", <-problems)
	}
}

// TestSourceTeachesItsIntermediates: under nested SPIRE servers the own chain
// helps to verify others whose certificate comes alone.
func TestSourceTeachesItsIntermediates(t *testing.T) {
	root := identitytest.NewCA(t, "shop.test")
	nested := root.Intermediate(t)
	known, err := identity.NewIntermediates()
	if err != nil {
		t.Fatal(err)
	}
	a := newAgent(t)
	impostor := identitytest.NewCA(t, "shop.test").Intermediate(t)
	problems, updates := make(chan error, 8), make(chan struct{}, 8)
	go func() { a.say <- message(t, impostor.SVID(t, me), root.Bundle(), nil) }()
	s, err := Open(t.Context(), Config{Address: "unix://" + a.path, Intermediates: known,
		OnError: func(err error) { problems <- err }, OnUpdate: func() { updates <- struct{}{} }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	<-updates
	if err := <-problems; !errors.Is(err, identity.ErrChain) || known.Len() != 0 {
		t.Errorf("told of %v; %d are known", err, known.Len())
	}
	a.say <- message(t, nested.SVID(t, me), root.Bundle(), nil)
	<-updates
	alone := identitytest.Chain(t, nested.SVID(t, "spiffe://shop.test/web"))[:1]
	if _, err := identity.VerifySVIDWith(known, alone, s.Bundles(), time.Now()); err != nil {
		t.Error(err)
	}
}

// TestBundlesKeepTheirPointerWhileTheyAreTheSame: what was verified with them is
// remembered by it, and a renewal of the SVID or a message that says the same
// again is no reason to forget it.
func TestBundlesKeepTheirPointerWhileTheyAreTheSame(t *testing.T) {
	ca, next := identitytest.NewCA(t, "shop.test"), identitytest.NewCA(t, "shop.test")
	key := newKey(t)
	same := bundlesOf(map[string][]byte{"spiffe://shop.test": jwks(t, map[string]crypto.PublicKey{"a": key})})
	a := newAgent(t)
	s, updates, _ := opened(t, a, message(t, ca.SVID(t, me), ca.Bundle(), nil))
	a.sayJWT <- same
	<-updates
	trust, keys := s.Bundles(), s.JWTBundles()
	a.say <- message(t, ca.SVID(t, me), ca.Bundle(), nil)
	<-updates
	a.sayJWT <- same
	<-updates
	if s.Bundles() != trust || s.JWTBundles() != keys {
		t.Error("the same bundles came again, and another pointer with them")
	}
	a.say <- message(t, ca.SVID(t, me), append(ca.Bundle(), next.Bundle()...), nil)
	<-updates
	a.sayJWT <- bundlesOf(map[string][]byte{"spiffe://shop.test": jwks(t, map[string]crypto.PublicKey{"a": newKey(t)})})
	<-updates
	if s.Bundles() == trust || s.JWTBundles() == keys {
		t.Error("other bundles came, and the pointer stayed")
	}
}
