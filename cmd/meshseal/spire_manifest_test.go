package main

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.yaml.in/yaml/v3"

	"meshseal/identity/spire"
	"meshseal/registration"
)

// TestManifestsSayWhatTheEntriesSay, whatever a path holds, as Kubernetes' own
// YAML library reads them.
func TestManifestsSayWhatTheEntriesSay(t *testing.T) {
	paths := []string{"/opt/a: b", "/opt/#x", "/opt/'q'", `/opt/"q"`, "/opt/\u00e9\u2028", "/opt/- x", "/opt/{x}", "/opt/x ", "/opt/\\n", "/opt/%x", "/opt/y\ttab"}
	w := registration.Wanted{Mesh: "shop_1.-"}
	for _, p := range paths {
		w.Entries = append(w.Entries, registration.Want{
			Owner: registration.Owner{Kind: registration.Workload, Name: "orders"},
			Entry: registration.Entry{
				ID: "meshseal.shop_1.-." + p, SPIFFEID: spiffeid.RequireFromString("spiffe://shop.test/orders"), ParentID: spiffeid.RequireFromString("spiffe://shop.test/nodes"),
				Selectors: []spire.Selector{{Type: "unix", Value: "path:" + p}}, X509TTL: 90 * time.Second,
			},
		})
	}
	var out bytes.Buffer
	if err := writeManifests(&out, w); err != nil {
		t.Fatal(err)
	}
	decoder, names := yaml.NewDecoder(&out), map[string]bool{}
	for _, p := range paths {
		var m struct {
			Kind     string
			Metadata struct {
				Name   string
				Labels map[string]string
			}
			Spec struct {
				SPIFFEID  string `yaml:"spiffeID"`
				Selectors []string
				X509      string `yaml:"x509SVIDTTL"`
			}
		}
		if err := decoder.Decode(&m); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(m.Spec.Selectors, []string{"unix:path:" + p}) || m.Spec.SPIFFEID != "spiffe://shop.test/orders" || m.Spec.X509 != "1m30s" {
			t.Errorf("%q: %+v", p, m)
		}
		if names[m.Metadata.Name] || strings.Trim(m.Metadata.Name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" || len(m.Metadata.Name) > 253 {
			t.Errorf("the name %q is not Kubernetes', or there twice", m.Metadata.Name)
		}
		names[m.Metadata.Name] = true
	}
}

// TestControlCharactersStayOutOfTerminals: somebody else wrote that entry.
func TestControlCharactersStayOutOfTerminals(t *testing.T) {
	var out bytes.Buffer
	evil := "unix:path:/x\x1b[2J\nFINDING"
	e := entryView{ID: "x", Selectors: []string{evil}}
	v := syncView{Findings: []entryFindingView{{Code: "ENTRY_UNPINNED", Text: evil, Entry: e}}, Steps: []stepView{{Error: evil, Entry: e}}}
	if err := writeSync(&out, v); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out.String(), "\x1b") || strings.Contains(out.String(), "\nFINDING\n") {
		t.Errorf("%q", out.String())
	}
}
