package snapshot

import (
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"

	"meshseal/identity"
)

// now is the time of the tests: a value, so that nothing expires.
var now = time.Date(2031, 5, 4, 3, 2, 1, 0, time.UTC)

var testCommit = Commit{
	Repository: "shop",
	Hash:       "0123456789abcdef0123456789abcdef01234567",
	Time:       now.Add(-time.Hour),
	Sequence:   7,
}

func image(name string) Digest { return identity.SumDigest([]byte(name)) }

func id(path string) spiffeid.ID { return spiffeid.RequireFromString("spiffe://shop.test" + path) }

// put adds a resource to c and returns the entry for it.
func put(t testing.TB, c *Content, url TypeURL, name string, m proto.Message) Entry {
	t.Helper()
	data, err := Canonical(m)
	if err != nil {
		t.Fatal(err)
	}
	hash := identity.SumDigest(data)
	if c.Resources == nil {
		c.Resources = map[Digest][]byte{}
	}
	c.Resources[hash] = data
	return Entry{Type: url, Name: name, Hash: hash}
}

// shop is the content of a small mesh with one of everything.
func shop(t testing.TB) Content {
	t.Helper()
	c := Content{
		Mesh: Mesh{
			Format: FormatV1, Name: "shop",
			TrustDomains:      []spiffeid.TrustDomain{spiffeid.RequireTrustDomainFromString("shop.test")},
			StatementLifetime: DefaultStatementLifetime, Grace: DefaultGrace,
			PolicyPath: DefaultPolicyPath, SDSCluster: DefaultSDSCluster,
		},
		Workloads: []Workload{
			{Name: "orders", ID: id("/orders"), Allowed: []ImageSet{{image("orders"), image("envoy")}}},
			{Name: "web", ID: id("/web"), Allowed: []ImageSet{{image("web-1")}, {image("web-2")}}, Revoked: []Digest{image("web-0")}},
		},
		Policies: []File{
			{Path: "policies/allow.rego", Data: []byte("package envoy.authz\n\ndefault allow := false\n")},
			{Path: "policies/data.json", Data: []byte("{}\n")},
		},
		Waivers: []Waiver{{Rule: "OPEN_LISTENER", Proxy: "web", Resource: "health", Reason: "probes", Until: now.Add(24 * time.Hour)}},
	}
	shared := put(t, &c, ClusterType, "orders", &clusterv3.Cluster{Name: "orders"})
	c.Proxies = []Proxy{
		{Name: "orders", ID: id("/orders"), Workload: "orders", Entries: []Entry{
			shared,
			put(t, &c, ListenerType, "in", &listenerv3.Listener{Name: "in"}),
		}},
		{Name: "web", ID: id("/web"), Workload: "web", Entries: []Entry{
			shared,
			put(t, &c, ListenerType, "out", &listenerv3.Listener{Name: "out"}),
			put(t, &c, RouteType, "out", &routev3.RouteConfiguration{Name: "out"}),
		}},
	}
	return c
}

func build(t testing.TB, c Content, at Commit) *Draft {
	t.Helper()
	d, err := New(c, at)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func newKey(t testing.TB, a Algorithm) *PrivateKey {
	t.Helper()
	k, err := GenerateKey(a)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// trust trusts the keys of signers.
func trust(t testing.TB, threshold int, signers ...Signer) Trust {
	t.Helper()
	var keys []PublicKey
	for _, s := range signers {
		keys = append(keys, s.Public())
	}
	tr, err := NewTrust(keys, threshold)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// signed signs d with every signer, at now.
func signed(t testing.TB, d *Draft, signers ...Signer) *Draft {
	t.Helper()
	for _, s := range signers {
		var err error
		if d, err = d.Sign(s, SignOptions{Now: now}); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

func wantCode(t testing.TB, err error, code string) {
	t.Helper()
	if Code(err) != code {
		t.Fatalf("got %q (%v), want %q", Code(err), err, code)
	}
}
