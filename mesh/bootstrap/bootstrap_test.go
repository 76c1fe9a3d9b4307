package bootstrap_test

import (
	"slices"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"meshseal/mesh/bootstrap"
	"meshseal/snapshot"
)

func config() bootstrap.Config {
	return bootstrap.Config{
		Mesh:     snapshot.Mesh{Name: "shop", SDSCluster: snapshot.DefaultSDSCluster},
		Proxy:    snapshot.Proxy{Name: "web"},
		Server:   "127.0.0.1:18000",
		ServerID: spiffeid.RequireFromString("spiffe://shop.test/meshseal"),
		SDS:      "unix:///run/agent.sock",
		Admin:    "/run/envoy/admin.sock",
	}
}

// What has to hold of every bootstrap, whatever the addresses.
func TestNew(t *testing.T) {
	for name, edit := range map[string]func(*bootstrap.Config){
		"TCP":                      func(*bootstrap.Config) {},
		"a name instead of an IP":  func(c *bootstrap.Config) { c.Server = "meshseal.internal:18000" },
		"Unix socket":              func(c *bootstrap.Config) { c.Server, c.ServerID = "unix:///run/web.sock", spiffeid.ID{} },
		"TLS on a Unix socket":     func(c *bootstrap.Config) { c.Server = "unix:///run/tls.sock" },
		"authz apart from the xDS": func(c *bootstrap.Config) { c.Authz = "[::1]:18001" },
		"a server's digest":        func(c *bootstrap.Config) { c.ServerID = withDigest },
	} {
		t.Run(name, func(t *testing.T) {
			c := config()
			edit(&c)
			b, err := bootstrap.New(c)
			if err != nil {
				t.Fatal(err)
			}
			if got := b.GetDynamicResources().GetAdsConfig().GetApiType(); got != corev3.ApiConfigSource_DELTA_GRPC {
				t.Errorf("ADS is %v, want delta", got)
			}
			if p := b.GetAdmin().GetAddress().GetPipe(); p.GetPath() != c.Admin || p.GetMode() != 0o600 {
				t.Errorf("admin on %v, want the Unix socket %s with mode 0600", b.GetAdmin().GetAddress(), c.Admin)
			}
			if b.GetOverloadManager().GetResourceMonitors() == nil {
				t.Error("no bound on downstream connections")
			}
			var names []string
			for _, cl := range b.GetStaticResources().GetClusters() {
				names = append(names, cl.GetName())
				sdsOnly := cl.GetName() == snapshot.DefaultSDSCluster
				if wantTLS := !sdsOnly && !c.ServerID.IsZero(); (cl.GetTransportSocket() != nil) != wantTLS {
					t.Errorf("cluster %s: TLS is %v, want %v", cl.GetName(), !wantTLS, wantTLS)
				} else if wantTLS {
					demandsServer(t, cl.GetTransportSocket(), c.ServerID)
				}
			}
			want := []string{snapshot.XDSCluster, snapshot.AuthzCluster, snapshot.DefaultSDSCluster}
			if strings.Join(names, " ") != strings.Join(want, " ") {
				t.Errorf("clusters %v, want %v", names, want)
			}
			if y, err := bootstrap.YAML(b); err != nil || !strings.Contains(string(y), "api_type: DELTA_GRPC") {
				t.Errorf("YAML: %v\n%s", err, y)
			}
		})
	}
}

// demandsServer checks that nobody but the server may answer: by its base ID
// with any digest or none, and by an ID with a digest with that one alone.
func demandsServer(t *testing.T, socket *corev3.TransportSocket, id spiffeid.ID) {
	t.Helper()
	tls := &tlsv3.UpstreamTlsContext{}
	if err := socket.GetTypedConfig().UnmarshalTo(tls); err != nil {
		t.Fatal(err)
	}
	if p := tls.GetCommonTlsContext().GetTlsParams(); p.GetTlsMinimumProtocolVersion() > p.GetTlsMaximumProtocolVersion() {
		t.Errorf("no TLS version lies between %v and %v", p.GetTlsMinimumProtocolVersion(), p.GetTlsMaximumProtocolVersion())
	}
	var got []string
	for _, n := range tls.GetCommonTlsContext().GetCombinedValidationContext().GetDefaultValidationContext().GetMatchTypedSubjectAltNames() {
		if n.GetSanType() != tlsv3.SubjectAltNameMatcher_URI || n.GetMatcher().GetIgnoreCase() {
			t.Errorf("the server's certificate is matched by %v", n)
		}
		if exact := n.GetMatcher().GetExact(); exact != "" {
			got = append(got, "exactly "+exact)
		} else {
			got = append(got, "from "+n.GetMatcher().GetPrefix())
		}
	}
	want := []string{"exactly " + id.String(), "from " + id.String() + "/sha256/"}
	if id == withDigest {
		want = want[:1]
	}
	if !slices.Equal(got, want) {
		t.Errorf("the server's certificate is matched by %q, want %q", got, want)
	}
}

var withDigest = spiffeid.RequireFromString("spiffe://shop.test/meshseal/sha256/" + strings.Repeat("ab", 32))

func TestNewRefuses(t *testing.T) {
	for name, edit := range map[string]func(*bootstrap.Config){
		"TCP without the server's ID": func(c *bootstrap.Config) { c.ServerID = spiffeid.ID{} },
		"a trust domain as server":    func(c *bootstrap.Config) { c.ServerID = spiffeid.RequireFromString("spiffe://shop.test") },
		"a digest that is cut off": func(c *bootstrap.Config) {
			c.ServerID = spiffeid.RequireFromString("spiffe://shop.test/meshseal/sha256/abab")
		},
		"a digest in upper case": func(c *bootstrap.Config) {
			c.ServerID = spiffeid.RequireFromString("spiffe://shop.test/a/sha256/" + strings.Repeat("AB", 32))
		},
		"authz on TCP without an ID":  func(c *bootstrap.Config) { c.Server, c.Authz, c.ServerID = "unix:///a", "127.0.0.1:1", spiffeid.ID{} },
		"no server":                   func(c *bootstrap.Config) { c.Server = "" },
		"port zero":                   func(c *bootstrap.Config) { c.Server = "127.0.0.1:0" },
		"no port":                     func(c *bootstrap.Config) { c.Server = "127.0.0.1" },
		"relative socket":             func(c *bootstrap.Config) { c.Server = "unix://run/a.sock" },
		"SDS over TCP":                func(c *bootstrap.Config) { c.SDS = "127.0.0.1:8081" },
		"no admin socket":             func(c *bootstrap.Config) { c.Admin = "" },
		"a negative connection limit": func(c *bootstrap.Config) { c.MaxConnections = -1 },
	} {
		t.Run(name, func(t *testing.T) {
			c := config()
			edit(&c)
			if b, err := bootstrap.New(c); err == nil {
				t.Errorf("accepted: %v", b)
			}
		})
	}
}
