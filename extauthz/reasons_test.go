package extauthz_test

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"

	"meshseal/extauthz"
	"meshseal/identity"
	"meshseal/identity/identitytest"
	"meshseal/snapshot"
)

// reason is the reason that an answer gives, after checking that the answer is
// a whole one: an allow says nothing else, a denial is one for every Envoy.
func reason(t testing.TB, a *authv3.CheckResponse) extauthz.Reason {
	t.Helper()
	if a.GetStatus() == nil {
		t.Fatal("an answer without a status allows")
	}
	if a.GetStatus().GetCode() == int32(codes.OK) {
		if a.GetOkResponse() == nil {
			t.Fatalf("status OK without an OkHttpResponse: %v", a)
		}
		return extauthz.OK
	}
	d := a.GetDeniedResponse()
	switch {
	case a.GetStatus().GetCode() != int32(codes.PermissionDenied):
		t.Fatalf("status %v, wanted PERMISSION_DENIED", a.GetStatus())
	case d == nil || d.GetStatus().GetCode() < 300:
		t.Fatalf("a denial without a DeniedHttpResponse of its own status: %v", a)
	}
	got := extauthz.Reason(header(d.GetHeaders(), extauthz.HeaderReason))
	if string(got) != a.GetStatus().GetMessage() {
		t.Fatalf("header %q says %q, the status %q", extauthz.HeaderReason, got, a.GetStatus().GetMessage())
	}
	return got
}

func header(list []*corev3.HeaderValueOption, name string) string {
	var values []string
	for _, h := range list {
		if h.GetHeader().GetKey() == name {
			values = append(values, h.GetHeader().GetValue())
		}
	}
	return strings.Join(values, " and ")
}

// withPeer asks the honest question with another client certificate.
func withPeer(make func(w *world) string) func(t *testing.T) (*world, *question) {
	return func(t *testing.T) (*world, *question) {
		w := newWorld(t)
		return w, w.honest().with(make(w))
	}
}

const webID = "spiffe://shop.test/web"

func svidOf(opts ...identitytest.Option) func(w *world) string {
	return func(w *world) string { return identitytest.Envoy(w.svid(webID, image("web-1"), opts...)) }
}

// varied asks a variation of the honest question in an unvaried world.
func varied(vary func(w *world, q *question)) func(t *testing.T) (*world, *question) {
	return func(t *testing.T) (*world, *question) {
		w := newWorld(t)
		q := w.honest()
		vary(w, q)
		return w, q
	}
}

// ruled asks the honest question under another policy.
func ruled(rego string, opts ...option) func(t *testing.T) (*world, *question) {
	return func(t *testing.T) (*world, *question) {
		w := newWorld(t, append(opts, policy(rego))...)
		return w, w.honest()
	}
}

// demanded asks in a world in which web demands evidence.
func demanded(kinds []identity.EvidenceKind, ask func(*evidenced) *question) func(t *testing.T) (*world, *question) {
	return func(t *testing.T) (*world, *question) {
		e := demanding(t, kinds)
		return e.world, ask(e)
	}
}

func extended(digest string) func(*evidenced) *question {
	return func(e *evidenced) *question {
		return e.honest().with(identitytest.Envoy(e.svid(webID, image("web-1"), extension(digest))))
	}
}

func claiming(change func(*evidenced, map[string]any)) func(*evidenced) *question {
	return func(e *evidenced) *question {
		claims := e.claims()
		change(e, claims)
		return e.showing(e.shopJWT.sign(claims))
	}
}

func unsure(err error) func(*evidenced) *question {
	return func(e *evidenced) *question {
		e.entries.err = err
		return e.honest()
	}
}

