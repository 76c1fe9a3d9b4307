package main

import (
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"meshseal/internal/meshtest"
	"meshseal/snapshot"
)

const page = webApp + "/buy/tea"

func (w *world) everythingRight() {
	w.step("a", "everything is as it was signed")
	var id [16]byte
	rand.Read(id[:])
	trace := hex.EncodeToString(id[:])
	answer, text := w.get(page, "00-"+trace+"-00000000000000aa-01")
	w.compare("GET "+page, "200", answer)
	w.compare("the page, made by all four applications", "welcome to the shop: 7 of tea in stock, tea is paid", text)
	w.showTrace(trace)
}

// showTrace waits until every Envoy and meshseal have told their part of a
// trace, and prints it.
func (w *world) showTrace(id string) {
	services := []string{"web-envoy", "orders-envoy", "payments-envoy", "meshseal"}
	var spans []meshtest.Span
	meshtest.Eventually(w, "the trace is complete", func() error {
		spans = w.traces.Trace(id)
		for _, s := range services {
			if !hasService(spans, s) {
				return fmt.Errorf("nothing from %s among %d spans", s, len(spans))
			}
		}
		return nil
	})
	fmt.Printf("    its trace, %s:\n", id)
	printTree(spans, "00000000000000aa", 3)
}

func hasService(spans []meshtest.Span, service string) bool {
	for _, s := range spans {
		if s.Service == service {
			return true
		}
	}
	return false
}

func printTree(spans []meshtest.Span, parent string, depth int) {
	for _, s := range spans {
		if s.Parent != parent {
			continue
		}
		more := ""
		for _, key := range []string{"meshseal.decision", "meshseal.reason", "meshseal.workload", "meshseal.route"} {
			if v := s.Attributes[key]; v != "" {
				more += " " + strings.TrimPrefix(key, "meshseal.") + "=" + v
			}
		}
		fmt.Printf("%s%s: %s %.1f ms%s\n", strings.Repeat("  ", depth), s.Service, s.Name, float64(s.Nanos)/1e6, more)
		printTree(spans, s.SpanID, depth+1)
	}
}

func (w *world) anotherBinary() {
	w.step("b", "web's binary is rebuilt with one string changed")
	w.compile("web", "web-changed", "-ldflags", "-X main.greeting=hello")
	w.restart("web", "web-changed", w.bootstrap("web"))
	answer, _ := w.get(page, "")
	w.compare("GET "+page, "403 DIGEST_NOT_ALLOWED", answer)
	w.restart("web", "web", w.bootstrap("web"))
	answer, _ = w.get(page, "")
	w.compare("the signed binary again", "200", answer)
}

func (w *world) badCertificates() {
	w.step("c", "callers of orders' Envoy without a certificate, and with one from another CA")
	stranger := meshtest.NewCA(w, "shop.test")
	web := stranger.SVID("spiffe://shop.test/web/sha256/" + strings.TrimPrefix(w.digest(w.program("web")), "sha256:"))
	config := web.Client(stranger)
	config.VerifyConnection = nil // whoever answers may answer: it is the caller who is tested
	for _, c := range []struct{ what, fails string }{
		{"a certificate for web's own SPIFFE ID and digest, from another CA", "unknown certificate"},
		{"no certificate", "certificate required"},
	} {
		if c.what == "no certificate" {
			config.GetClientCertificate = nil
		}
		got := handshake(config)
		if strings.Contains(got, c.fails) {
			got = c.fails
		}
		w.compare(c.what, c.fails, got)
	}
}

// handshake connects to orders' Envoy and returns how that ended. In TLS 1.3 a
// server that refuses the client's certificate says so after the client's own
// handshake is over, so the client has to listen.
func handshake(config *tls.Config) string {
	conn, err := tls.Dial("tcp", ordersIn, config)
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return err.Error()
	}
	if _, err := conn.Read(make([]byte, 1)); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return err.Error()
	}
	return "accepted"
}

