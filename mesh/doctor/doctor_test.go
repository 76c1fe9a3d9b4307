package doctor

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/types/known/anypb"

	"meshseal/guard"
	"meshseal/mesh/bootstrap"
	"meshseal/snapshot"
)

func newTrust(t *testing.T) snapshot.Trust {
	t.Helper()
	k, err := snapshot.GenerateKey(snapshot.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	trust, err := snapshot.NewTrust([]snapshot.PublicKey{k.Public()}, 1)
	if err != nil {
		t.Fatal(err)
	}
	return trust
}

// sound is a patient in whom nothing is wrong but that its module is no module,
// which one that is built has to show: see the integration tests.
func sound(t *testing.T) (Patient, *bootstrap.Config) {
	t.Helper()
	dir := t.TempDir()
	module := filepath.Join(dir, "libmeshseal_guard.so")
	if err := os.WriteFile(module, []byte("not ELF"), 0o644); err != nil {
		t.Fatal(err)
	}
	trust := newTrust(t)
	c := &bootstrap.Config{
		Mesh:     snapshot.Mesh{Name: "shop", SDSCluster: snapshot.DefaultSDSCluster},
		Proxy:    snapshot.Proxy{Name: "web"},
		Server:   "127.0.0.1:18000",
		ServerID: spiffeid.RequireFromString("spiffe://shop.test/meshseal"),
		SDS:      "unix:///run/agent.sock",
		Admin:    "/run/envoy/admin.sock",
		Guard:    &bootstrap.Guard{File: module, Trust: trust, Record: filepath.Join(dir, "record.json")},
	}
	return Patient{Trust: trust, Envoy: &Version{1, 40, 0}}, c
}

func codes(r Report) []string {
	var all []string
	for _, f := range r.Findings {
		if f.Text == "" || f.Mend == "" {
			panic("a finding without a text")
		}
		all = append(all, f.Code)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func TestExamine(t *testing.T) {
	type edit struct {
		patient   func(*Patient)
		config    func(*bootstrap.Config)
		bootstrap func(*bootstrapv3.Bootstrap)
	}
	validators := func(b *bootstrapv3.Bootstrap) *[]*corev3.TypedExtensionConfig {
		return &b.DynamicResources.AdsConfig.ConfigValidators
	}
	file := &corev3.ConfigSource{ConfigSourceSpecifier: &corev3.ConfigSource_PathConfigSource{PathConfigSource: &corev3.PathConfigSource{Path: "/lds.yaml"}}}
	for name, c := range map[string]struct {
		edit edit
		want []string
	}{
		"as meshseal writes it": {},
		"SVIDs over a Unix socket": {edit{config: func(c *bootstrap.Config) {
			c.Server, c.ServerID = "unix:///run/meshseal/web.sock", spiffeid.ID{}
		}}, nil},
		"without a guard": {edit{config: func(c *bootstrap.Config) { c.Guard = nil }}, []string{"GUARD_MISSING"}},
		"one type unwatched": {edit{bootstrap: func(b *bootstrapv3.Bootstrap) {
			v := validators(b)
			*v = (*v)[1:]
		}}, []string{"GUARD_MISSING"}},
		"one entry with other settings": {edit{bootstrap: func(b *bootstrapv3.Bootstrap) {
			other, _ := anypb.New(file)
			v := *validators(b)
			m := v[3].TypedConfig
			v[3].TypedConfig = &anypb.Any{TypeUrl: m.TypeUrl, Value: append(slices.Clone(m.Value), field3(other)...)}
		}}, []string{"GUARD_CONFIG_DIFFERS"}},
		"state of the world": {edit{bootstrap: func(b *bootstrapv3.Bootstrap) {
			b.DynamicResources.AdsConfig.ApiType = corev3.ApiConfigSource_GRPC
		}}, []string{"ADS_NOT_DELTA"}},
		"no ADS":                {edit{bootstrap: func(b *bootstrapv3.Bootstrap) { b.DynamicResources.AdsConfig = nil }}, []string{"ADS_MISSING", "GUARD_MISSING"}},
		"listeners from a file": {edit{bootstrap: func(b *bootstrapv3.Bootstrap) { b.DynamicResources.LdsConfig = file }}, []string{"CONFIG_SOURCE"}},
		"another source":        {edit{bootstrap: func(b *bootstrapv3.Bootstrap) { b.ConfigSources = []*corev3.ConfigSource{file} }}, []string{"CONFIG_SOURCE"}},
		"xdstp listeners":       {edit{bootstrap: func(b *bootstrapv3.Bootstrap) { b.DynamicResources.LdsResourcesLocator = "xdstp://a/*" }}, []string{"CONFIG_SOURCE"}},
		"a static listener": {edit{bootstrap: func(b *bootstrapv3.Bootstrap) {
			b.StaticResources.Listeners = []*listenerv3.Listener{{Name: "by-hand"}}
		}}, []string{"STATIC_LISTENER"}},
		"a static secret": {edit{bootstrap: func(b *bootstrapv3.Bootstrap) {
			b.StaticResources.Secrets = []*tlsv3.Secret{{Name: "key"}}
		}}, []string{"STATIC_SECRET"}},
		"a static cluster": {edit{bootstrap: func(b *bootstrapv3.Bootstrap) {
			b.StaticResources.Clusters = append(b.StaticResources.Clusters, &clusterv3.Cluster{Name: "other"})
		}}, []string{"UNSEALED_CLUSTER"}},
		"runtime over RTDS": {edit{bootstrap: func(b *bootstrapv3.Bootstrap) {
			b.LayeredRuntime = &bootstrapv3.LayeredRuntime{Layers: []*bootstrapv3.RuntimeLayer{{Name: "r", LayerSpecifier: &bootstrapv3.RuntimeLayer_RtdsLayer_{}}}}
			b.LayeredRuntime.Layers[0].LayerSpecifier = &bootstrapv3.RuntimeLayer_RtdsLayer_{RtdsLayer: &bootstrapv3.RuntimeLayer_RtdsLayer{}}
		}}, []string{"RUNTIME_LAYER"}},
		"an extension of the process": {edit{bootstrap: func(b *bootstrapv3.Bootstrap) {
			b.BootstrapExtensions = []*corev3.TypedExtensionConfig{{Name: "wasm"}}
		}}, []string{"BOOTSTRAP_EXTENSION"}},
		"admin on every address": {edit{bootstrap: adminAt("0.0.0.0")}, []string{"ADMIN_EXPOSED"}},
		"admin on loopback":      {edit{bootstrap: adminAt("127.0.0.1")}, []string{"ADMIN_EXPOSED"}},
		"admin socket for all": {edit{bootstrap: func(b *bootstrapv3.Bootstrap) {
			b.Admin.Address.GetPipe().Mode = 0o666
		}}, []string{"ADMIN_EXPOSED"}},
		"no admin":       {edit{bootstrap: func(b *bootstrapv3.Bootstrap) { b.Admin = nil }}, nil},
		"no ext_authz":   {edit{bootstrap: without(snapshot.AuthzCluster)}, []string{"AUTHZ_CLUSTER"}},
		"no xDS cluster": {edit{bootstrap: without(snapshot.XDSCluster)}, []string{"XDS_CLUSTER"}},
		"ext_authz without TLS": {edit{bootstrap: func(b *bootstrapv3.Bootstrap) {
			for _, c := range b.StaticResources.Clusters {
				if c.Name == snapshot.AuthzCluster {
					c.TransportSocket = nil
				}
			}
		}}, []string{"AUTHZ_CLUSTER"}},
		"other keys":             {edit{patient: func(p *Patient) { p.Trust = newTrust(t) }}, []string{"GUARD_KEYS_DIFFER"}},
		"nothing said of keys":   {edit{patient: func(p *Patient) { p.Trust = snapshot.Trust{} }}, nil},
		"no record":              {edit{config: func(c *bootstrap.Config) { c.Guard.Record = "" }}, []string{"GUARD_RECORD_MISSING"}},
		"a record in no folder":  {edit{config: func(c *bootstrap.Config) { c.Guard.Record = "/does/not/exist/r.json" }}, []string{"GUARD_RECORD"}},
		"a record nobody wrote":  {edit{config: garbage}, []string{"GUARD_RECORD"}},
		"endpoints exempt":       {edit{config: func(c *bootstrap.Config) { c.Guard.Exempt = []snapshot.TypeURL{snapshot.EndpointType} }}, []string{"GUARD_EXEMPT"}},
		"nobody told the server": {edit{bootstrap: func(b *bootstrapv3.Bootstrap) { b.Node.Metadata = nil }}, []string{"GUARD_UNSAID"}},
		"an old Envoy":           {edit{patient: func(p *Patient) { p.Envoy = &Version{1, 39, 1} }}, []string{"ENVOY_TOO_OLD"}},
		"an Envoy with holes":    {edit{patient: func(p *Patient) { p.Envoy = &Version{1, 38, 3} }}, []string{"ENVOY_EXT_AUTHZ_HOLE", "ENVOY_TOO_OLD"}},
		"a newer Envoy":          {edit{patient: func(p *Patient) { p.Envoy = &Version{1, 41, 0} }}, []string{"ENVOY_UNKNOWN"}},
		"no Envoy": {edit{patient: func(p *Patient) { p.Envoy, p.EnvoyErr = nil, errors.New("there is no Envoy in PATH") }},
			[]string{"ENVOY_UNKNOWN"}},
	} {
		t.Run(name, func(t *testing.T) {
			p, config := sound(t)
			if c.edit.config != nil {
				c.edit.config(config)
			}
			var err error
			if p.Bootstrap, err = bootstrap.New(*config); err != nil {
				t.Fatal(err)
			}
			if c.edit.bootstrap != nil {
				c.edit.bootstrap(p.Bootstrap)
			}
			if c.edit.patient != nil {
				c.edit.patient(&p)
			}
			want := c.want
			if !slices.Contains(want, "GUARD_MISSING") || name == "one type unwatched" {
				want = append(slices.Clone(want), "GUARD_MODULE")
				slices.Sort(want)
			}
			if got := codes(Examine(p)); !slices.Equal(got, want) {
				t.Errorf("findings %v, want %v", got, want)
			}
		})
	}
}

// field3 is a message as the encoding of field 3, extension_config.
func field3(a *anypb.Any) []byte {
	v := append([]byte{0x0a, byte(len(a.TypeUrl))}, a.TypeUrl...)
	return append([]byte{0x1a, byte(len(v))}, v...)
}

func adminAt(address string) func(*bootstrapv3.Bootstrap) {
	return func(b *bootstrapv3.Bootstrap) {
		b.Admin.Address = &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{Address: address, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: 9901}}}}
	}
}