// produced has, for each reason, a question that is answered with it.
var produced = map[extauthz.Reason]func(t *testing.T) (*world, *question){
	extauthz.OK: varied(func(*world, *question) {}),

	extauthz.Overloaded: func(t *testing.T) (*world, *question) {
		w, _ := full(t, 1)
		return w, w.honest().asking(shedFor{w.orders, w})
	},

	extauthz.RequestMalformed: varied(func(_ *world, q *question) { q.req.Attributes = nil }),

	extauthz.SnapshotMissing: func(t *testing.T) (*world, *question) {
		w := empty(t)
		return w, w.honest()
	},
	extauthz.SnapshotExpired: varied(func(w *world, _ *question) { w.clock.advance(30 * time.Minute) }),

	extauthz.ProxyUnauthenticated: varied(func(w *world, q *question) {
		q.by = w.dial(w.serve("open.sock", insecure.NewCredentials()), insecure.NewCredentials())
	}),
	extauthz.ProxySVIDInvalid: varied(func(w *world, q *question) {
		w.ask(q) // the connection is open and good, then the trust bundle is replaced
		w.bundles.Store(identitytest.Bundles(w.t, w.stranger))
	}),
	extauthz.ProxySVIDExpired: varied(func(w *world, q *question) {
		q.by = w.as(w.svid("spiffe://shop.test/ns/shop/orders", image("orders-1"), identitytest.WithTimes(w.clock.Now().Add(-time.Minute), w.clock.Now().Add(time.Minute))))
		w.ask(q)
		w.clock.advance(time.Minute + time.Second)
	}),
	extauthz.ProxyUnknown: varied(func(w *world, q *question) { q.by = w.as(w.svid("spiffe://shop.test/nobody", image("orders-1"))) }),

	extauthz.PeerCertificateMissing:   withPeer(func(*world) string { return "" }),
	extauthz.PeerCertificateMalformed: withPeer(func(w *world) string { return w.webCertificate[:len(w.webCertificate)/2] }),
	extauthz.PeerURISAN:               withPeer(svidOf(identitytest.WithURIs())),
	extauthz.PeerID:                   withPeer(svidOf(identitytest.WithURIs("spiffe://shop.test"))),
	extauthz.PeerLeafIsCA:             withPeer(svidOf(identitytest.WithCA(true))),
	extauthz.PeerKeyUsage:             withPeer(svidOf(identitytest.WithKeyUsage(x509.KeyUsageKeyEncipherment))),
	extauthz.PeerTrustDomain: withPeer(func(w *world) string {
		return identitytest.Envoy(identitytest.NewCA(w.t, "other.test").SVID(w.t, "spiffe://other.test/web/sha256/"+image("web-1").Hex()))
	}),
	extauthz.PeerChain: withPeer(func(w *world) string {
		return identitytest.Envoy(w.stranger.SVID(w.t, webID+"/sha256/"+image("web-1").Hex()))
	}),
	extauthz.PeerExpired: withPeer(func(w *world) string {
		return svidOf(identitytest.WithTimes(w.clock.Now().Add(-time.Hour), w.clock.Now().Add(-time.Second)))(w)
	}),
	extauthz.PeerNotYetValid: withPeer(func(w *world) string {
		return svidOf(identitytest.WithTimes(w.clock.Now().Add(time.Minute), w.clock.Now().Add(time.Hour)))(w)
	}),

	extauthz.EvidenceMissing:   withPeer(func(w *world) string { return identitytest.Envoy(w.shop.SVID(w.t, webID)) }),
	extauthz.EvidenceMalformed: withPeer(func(w *world) string { return identitytest.Envoy(w.shop.SVID(w.t, webID+"/sha256/ab")) }),

	extauthz.ProxyDigestMissing: func(t *testing.T) (*world, *question) {
		w := newWorld(t, content(pinned(snapshot.ImageSet{image("orders-1")})))
		return w, w.honest().asking(w.as(w.shop.SVID(t, ordersID)))
	},
	extauthz.ProxyDigestNotAllowed: func(t *testing.T) (*world, *question) {
		w := newWorld(t, content(pinned(snapshot.ImageSet{image("envoy-1")})))
		return w, w.honest()
	},

	extauthz.EvidenceUnprovenEnded: func(t *testing.T) (*world, *question) {
		w := newWorld(t, content(unproven(untilIn(time.Minute))))
		w.clock.advance(2 * time.Minute)
		return w, w.honest().with(identitytest.Envoy(w.shop.SVID(t, webID)))
	},
	extauthz.EvidenceExtensionMissing:   demanded(demandExtension, (*evidenced).honest),
	extauthz.EvidenceExtensionMalformed: demanded(demandExtension, extended("latest")),
	extauthz.EvidenceDisagrees:          demanded(demandExtension, extended(image("web-2").String())),
	extauthz.EvidenceJWTMissing:         demanded(demandJWT, (*evidenced).honest),
	extauthz.EvidenceJWTInvalid:         demanded(demandJWT, func(e *evidenced) *question { return e.showing("token") }),
	extauthz.EvidenceJWTExpired:         demanded(demandJWT, claiming(func(e *evidenced, c map[string]any) { c["exp"] = e.clock.Now().Unix() })),
	extauthz.EvidenceJWTNotYetValid:     demanded(demandJWT, claiming(func(e *evidenced, c map[string]any) { c["nbf"] = e.clock.Now().Add(time.Second).Unix() })),
	extauthz.EvidenceJWTAudience:        demanded(demandJWT, claiming(func(_ *evidenced, c map[string]any) { c["aud"] = "other" })),
	extauthz.EvidenceJWTTooOld:          demanded(demandJWT, claiming(func(e *evidenced, c map[string]any) { c["iat"] = e.clock.Now().Add(-time.Hour).Unix() })),
	extauthz.EvidenceJWTSubject:         demanded(demandJWT, claiming(func(_ *evidenced, c map[string]any) { c["sub"] = webID })),
	extauthz.EvidenceEntryMissing:       demanded(demandEntry, unsure(identity.ErrEntryMissing)),
	extauthz.EvidenceEntryUnpinned:      demanded(demandEntry, unsure(identity.ErrEntryUnpinned)),
	extauthz.EvidenceEntryUnknown:       demanded(demandEntry, unsure(identity.ErrEntryUnknown)),

	extauthz.WorkloadUnknown:  withPeer(func(w *world) string { return identitytest.Envoy(w.svid("spiffe://shop.test/nobody", image("web-1"))) }),
	extauthz.DigestNotAllowed: withPeer(func(w *world) string { return identitytest.Envoy(w.svid(webID, image("web-2"))) }),
	extauthz.DigestRevoked: func(t *testing.T) (*world, *question) {
		w := newWorld(t, content(func(c *snapshot.Content) { c.Workloads[2].Revoked = []identity.Digest{image("web-1")} }))
		return w, w.honest()
	},

	extauthz.ListenerUnmarked: varied(func(_ *world, q *question) { q.without(snapshot.HeaderListenerMark) }),
	extauthz.ListenerUnknown: varied(func(w *world, q *question) {
		q.set(snapshot.HeaderListenerMark, w.fixture.marks["web/listener/web-out"])
	}),
	extauthz.AddressMissing:     varied(func(_ *world, q *question) { q.without(snapshot.HeaderLocalAddress) }),
	extauthz.AddressMismatch:    varied(func(_ *world, q *question) { q.set(snapshot.HeaderLocalAddress, "10.0.0.2:8443") }),
	extauthz.ChainMissing:       varied(func(_ *world, q *question) { q.without(snapshot.HeaderChain) }),
	extauthz.ChainUnknown:       varied(func(_ *world, q *question) { q.set(snapshot.HeaderChain, "added") }),
	extauthz.ChainKindMismatch:  varied(func(_ *world, q *question) { q.set(snapshot.HeaderChain, "tcp") }),
	extauthz.RouteUnmarked:      varied(func(_ *world, q *question) { q.without(snapshot.HeaderRouteMark) }),
	extauthz.RouteUnknown:       varied(func(_ *world, q *question) { q.set(snapshot.HeaderRouteMark, strings.Repeat("a", snapshot.MarkLength)) }),
	extauthz.RouteNameMismatch:  varied(func(_ *world, q *question) { q.set(snapshot.HeaderRoute, "split") }),
	extauthz.RouteTableMismatch: varied(func(_ *world, q *question) { q.set(snapshot.HeaderChain, "rest") }),
	extauthz.RouteUnexpected: func(t *testing.T) (*world, *question) {
		w := newWorld(t)
		return w, w.tcp().set(snapshot.HeaderRoute, "api")
	},
	extauthz.RouteNotMatched: varied(func(_ *world, q *question) { q.path("/admin") }),
	extauthz.RouteUnmatchable: func(t *testing.T) (*world, *question) {
		some := forward("api", "app")
		some.Match = prefix("/api")
		some.Match.DynamicMetadata = []*matcherv3.MetadataMatcher{{Filter: "x"}}
		w := matching(t, some)
		return w, w.honest()
	},
	extauthz.ClusterMissing:  varied(func(_ *world, q *question) { q.without(snapshot.HeaderCluster) }),
	extauthz.ClusterUnmarked: varied(func(_ *world, q *question) { q.without(snapshot.HeaderClusterMark) }),
	extauthz.ClusterUnknown:  varied(func(w *world, q *question) { q.set(snapshot.HeaderClusterMark, w.fixture.marks["web/cluster/orders"]) }),
	extauthz.ClusterMismatch: varied(func(_ *world, q *question) { q.set(snapshot.HeaderCluster, "inventory") }),
	extauthz.ClusterMarkMismatch: varied(func(w *world, q *question) {
		q.set(snapshot.HeaderClusterMark, w.fixture.marks["orders/cluster/inventory"])
	}),
	extauthz.ClusterUnexpected: varied(func(w *world, q *question) {
		q.set(snapshot.HeaderRoute, "moved", snapshot.HeaderRouteMark, w.fixture.marks["orders/route/in/moved"])
	}),

	extauthz.PolicyDenied:    ruled("allow := false"),
	extauthz.PolicyUndefined: ruled(`allow if input.meshseal.workload == "nobody"`),
	extauthz.PolicyResult:    ruled(`allow := "false"`),
	extauthz.PolicyError:     ruled(`allow if not to_number(input.meshseal.workload) == 1`),
	extauthz.PolicyTimeout: ruled(`allow if count([x | some i, j in numbers.range(1, 100000); some k in numbers.range(1, 100000); x := (i * j) + k]) == 1`,
		config(func(c *extauthz.Config) { c.Deadline = 30 * time.Millisecond })),

	extauthz.RecordFailed: varied(func(w *world, _ *question) { w.records.fail = errDiskFull }),
	extauthz.Internal: func(t *testing.T) (*world, *question) {
		w := newWorld(t)
		broken, err := extauthz.New(extauthz.Config{
			Bundles: func() *identity.TrustBundles { panic("a fault of our own") }, Now: w.clock.Now, Records: w.records,
		})
		if err != nil {
			t.Fatal(err)
		}
		w.server = broken
		w.adopt(w.fixture, 7)
		return w, w.honest().asking(w.over("orders"))
	},
}

