//go:build spire

package spire

import (
	"net/http"
	"testing"
	"time"

	"meshseal/integration/spire/spiretest"
)

const audience = "spiffe://" + domain + "/mesh"

// demanding has the client's requests bring a JWT-SVID, and the client's SPIFFE
// ID an entry that pins its digest.
func demanding(_ *world, files map[string]string) {
	files["meshseal.yaml"] += "evidence: {jwt_svid: {header: x-spiffe-jwt-svid, audience: " + audience + ", max_age: 5m}}\n"
	files["workloads/client.yaml"] += "evidence: [jwt-svid, spire-entry]\n"
}

// TestSPIREDemandedEvidence: what a workload demands beside the path of its
// SPIFFE ID is asked for on each request of an open connection: the token that
// SPIRE gave it, and what SPIRE's entries say now.
func TestSPIREDemandedEvidence(t *testing.T) {
	t.Parallel()
	w := newWorld(t, edited(lasting), edited(demanding), svidTTL(5*time.Minute, "client"))
	client := spiretest.StartWorkload(t, w.Programs["client"], w.Agent)
	w.startEnvoy("app", "app")
	client.WaitFetch(w.id("client"))
	shown := func(path string) spiretest.Request {
		r := w.app("kept", path)
		r.Header = http.Header{"X-Spiffe-Jwt-Svid": {client.JWT(audience).Token}}
		return r
	}
	until := func(what string, status int, reason string) {
		t.Helper()
		client.Eventually(what, func() error { return got(client.Get(shown("/items/shown")), status, reason) })
	}
	until("both agree", 200, "")
	if agreed := w.record("/items/shown").At("meshseal", "evidence_agreed"); agreed != "[jwt-svid spire-entry]" {
		t.Errorf("the record says that %s agreed", agreed)
	}
	want(t, client, w.app("kept", "/items/none"), 403, "EVIDENCE_JWT_MISSING")
	other := shown("/items/other")
	other.Header.Set("X-Spiffe-Jwt-Svid", client.JWT(audience+"/other").Token)
	want(t, client, other, 403, "EVIDENCE_JWT_AUDIENCE")

	open := w.SPIRE.CreateEntry(spiretest.Entry{SPIFFEID: w.id("client"), Selectors: []string{"unix:uid:4294967294"}})
	until("an entry that pins nothing is seen", 403, "EVIDENCE_ENTRY_UNPINNED")
	w.SPIRE.DeleteEntry(open)
	until("it is gone", 200, "")
	if err := w.SPIRE.Stop(); err != nil {
		t.Fatal(err)
	}
	until("the entries are not known", 403, "EVIDENCE_ENTRY_UNKNOWN")
	w.SPIRE.Start()
	until("the server is back", 200, "")
}
