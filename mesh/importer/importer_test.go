package importer

import (
	"bytes"
	"encoding/base64"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"

	"meshseal/policies"
)

var update = flag.Bool("update", false, "write the golden reports anew")

var testTime = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// descriptor is a descriptor set with a service.
func descriptor(t testing.TB, service string) []byte {
	t.Helper()
	data, err := proto.Marshal(&descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{{
		Name: proto.String("shop.proto"), Package: proto.String("shop"),
		Service: []*descriptorpb.ServiceDescriptorProto{{Name: proto.String(service)}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func options(t testing.TB, file string) Options {
	return Options{File: file, Now: testTime, Open: func(path string) ([]byte, error) {
		if path != "/etc/envoy/catalog.pb" {
			return nil, fmt.Errorf("%s is asked for, and no descriptor set", path)
		}
		return descriptor(t, "Catalog"), nil
	}}
}

func example(t testing.TB, file string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestReports holds the report of each example, and that it builds, with
// waivers if it needs them.
func TestReports(t *testing.T) {
	for _, file := range []string{
		"front-proxy.yaml", "sidecar.yaml", "tcp-proxy.yaml", "transcoding.yaml", "canary.json", "rate-limited-edge.yaml",
	} {
		t.Run(file, func(t *testing.T) {
			o := options(t, file)
			if file == "rate-limited-edge.yaml" {
				o.Waive = 30
			}
			r, err := Import(example(t, file), o)
			if err != nil {
				t.Fatal(err)
			}
			if !r.Report.Builds {
				t.Error("it does not build")
			}
			var got bytes.Buffer
			if err := r.Report.WriteText(&got); err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", strings.TrimSuffix(file, filepath.Ext(file))+".report")
			if *update {
				if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got.String() != string(want) {
				t.Errorf("the report differs from %s; look at it, and run with -update if it is right:\n%s", golden, got.String())
			}
			for name, data := range r.Files {
				if holdsKey(string(data)) || strings.Contains(string(data), ".key") {
					t.Errorf("a key is in %s:\n%s", name, data)
				}
			}
		})
	}
}

// TestWrittenPolicyIsTested: the policy that import writes comes with tests
// that hold.
func TestWrittenPolicyIsTested(t *testing.T) {
	for _, file := range []string{"sidecar.yaml", "canary.json"} {
		r, err := Import(example(t, file), options(t, file))
		if err != nil {
			t.Fatal(err)
		}
		var files []policies.File
		for name, data := range r.Files {
			if strings.HasPrefix(name, "policies/") {
				files = append(files, policies.File{Path: name, Data: data})
			}
		}
		report, err := policies.Test(t.Context(), files, policies.TestOptions{})
		if err != nil || report.Failed() > 0 || len(report.Results) == 0 {
			t.Errorf("%s: %+v, %v", file, report, err)
		}
	}
}

func TestSameSourceGivesTheSame(t *testing.T) {
	source := example(t, "sidecar.yaml")
	first, err := Import(source, options(t, "sidecar.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		again, err := Import(source, options(t, "sidecar.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		for name, data := range first.Files {
			if !bytes.Equal(again.Files[name], data) {
				t.Fatalf("%s differs:\n%s\n%s", name, data, again.Files[name])
			}
		}
		if fmt.Sprint(again.Report) != fmt.Sprint(first.Report) {
			t.Fatal("the reports differ")
		}
	}
}

func TestWriteIntoAFolder(t *testing.T) {
	r, err := Import(example(t, "tcp-proxy.yaml"), options(t, "tcp-proxy.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "a", "mesh")
	if err := r.Write(dir); err != nil {
		t.Fatal(err)
	}
	for name, want := range r.Files {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := r.Write(dir); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("written over: %v", err)
	}
	r.Files = map[string][]byte{"../out": nil}
	if err := r.Write(filepath.Join(dir, "b")); err == nil {
		t.Error("a name that leads out was written")
	}
}

// listener is a bootstrap with one listener, whose fields follow its name.
func listener(fields string) string {
	return "static_resources:\n  listeners:\n  - name: web\n    " + strings.ReplaceAll(strings.TrimSpace(fields), "\n", "\n    ") + "\n"
}

// tcp is the rest of a listener.
const tcp = `
filter_chains:
- filters:
  - name: tcp
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
      stat_prefix: x
      cluster: app
`

// app is a cluster on this host, or elsewhere.
func app(host string) string {
	return fmt.Sprintf(`  clusters:
  - name: app
    load_assignment: {cluster_name: app, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: %s, port_value: 80}}}}]}]}
`, host)
}

func address(host string) string {
	return "address: {socket_address: {address: \"" + host + "\", port_value: 1}}"
}

// TestDirectionIsGuessedClosed: outbound, where whoever connects speaks as the
// workload, is guessed only of what nobody else reaches.
func TestDirectionIsGuessedClosed(t *testing.T) {
	for name, c := range map[string]struct{ listener, upstream, want string }{
		"every address, others behind":   {address("0.0.0.0"), "10.0.0.1", inbound},
		"loopback, others behind":        {address("127.0.0.1"), "10.0.0.1", outbound},
		"loopback, this host behind":     {address("127.0.0.1"), "127.0.0.1", inbound},
		"socket, others behind":          {"address: {pipe: {path: /run/x.sock}}", "10.0.0.1", outbound},
		"another namespace's loopback":   {`address: {socket_address: {address: 127.0.0.1, port_value: 1, network_namespace_filepath: /n}}`, "10.0.0.1", inbound},
		"loopback in IPv6's clothes":     {address("::ffff:127.0.0.1"), "10.0.0.1", inbound},
		"one address of two is reached":  {address("127.0.0.1") + "\nadditional_addresses: [{address: {socket_address: {address: 10.0.0.2, port_value: 1}}}]", "10.0.0.1", inbound},
		"it says outbound":               {address("127.0.0.1") + "\ntraffic_direction: OUTBOUND", "127.0.0.1", outbound},
		"it says inbound":                {address("127.0.0.1") + "\ntraffic_direction: inbound", "10.0.0.1", inbound},
		"it says outbound, but everyone": {address("0.0.0.0") + "\ntraffic_direction: OUTBOUND", "10.0.0.1", outbound},
	} {
		r, err := Import([]byte(listener(c.listener+tcp)+app(c.upstream)), options(t, "envoy.yaml"))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		text := string(r.Files["proxies/envoy/proxy.yaml"])
		if strings.Contains(text, inbound) != (c.want == inbound) || strings.Contains(text, ": "+outbound) != (c.want == outbound) {
			t.Errorf("%s: wanted %s:\n%s", name, c.want, text)
		}
		if c.want == outbound && strings.Contains(string(r.Files["proxies/envoy/listeners.yaml"]), "0.0.0.0") {
			t.Errorf("%s: everyone reaches an outbound listener", name)
		}
		if !r.Report.Builds {
			t.Errorf("%s: does not build: %+v", name, r.Report)
		}
	}
}

// wants imports a source and says whether the result's file holds a text.
func wants(t *testing.T, source, file, want string, o Options) *Result {
	t.Helper()
	r, err := Import([]byte(source), o)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(r.Files[file]), want) {
		t.Errorf("%s lacks %q:\n%s", file, want, r.Files[file])
	}
	return r
}

func TestUpstreamIsSaid(t *testing.T) {
	source := listener(address("10.0.0.2")+tcp) + app("10.0.0.1")
	o := options(t, "envoy.yaml")
	o.TrustDomain, o.Upstreams = "shop.test", map[string]string{"app": "spiffe://shop.test/a/b"}
	r := wants(t, source, "proxies/envoy/clusters.yaml", `prefix: "spiffe://shop.test/a/b/sha256/"`, o)
	if !r.Report.Builds {
		t.Error("does not build")
	}
	o.Upstreams["app"] = Plaintext
	if r := wants(t, source, "proxies/envoy/clusters.yaml", "name: app", o); strings.Contains(string(r.Files["proxies/envoy/clusters.yaml"]), "tls") {
		t.Error("it got TLS though it was to stay plain")
	}
	o.Upstreams["app"] = "spiffe://shop.test/a/sha256/x"
	if _, err := Import([]byte(source), o); err == nil {
		t.Error("an ID with a digest was taken")
	}
}

// TestInlineKeyIsNotCopied: neither from a TLS context, which asks the agent
// then, nor from anywhere else, which is refused.
func TestInlineKeyIsNotCopied(t *testing.T) {
	key := "-----BEGIN PRIVATE KEY-----"
	tls := func(source string) string {
		return listener(address("10.0.0.2")+`
filter_chains:
- transport_socket:
    name: tls
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
      common_tls_context: {tls_certificates: [{certificate_chain: {filename: /c}, private_key: {`+source+`}}]} # `+key+`
`+strings.TrimPrefix(strings.Replace(tcp, "- filters", "  filters", 1), "\nfilter_chains:\n")) + app("127.0.0.1")
	}
	for _, source := range []string{`inline_string: "` + key + `"`, "inline_bytes: " + base64.StdEncoding.EncodeToString([]byte(key))} {
		r := wants(t, tls(source), "proxies/envoy/listeners.yaml", "meshseal-sds", options(t, "envoy.yaml"))
		if !r.Report.Builds {
			t.Errorf("does not build: %+v", r.Report)
		}
		for name, data := range r.Files {
			if strings.Contains(string(data), "BEGIN") || strings.Contains(string(data), "tls_certificates:") {
				t.Errorf("%s:\n%s", name, data)
			}
		}
	}
	elsewhere := listener(address("10.0.0.2")+tcp) + strings.Replace(app("127.0.0.1"), "name: app\n", "name: app\n    alt_stat_name: \""+key+"\"\n", 1)
	if _, err := Import([]byte(elsewhere), options(t, "envoy.yaml")); err == nil || !strings.Contains(err.Error(), "private key") || !strings.Contains(err.Error(), "envoy.yaml:14") {
		t.Errorf("a key in another field: %v", err)
	}
}

// TestDescriptorOnly: a path in the source opens nothing but a descriptor set
// of the services that are named with it.
func TestDescriptorOnly(t *testing.T) {
	source := example(t, "transcoding.yaml")
	for name, open := range map[string]func(string) ([]byte, error){
		"no file":         func(string) ([]byte, error) { return nil, os.ErrNotExist },
		"a password file": func(string) ([]byte, error) { return []byte("root:x:0:0:root:/root:/bin/sh\n"), nil },
		"another service": func(string) ([]byte, error) { return descriptor(t, "Other"), nil },
		"an endless file": func(string) ([]byte, error) { return make([]byte, maxDescriptor+1), nil },
		"an empty file":   func(string) ([]byte, error) { return nil, nil },
		"nothing opens":   nil,
	} {
		o := options(t, "transcoding.yaml")
		o.Open = open
		r, err := Import(source, o)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(r.Files["proxies/transcoding/listeners.yaml"]), "proto_descriptor_bin") || r.Report.Builds {
			t.Errorf("%s: it was taken", name)
		}
		if len(r.Report.Findings) != 1 || r.Report.Findings[0].Code != "LOCAL_DATA" || r.Report.Findings[0].Line < 30 || r.Report.Findings[0].Line > 33 {
			t.Errorf("%s: %+v", name, r.Report.Findings)
		}
	}
}

// TestCodesAreDocumented: docs/import.md has each code of an item, and no
// other.
func TestCodesAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/import.md")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("report.go")
	if err != nil {
		t.Fatal(err)
	}
	var want, got []string
	for _, m := range regexp.MustCompile(`\bCode\w+ += "(\w+)"`).FindAllStringSubmatch(string(source), -1) {
		want = append(want, m[1])
	}
	for _, m := range regexp.MustCompile("(?m)^\\| `([A-Z_]+)` \\|").FindAllStringSubmatch(string(page), -1) {
		got = append(got, m[1])
	}
	slices.Sort(want)
	if len(want) < 20 || !slices.Equal(got, want) {
		t.Errorf("docs/import.md has\n%v\nthe code\n%v", got, want)
	}
}

// upstream is a cluster elsewhere with a TLS context.
func upstream(context, secrets string) string {
	return secrets + listener(address("10.0.0.2")+tcp) + app("10.0.0.1") + `    transport_socket:
      name: tls
      typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, ` + context + "}\n"
}

// TestUpstreamTLS: what verified nobody verifies now; what verified a server
// outside the mesh goes on.
func TestUpstreamTLS(t *testing.T) {
	ca := "validation_context: {trusted_ca: {inline_string: ca}}"
	for name, c := range map[string]struct {
		context string
		has     []string
		lacks   string
	}{
		"a name, and any certificate": {"sni: api.example", []string{"system_root_certs", `exact: "api.example"`}, "SPIFFE"},
		"any certificate":             {"common_tls_context: {}", []string{"spiffe://envoy.test/app/sha256/"}, "system_root"},
		"untrusted ones":              {"common_tls_context: {validation_context: {trust_chain_verification: ACCEPT_UNTRUSTED}}", []string{"spiffe://envoy.test/app/sha256/"}, "ACCEPT"},
		"an authority and a name":     {"sni: api.example, common_tls_context: {" + ca + "}", []string{"inline_string: ca", `exact: "api.example"`}, "sds"},
		"an authority's files": {"sni: a, common_tls_context: {validation_context_sds_secret_config: {name: ROOTS, sds_config: {path: /x}}}",
			[]string{"name: ROOTCA", "spiffe://envoy.test/app/sha256/"}, "/x"},
		"a static authority": {"sni: a, common_tls_context: {validation_context_sds_secret_config: {name: ca}}", []string{"inline_string: public", `exact: "a"`}, "name: ca"},
		"a static authority with a name": {"common_tls_context: {combined_validation_context: {default_validation_context: {match_typed_subject_alt_names: [{san_type: DNS, matcher: {exact: b}}]}, validation_context_sds_secret_config: {name: ca}}}",
			[]string{"inline_string: public", "exact: b"}, "name: ca"},
		"a certificate of its own": {"sni: a, common_tls_context: {" + ca + ", tls_certificates: [{private_key: {filename: /k}}]}", []string{"name: default", "inline_string: ca"}, "/k"},
		"TLS 1.0":                  {"sni: a, common_tls_context: {" + ca + ", tls_params: {tls_minimum_protocol_version: tlsv1_0}}", []string{"TLSv1_2"}, "1_0"},
	} {
		source := upstream(c.context, "") + "  secrets: [{name: ca, validation_context: {trusted_ca: {inline_string: public}}}]\n"
		r, err := Import([]byte(source), options(t, "envoy.yaml"))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got := string(r.Files["proxies/envoy/clusters.yaml"])
		for _, want := range c.has {
			if !strings.Contains(got, want) {
				t.Errorf("%s: lacks %q:\n%s", name, want, got)
			}
		}
		if strings.Contains(got, c.lacks) || !r.Report.Builds {
			t.Errorf("%s: has %q, or does not build: %s %+v\n%s", name, c.lacks, r.Report.Problem, r.Report.Findings, got)
		}
	}
}

// TestSourcesThatAreMissing: routes and endpoints that come from elsewhere are
// empty until somebody writes them.
func TestSourcesThatAreMissing(t *testing.T) {
	source := listener(address("10.0.0.2")+`
filter_chains:
- filters:
  - name: http
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
      stat_prefix: x
      rds: {route_config_name: table, config_source: {path: /x}}
      http_filters: [{name: r, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
`) + "  clusters:\n  - {name: app, type: EDS, eds_cluster_config: {eds_config: {api_config_source: {api_type: GRPC, grpc_services: [{envoy_grpc: {cluster_name: xds}}]}}}}\n" +
		"  - {name: xds}\ndynamic_resources: {cds_config: {api_config_source: {api_type: GRPC, grpc_services: [{envoy_grpc: {cluster_name: xds}}]}}}\n"
	r := wants(t, source, "proxies/envoy/routes.yaml", "virtual_hosts: []", options(t, "envoy.yaml"))
	if !r.Report.Builds {
		t.Errorf("%s %+v", r.Report.Problem, r.Report.Findings)
	}
	wants(t, source, "proxies/envoy/endpoints.yaml", "endpoints: []", options(t, "envoy.yaml"))
	var codes []string
	for _, i := range r.Report.Items {
		codes = append(codes, i.Code)
	}
	for _, want := range []string{CodeRoutes, CodeEndpoints, CodeCluster} {
		if !slices.Contains(codes, want) {
			t.Errorf("%s is not reported: %v", want, codes)
		}
	}
}

// TestForbiddenFiltersDoNotBuild: they are taken over, the guardrails name the
// line, and only --waive sets them aside.
func TestForbiddenFiltersDoNotBuild(t *testing.T) {
	source := strings.Replace(string(example(t, "canary.json")), `"httpFilters": [`,
		`"httpFilters": [{"name": "lua", "typedConfig": {"@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua"}}, `, 1)
	r, err := Import([]byte(source), options(t, "canary.json"))
	if err != nil {
		t.Fatal(err)
	}
	if r.Report.Builds || len(r.Report.Findings) != 1 || r.Report.Findings[0].Code != "FILTER_AFTER_AUTHZ" || r.Report.Findings[0].Line != 33 {
		t.Errorf("%+v", r.Report.Findings)
	}
	o := options(t, "canary.json")
	o.Waive = 30
	if r, err = Import([]byte(source), o); err != nil || !r.Report.Builds || r.Report.Findings[0].Waived != "2026-02-01" {
		t.Errorf("%v %+v", err, r.Report)
	}
	if text := string(r.Files["waivers.yaml"]); !strings.Contains(text, "2026-02-01") || !strings.Contains(text, "canary.json:33") {
		t.Errorf("waivers.yaml:\n%s", text)
	}
}

// TestWhatOpensIsNotTakenOver: nothing of what switches authorization off
// survives, wherever it stands.
func TestWhatOpensIsNotTakenOver(t *testing.T) {
	text := strings.NewReplacer(
		"failure_mode_allow: true", "failure_mode_allow: true\n              shadow_mode: true\n              filter_enabled: {default_value: {numerator: 1}}\n              deny_at_disable: {default_value: {value: false}, runtime_key: x}",
		"name: envoy.filters.http.ext_authz\n", "name: mine\n            disabled: true\n            is_optional: true\n",
		"route: {cluster: orders, timeout: 15s}", "route: {cluster: orders, timeout: 15s}\n                typed_per_filter_config:\n                  mine: {\"@type\": type.googleapis.com/envoy.config.route.v3.FilterConfig, disabled: true}",
	).Replace(string(example(t, "sidecar.yaml")))
	r, err := Import([]byte(text), options(t, "sidecar.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	got := string(r.Files["proxies/orders-sidecar/listeners.yaml"])
	for _, gone := range []string{"failure_mode", "shadow", "filter_enabled", "deny_at", "disabled", "is_optional", "ExtAuthzPerRoute", "FilterConfig"} {
		if strings.Contains(got, gone) {
			t.Errorf("%q is still there:\n%s", gone, got)
		}
	}
	if !strings.Contains(got, "max_request_bytes: 8192") || !strings.Contains(got, "timeout: 0.5s") || !r.Report.Builds {
		t.Errorf("what may stay is gone, or it does not build: %s\n%s", r.Report.Problem, got)
	}
}