// TestReasons holds that every reason of the table is produced by a question
// that stands for it, that the record says the same, and that nothing but the
// reason and the decision's id goes to the one who asked.
func TestReasons(t *testing.T) {
	for _, info := range extauthz.Reasons() {
		t.Run(string(info.Reason), func(t *testing.T) {
			make, ok := produced[info.Reason]
			if !ok {
				t.Fatal("no question is answered with this reason")
			}
			w, q := make(t)
			before := w.records.count()
			answer := w.ask(q)
			if got := reason(t, answer); got != info.Reason {
				t.Fatalf("answered %s, wanted %s: %+v", got, info.Reason, w.records.last(t).Meshseal)
			}
			if info.Reason == extauthz.RecordFailed {
				return
			}
			if n := w.records.count() - before; n != 1 {
				t.Fatalf("%d records, wanted one", n)
			}
			r := w.records.last(t)
			if r.Meshseal.Reason != info.Reason || r.Meshseal.Step != info.Step {
				t.Errorf("the record says %s at step %s, wanted %s at %s", r.Meshseal.Reason, r.Meshseal.Step, info.Reason, info.Step)
			}
			if info.Reason == extauthz.OK {
				return
			}
			d := answer.GetDeniedResponse()
			if want := string(info.Reason) + " " + r.DecisionID + "\n"; d.GetBody() != want {
				t.Errorf("body %q, wanted %q", d.GetBody(), want)
			}
			if d.GetStatus().GetCode() != 403 || len(d.GetHeaders()) != 2 ||
				len(answer.GetDynamicMetadata().GetFields()) != 1 || answer.GetDynamicMetadata().GetFields()["decision_id"].GetStringValue() != r.DecisionID {
				t.Errorf("more than reason and id in the answer: %v", answer)
			}
		})
	}
}

