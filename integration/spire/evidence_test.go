//go:build spire

package spire

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"meshseal/identity"
	"meshseal/identity/spire"
	"meshseal/integration/spire/spiretest"
	"meshseal/internal/meshtest"
)

// TestSPIREJWTAndIntermediates: what a SPIRE server signs is evidence, and what a
// nested one signs too. Its JWT key comes with the bundle of the server above,
// and its intermediate with the SVID of anybody who stands below it.
func TestSPIREJWTAndIntermediates(t *testing.T) {
	t.Parallel()
	dir := spiretest.Dir(t)
	top := spiretest.StartServer(t, spiretest.ServerConfig{TrustDomain: "evidence.test"})
	topAgent := top.StartAgent(spiretest.AgentConfig{})
	nested := spiretest.StartServer(t, spiretest.ServerConfig{TrustDomain: "evidence.test", Upstream: topAgent})
	nestedAgent := nested.StartAgent(spiretest.AgentConfig{})
	program := spiretest.BuildWorkload(t, dir+"/client", "v1")
	id := top.ID("/client/sha256/" + program.Digest)
	own := thisProgram(t)
	for _, s := range []*spiretest.Server{top, nested} {
		s.CreateEntry(spiretest.Entry{SPIFFEID: id, Selectors: program.Selectors()})
		s.CreateEntry(spiretest.Entry{SPIFFEID: s.ID("/meshseal"), Selectors: own.Selectors()})
	}
	known, err := identity.NewIntermediates()
	if err != nil {
		t.Fatal(err)
	}
	above, below := openSource(t, topAgent, nil), openSource(t, nestedAgent, known)

	const audience = "spiffe://evidence.test/mesh"
	evidence, err := identity.NewJWT(identity.JWTConfig{Audience: audience, MaxAge: time.Minute, Bundles: above.JWTBundles})
	if err != nil {
		t.Fatal(err)
	}
	for name, agent := range map[string]*spiretest.Agent{"top": topAgent, "nested": nestedAgent} {
		client := spiretest.StartWorkload(t, program, agent)
		leaf := leafOf(t, client.WaitFetch(id))
		svid, err := identity.VerifySVIDWith(known, []*x509.Certificate{leaf}, above.Bundles(), time.Now())
		if err != nil {
			t.Fatalf("%s: the leaf alone: %v", name, err)
		}
		_, err = identity.VerifySVID([]*x509.Certificate{leaf}, above.Bundles(), time.Now())
		if alone := name == "top"; alone != (err == nil) || !alone && !errors.Is(err, identity.ErrChain) {
			t.Errorf("%s: the leaf alone, without what is known: %v", name, err)
		}
		token, others := client.JWT(audience).Token, client.JWT(audience+"/x").Token
		shown := identity.Presented{SVID: svid, JWT: token}
		meshtest.Eventually(t, "the key that signed it is known above", func() error {
			digest, err := evidence.Digest(shown, time.Now())
			if err == nil && digest.Hex() != program.Digest {
				t.Fatalf("%s: it says %s", name, digest)
			}
			return err
		})
		for want, try := range map[error]func() error{
			identity.ErrJWTAudience: func() error { return digestError(evidence, svid, others, time.Now()) },
			identity.ErrJWTTooOld: func() error {
				return digestError(mustJWT(t, audience, time.Nanosecond, above.JWTBundles), svid, token, time.Now().Add(2*time.Second))
			},
			identity.ErrJWTExpired: func() error { return digestError(evidence, svid, token, time.Now().Add(time.Hour)) },
			identity.ErrJWTSubject: func() error {
				mine, err := identity.VerifySVIDWith(known, ownChain(t, below), below.Bundles(), time.Now())
				if err != nil {
					return err
				}
				return digestError(evidence, mine, token, time.Now())
			},
		} {
			if err := try(); !errors.Is(err, want) {
				t.Errorf("%s: got %v, want %v", name, err, want)
			}
		}
	}
	if known.Len() == 0 {
		t.Error("nothing was learned from the own SVID below the nested server")
	}
}

func thisProgram(t *testing.T) spiretest.Program {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return spiretest.ProgramOf(t, path)
}

func openSource(t *testing.T, agent *spiretest.Agent, known *identity.Intermediates) *spire.Source {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), meshtest.Patience)
	defer cancel()
	s, err := spire.Open(ctx, spire.Config{Address: "unix://" + agent.Socket, Intermediates: known})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	meshtest.Eventually(t, "JWT bundles", func() error {
		if s.JWTBundles() == nil {
			return fmt.Errorf("none came")
		}
		return nil
	})
	return s
}

func mustJWT(t *testing.T, audience string, maxAge time.Duration, bundles func() *identity.JWTBundles) *identity.JWT {
	t.Helper()
	j, err := identity.NewJWT(identity.JWTConfig{Audience: audience, MaxAge: maxAge, Bundles: bundles})
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func digestError(e identity.Evidence, svid identity.SVID, token string, now time.Time) error {
	_, err := e.Digest(identity.Presented{SVID: svid, JWT: token}, now)
	return err
}

func leafOf(t *testing.T, svid *spiretest.SVID) *x509.Certificate {
	t.Helper()
	leaf, err := identity.PeerCertificate(firstBlock(svid.Chain))
	if err != nil {
		t.Fatal(err)
	}
	return leaf
}

// firstBlock is the first PEM block of a text.
func firstBlock(text string) string {
	const end = "-----END CERTIFICATE-----\n"
	before, _, _ := strings.Cut(text, end)
	return before + end
}

func ownChain(t *testing.T, s *spire.Source) []*x509.Certificate {
	t.Helper()
	cert, err := s.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	var chain []*x509.Certificate
	for _, der := range cert.Certificate {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		chain = append(chain, c)
	}
	return chain
}