func without(cluster string) func(*bootstrapv3.Bootstrap) {
	return func(b *bootstrapv3.Bootstrap) {
		b.StaticResources.Clusters = slices.DeleteFunc(b.StaticResources.Clusters, func(c *clusterv3.Cluster) bool { return c.Name == cluster })
	}
}

func garbage(c *bootstrap.Config) {
	if err := os.WriteFile(c.Guard.Record, []byte("{}"), 0o600); err != nil {
		panic(err)
	}
}

func TestWorst(t *testing.T) {
	for want, findings := range map[Level][]Finding{
		"":      nil,
		Weak:    {{Level: Weak}},
		Unknown: {{Level: Weak}, {Level: Unknown}},
		Broken:  {{Level: Unknown}, {Level: Weak}, {Level: Broken}},
	} {
		if got := (Report{Findings: findings}).Worst(); got != want {
			t.Errorf("%v: %q, want %q", findings, got, want)
		}
	}
}

func TestParseVersion(t *testing.T) {
	v, err := parseVersion("\nenvoy  version: 8f5a8b1f0c/1.40.0/Clean/RELEASE/BoringSSL\n\n")
	if err != nil || v != (Version{1, 40, 0}) {
		t.Errorf("%v, %v", v, err)
	}
	for _, text := range []string{"", "1.40.0", "version: 8f5a8b1f0c/1.41.0-dev/Clean/RELEASE/BoringSSL", "version: zz/1.40.0/Clean"} {
		if v, err := parseVersion(text); err == nil {
			t.Errorf("%q is read as %s", text, v)
		}
	}
}

