package extauthz_test

import (
	"strings"
	"testing"
	"time"

	"meshseal/extauthz"
	"meshseal/identity"
	"meshseal/snapshot"
)

// TestEvidenceThatASnapshotTakesCanBeDecidedBy: a signed snapshot whose settings
// of evidence no decision could be made by would be built, reviewed and signed,
// and then never come into force, with whatever else it revokes.
func TestEvidenceThatASnapshotTakesCanBeDecidedBy(t *testing.T) {
	for _, s := range []snapshot.EvidenceSettings{
		{ExtensionOID: "2.5.29.17"}, {ExtensionOID: "1.2"}, {ExtensionOID: "0.39"}, {ExtensionOID: "2.999.1"},
		{ExtensionOID: "1.3" + strings.Repeat(".1", 100)}, {ExtensionOID: "1.3" + strings.Repeat(".1", 30)},
		{ExtensionOID: "1.3.6.1.4.1." + strings.Repeat("1000000000.", 11) + "1"},
		{JWT: snapshot.JWTSettings{Header: "host", Audience: strings.Repeat("ä", 1100), MaxAge: time.Second}},
		{JWT: snapshot.JWTSettings{Header: "a", Audience: strings.Repeat("a", identity.MaxAudience), MaxAge: snapshot.MaxJWTMaxAge}},
	} {
		w := empty(t, config(func(c *extauthz.Config) { c.JWTBundles = func() *identity.JWTBundles { return nil } }))
		c := w.fixture.content
		c.Mesh.Evidence = s
		if _, err := snapshot.New(c, snapshot.Commit{Repository: "shop", Hash: strings.Repeat("a", 40), Time: w.clock.Now(), Sequence: 7}); err != nil {
			t.Logf("refused by the build: %v", err)
			continue
		}
		w.fixture.content = c
		if _, err := w.server.Prepare(w.fixture.seal(7, w.clock.Now())); err != nil {
			t.Errorf("%+v can be built and signed: %v", s, err)
		}
	}
}