// handListener is what somebody with a hand on the box might add: a plain
// listener in front of orders that even asks the same ext_authz.
const handListener = `  listeners:
  - name: by-hand
    address: {socket_address: {address: 127.77.0.2, port_value: 8081}}
    filter_chains:
    - name: by-hand
      filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: by_hand
          route_config:
            validate_clusters: false
            virtual_hosts: [{name: all, domains: ["*"], routes: [{name: orders, match: {prefix: /}, route: {cluster: app}}]}]
          http_filters:
          - name: meshseal.ext_authz
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
              transport_api_version: V3
              include_peer_certificate: true
              grpc_service:
                envoy_grpc: {cluster_name: meshseal-authz}
                initial_metadata:
                - {key: meshseal-listener-mark, value: "%METADATA(LISTENER:meshseal:mark)%"}
                - {key: meshseal-local-address, value: "%DOWNSTREAM_LOCAL_ADDRESS%"}
          - {name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
`

func (w *world) listenerByHand() {
	w.step("d", "a listener added by hand to the bootstrap of orders' Envoy")
	sealed := w.bootstrap("orders")
	text, err := os.ReadFile(sealed)
	if err != nil {
		w.Fatalf("%v", err)
	}
	const at = "static_resources:\n"
	if strings.Count(string(text), at) != 1 {
		w.Fatalf("the bootstrap has no single %q", at)
	}
	config := meshtest.Write(w, w.dir, "by-hand.yaml", strings.Replace(string(text), at, at+handListener, 1))
	w.restart("orders", "orders", config)
	answer, _ := w.get("http://"+ordersHand+"/orders/tea", "")
	w.compare("GET http://"+ordersHand+"/orders/tea, through that listener", "403 LISTENER_UNMARKED", answer)
	answer, _ = w.get(page, "")
	w.compare("GET "+page+", through the signed ones", "200", answer)
	w.restart("orders", "orders", sealed)
}

func (w *world) secondControlPlane() {
	w.step("e", "a second control plane serves web's Envoy an edited copy: one route, another cluster")
	dump, err := w.units["web"].Admin("/config_dump?include_eds")
	if err != nil {
		w.Fatalf("%v", err)
	}
	socket := w.dir + "/second.sock"
	edited := ""
	meshtest.ServeEdited(w, socket, meshtest.Dumped(w, dump), func(m proto.Message) {
		if table, ok := m.(*routev3.RouteConfiguration); ok && table.Name == "orders" {
			edited = sendElsewhere(table)
		}
	})
	w.Logf("edited: %s", edited)
	w.restart("web", "web", meshtest.PointAt(w, w.unguarded("web"), socket))
	answer, _ := w.get(page, "")
	w.compare("GET "+page, "403 CLUSTER_MISMATCH", answer)
	w.restart("web", "web", w.bootstrap("web"))
	answer, _ = w.get(page, "")
	w.compare("with meshseal as control plane again", "200", answer)
}

// sendElsewhere makes the route to orders lead to web's own application.
func sendElsewhere(table *routev3.RouteConfiguration) string {
	for _, r := range table.VirtualHosts[0].Routes {
		if r.GetRoute().GetCluster() == "orders" {
			r.GetRoute().ClusterSpecifier = &routev3.RouteAction_Cluster{Cluster: "app"}
			return "route " + r.Name + " leads to cluster app instead of orders; its mark is as before"
		}
	}
	return "nothing: there is no route to orders"
}

// rogueControlPlane is the step that only the guard can win: who holds the
// server has every byte that it ever sent, the seal too, and no key.
func (w *world) rogueControlPlane() {
	w.step("h", "a rogue control plane takes over the xDS address of web's Envoy, which has the guard")
	module, err := meshtest.GuardModule()
	if err != nil {
		w.Fatalf("%v", err)
	}
	if module == "" {
		w.Logf("not shown: there is no C compiler to build the guard with")
		return
	}
	socket := w.dir + "/rogue.sock"
	rogue := meshtest.ServeEdited(w, socket, w.database("web"), func(proto.Message) {})
	config := meshtest.PointAt(w, w.bootstrap("web"), socket)
	w.restart("web", "web", config)
	answer, _ := w.get(page, "")
	w.compare("GET "+page+", while it sends what was sealed", "200", answer)

	edited := ""
	rogue.Edit(func(m proto.Message) {
		if l, ok := m.(*listenerv3.Listener); ok {
			edited += openListener(w, l)
		}
	})
	w.Logf("edited: %s", edited)
	meshtest.Eventually(w, "the Envoy answers", func() error {
		if len(rogue.Rejected()) == 0 {
			return errors.New("nothing was refused yet")
		}
		return nil
	})
	refusal := rogue.Rejected()[0]
	w.Logf("Envoy: %s", refusal)
	w.compare("the rule by which Envoy refuses", "RESOURCE_CHANGED", reason.FindString(refusal))
	answer, _ = w.get(page, "")
	w.compare("GET "+page+", through what was sealed", "200", answer)
	w.restart("web", "web", w.bootstrap("web"))
	answer, _ = w.get(page, "")
	w.compare("with meshseal as control plane again", "200", answer)
}