// A line that nobody mends any more has every hole that was found later.
func TestHoles(t *testing.T) {
	q3, older := holes[0], holes[len(holes)-1]
	for v, open := range map[Version][2]bool{
		{1, 40, 0}: {false, false}, {1, 39, 1}: {false, false}, {1, 39, 0}: {true, false}, {1, 36, 10}: {false, false},
		{1, 36, 9}: {true, false}, {1, 35, 20}: {true, false}, {1, 19, 0}: {true, true}, {1, 15, 0}: {true, true}, {2, 0, 0}: {false, false},
	} {
		if got := [2]bool{q3.open(v), older.open(v)}; got != open {
			t.Errorf("%s: %v, want %v", v, got, open)
		}
	}
}

// Every rule has a text and something to do, and the guard's own ABI is the one
// of the newest Envoy that is known.
func TestTable(t *testing.T) {
	var seen []string
	for _, r := range Table() {
		if r.Title == "" || r.Mend == "" || rank(r.Level) < 0 {
			t.Errorf("%s is not complete", r.Code)
		}
		seen = append(seen, r.Code)
	}
	if !slices.IsSorted(seen) || len(slices.Compact(seen)) != len(Table()) {
		t.Errorf("not sorted, or one twice: %v", seen)
	}
	if got := abis[[2]int{newestKnown.Major, newestKnown.Minor}]; got != guard.ABIVersion {
		t.Errorf("the guard is built for %s, Envoy %s has %s", guard.ABIVersion, newestKnown, got)
	}
}