// TestReasonsDocumented holds docs/reasons.md equal to the table.
func TestReasonsDocumented(t *testing.T) {
	var want strings.Builder
	want.WriteString("| reason | step | meaning | what to do |\n|---|---|---|---|\n")
	seen := map[extauthz.Reason]bool{}
	for _, r := range extauthz.Reasons() {
		if seen[r.Reason] {
			t.Errorf("%s stands in the table twice", r.Reason)
		}
		seen[r.Reason] = true
		want.WriteString("| `" + string(r.Reason) + "` | " + string(r.Step) + " | " + r.Meaning + " | " + r.Mend + " |\n")
	}
	for r := range produced {
		if !seen[r] {
			t.Errorf("%s is produced but not in the table", r)
		}
	}
	doc, err := os.ReadFile(filepath.Join("..", "docs", "reasons.md"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(doc), want.String()) {
		t.Errorf("docs/reasons.md does not have the table of reasons; it is:\n%s", want.String())
	}
}

// TestReasonsAreAll holds that each constant of the source stands in the table.
func TestReasonsAreAll(t *testing.T) {
	source, err := os.ReadFile("reasons.go")
	if err != nil {
		t.Fatal(err)
	}
	table := map[string]bool{}
	for _, r := range extauthz.Reasons() {
		table[string(r.Reason)] = true
	}
	n := 0
	for line := range strings.Lines(string(source)) {
		if _, value, ok := strings.Cut(line, " Reason = \""); ok {
			n++
			if code := strings.TrimSuffix(strings.TrimSpace(value), "\""); !table[code] {
				t.Errorf("%s is a constant but not in the table", code)
			}
		}
	}
	if n != len(table) {
		t.Errorf("%d constants, %d rows in the table", n, len(table))
	}
}