// database is what somebody finds in the server's state folder: all that a
// proxy may hold, and its seal.
func (w *world) database(proxy string) []proto.Message {
	file, err := os.ReadFile(w.dir + "/state/snapshot")
	if err != nil {
		w.Fatalf("%v", err)
	}
	all, err := sealedFor(file, w.dir+"/key.pub", proxy)
	if err != nil {
		w.Fatalf("the server's snapshot: %v", err)
	}
	return all
}

func sealedFor(file []byte, key, proxy string) ([]proto.Message, error) {
	public, err := snapshot.ReadPublicKey(key)
	if err != nil {
		return nil, err
	}
	trust, err := snapshot.NewTrust([]snapshot.PublicKey{public}, 1)
	if err != nil {
		return nil, err
	}
	s, err := snapshot.Open(file, trust, time.Now())
	if err != nil {
		return nil, err
	}
	seal, err := s.Seal(proxy)
	if err != nil {
		return nil, err
	}
	carriers, err := seal.Carriers()
	if err != nil {
		return nil, err
	}
	var all []proto.Message
	add := func(url snapshot.TypeURL, body []byte) error {
		m, err := anypb.UnmarshalNew(&anypb.Any{TypeUrl: string(url), Value: body}, proto.UnmarshalOptions{})
		all = append(all, m)
		return err
	}
	for _, c := range carriers {
		if err := add(snapshot.ClusterType, c.Body); err != nil {
			return nil, err
		}
	}
	p, _ := s.Proxy(proxy)
	for _, e := range p.Entries {
		body, _ := s.Resource(e.Hash)
		if err := add(e.Type, body); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// openListener takes every question to ext_authz out of a listener.
func openListener(t meshtest.T, l *listenerv3.Listener) string {
	edited := ""
	for _, chain := range l.GetFilterChains() {
		for _, f := range chain.GetFilters() {
			manager := &hcmv3.HttpConnectionManager{}
			if f.GetTypedConfig().UnmarshalTo(manager) != nil {
				continue
			}
			manager.HttpFilters = slices.DeleteFunc(manager.HttpFilters, func(f *hcmv3.HttpFilter) bool {
				return f.Name == "meshseal.ext_authz"
			})
			packed, err := anypb.New(manager)
			if err != nil {
				t.Fatalf("%v", err)
			}
			f.ConfigType = &listenerv3.Filter_TypedConfig{TypedConfig: packed}
			edited += "listener " + l.Name + " asks nobody; "
		}
	}
	return edited
}

func (w *world) revoked() {
	w.step("f", "a commit revokes web's digest while a connection is open")
	const connections = "http.orders.downstream_cx_total"
	answer, _ := w.get(page, "")
	w.compare("GET "+page+", before the commit", "200", answer)
	before := w.units["web"].Stat(connections)

	w.repo.Replace("web: revoke the digest", "workloads/web.yaml", "revoked: []", "revoked: ["+w.digest(w.program("web"))+"]")
	committed := time.Now()
	refused := time.Duration(0)
	for answer == "200" && time.Since(committed) < 20*time.Second {
		answer, _ = w.get(page, "")
		refused = time.Since(committed)
	}
	w.compare("GET "+page+", after it", "403 DIGEST_REVOKED", answer)
	w.Logf("%d ms from the commit to the refusal", refused.Milliseconds())
	w.compare("connections that web opened to its Envoy since", "0", fmt.Sprint(w.units["web"].Stat(connections)-before))
}

func (w *world) reverted() {
	w.step("g", "git revert")
	w.repo.Git("revert", "--no-edit", "HEAD")
	committed := time.Now()
	answer := ""
	for answer != "200" && time.Since(committed) < 20*time.Second {
		answer, _ = w.get(page, "")
	}
	w.compare("GET "+page, "200", answer)
	w.Logf("%d ms from the commit to the answer", time.Since(committed).Milliseconds())
}
