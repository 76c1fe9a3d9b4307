package bootstrap_test

import (
	"slices"
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	validatorsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/config/validators/dynamic_modules/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"meshseal/guard"
	"meshseal/guard/guardtest"
	"meshseal/mesh/bootstrap"
	"meshseal/snapshot"
)

func guarded(t *testing.T) bootstrap.Config {
	t.Helper()
	c := config()
	c.Guard = &bootstrap.Guard{File: "/usr/lib/libmeshseal_guard.so", Trust: guardtest.Trust(t, 1, guardtest.Key(t)), Record: "/var/lib/envoy/record.json"}
	return c
}

// TestGuard: every type has one validator, all of them the same, and each reads
// as the guard's configuration.
func TestGuard(t *testing.T) {
	c := guarded(t)
	b, err := bootstrap.New(c)
	if err != nil {
		t.Fatal(err)
	}
	var types []snapshot.TypeURL
	for _, v := range validators(t, b) {
		if len(v.TypeUrls) != 1 {
			t.Fatalf("a validator of %v", v.TypeUrls)
		}
		types = append(types, snapshot.TypeURL(v.TypeUrls[0]))
		if m := v.GetDynamicModuleConfig(); m.GetModule().GetLocal().GetFilename() != c.Guard.File || !m.GetDoNotClose() {
			t.Errorf("%s: the module is %v", v.TypeUrls[0], m)
		}
		text := &wrapperspb.StringValue{}
		if err := v.GetExtensionConfig().UnmarshalTo(text); err != nil {
			t.Fatal(err)
		}
		got, err := guard.ParseConfig([]byte(text.GetValue()))
		if err != nil {
			t.Fatal(err)
		}
		if got.Mesh != "shop" || got.Proxy != "web" || !got.Trust.Equal(c.Guard.Trust) || got.Record != c.Guard.Record || len(got.Exempt) != 0 {
			t.Errorf("%s: configured as %+v", v.TypeUrls[0], got)
		}
	}
	if !slices.Equal(types, guard.TypeURLs()) {
		t.Errorf("validators of %v, want %v", types, guard.TypeURLs())
	}
	if said := b.GetNode().GetMetadata().GetFields()["meshseal"].GetStructValue().GetFields()["guard"].GetStringValue(); said != "v1" {
		t.Errorf("the node says that its guard is %q", said)
	}
}

// TestWithoutGuard: what is not there is not claimed either.
func TestWithoutGuard(t *testing.T) {
	b, err := bootstrap.New(config())
	if err != nil {
		t.Fatal(err)
	}
	if n := len(validators(t, b)); n != 0 || b.GetNode().GetMetadata() != nil {
		t.Errorf("%d validators, metadata %v", n, b.GetNode().GetMetadata())
	}
}

func validators(t *testing.T, b *bootstrapv3.Bootstrap) []*validatorsv3.DynamicModuleConfigValidator {
	t.Helper()
	var all []*validatorsv3.DynamicModuleConfigValidator
	for _, c := range b.GetDynamicResources().GetAdsConfig().GetConfigValidators() {
		v := &validatorsv3.DynamicModuleConfigValidator{}
		if err := c.GetTypedConfig().UnmarshalTo(v); err != nil {
			t.Fatal(err)
		}
		all = append(all, v)
	}
	return all
}

func TestGuardRefused(t *testing.T) {
	for name, edit := range map[string]func(*bootstrap.Guard){
		"no file":           func(g *bootstrap.Guard) { g.File = "" },
		"a relative file":   func(g *bootstrap.Guard) { g.File = "bin/libmeshseal_guard.so" },
		"nobody is trusted": func(g *bootstrap.Guard) { g.Trust = snapshot.Trust{} },
		"a relative record": func(g *bootstrap.Guard) { g.Record = "record.json" },
		"clusters exempt":   func(g *bootstrap.Guard) { g.Exempt = []snapshot.TypeURL{snapshot.ClusterType} },
		"an unknown exempt": func(g *bootstrap.Guard) { g.Exempt = []snapshot.TypeURL{"endpoints"} },
		"an empty exempt":   func(g *bootstrap.Guard) { g.Exempt = []snapshot.TypeURL{""} },
	} {
		t.Run(name, func(t *testing.T) {
			c := guarded(t)
			edit(c.Guard)
			if b, err := bootstrap.New(c); err == nil {
				t.Errorf("accepted: %v", b)
			}
		})
	}
}
