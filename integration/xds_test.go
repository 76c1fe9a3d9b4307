package integration

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"testing"

	"meshseal/internal/meshtest"
)

// TestNACKOfABadListener: Envoy refuses one listener; the refusal shows in the
// status, the version is not sent again, everything else serves on, and the
// next commit mends it.
func TestNACKOfABadListener(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	envoy := s.appEnvoy()
	c := s.client(t)
	wantAnswer(t, c, s.url("/items/1"), 200, "")

	taken, err := net.Listen("tcp", s.appHost+":7000")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	extra := `- "@type": type.googleapis.com/envoy.config.listener.v3.Listener
  name: taken
  address: {socket_address: {address: ` + s.appHost + `, port_value: 7000}}
  filter_chains:
  - name: tcp
    transport_socket: ` + downstreamTLS + `
    filters: [{name: tcp, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: taken, cluster: echo}}]
`
	listeners := s.Repo.Read("proxies/app/listeners.yaml")
	proxy := s.Repo.Read("proxies/app/proxy.yaml")
	bad := s.Repo.Commit("a listener on a port that is taken", map[string]string{
		"proxies/app/listeners.yaml": listeners + extra,
		"proxies/app/proxy.yaml":     strings.Replace(proxy, "tcp: inbound", "tcp: inbound, taken: inbound", 1),
	})
	s.WaitInForce(bad)
	s.Server.Eventually("the status shows the NACK", func() error {
		text, err := nackOf(s, "app", "Listener")
		return errorsOr(err, strings.Contains(text, "taken"), "%q", text)
	})
	rejected := envoy.Stat("listener_manager.lds.update_rejected")
	wantAnswer(t, c, s.url("/items/1"), 200, "")

	// Another type changes; the listeners that Envoy refused stay unsent.
	s.WaitInForce(s.Repo.Replace("another cluster timeout", "proxies/app/clusters.yaml", "name: other\n  type: STATIC", "name: other\n  connect_timeout: 2s\n  type: STATIC"))
	envoy.WaitStat("cluster_manager.cluster_modified", 1)
	if again := envoy.Stat("listener_manager.lds.update_rejected"); again != rejected {
		t.Errorf("the refused version was sent again: %g refusals, then %g", rejected, again)
	}

	s.WaitInForce(s.Repo.Commit("without it", map[string]string{"proxies/app/listeners.yaml": listeners, "proxies/app/proxy.yaml": proxy}))
	s.Server.Eventually("the NACK is gone from the status", func() error {
		text, err := nackOf(s, "app", "Listener")
		return errorsOr(err, text == "", "%q", text)
	})
	wantAnswer(t, c, s.url("/items/1"), 200, "")
}

// nackOf is the text with which a proxy refused a type; "" where it did not.
func nackOf(s *shop, proxy, kind string) (string, error) {
	status, err := s.Server.Status()
	if err != nil {
		return "", err
	}
	for _, p := range status.Proxies {
		for _, stream := range p.Streams {
			for _, ty := range stream.Types {
				if p.Proxy == proxy && strings.HasSuffix(ty.Type, "."+kind) && ty.Nack != nil {
					return ty.Nack.Text, nil
				}
			}
		}
	}
	return "", nil
}

func errorsOr(err error, ok bool, format string, args ...any) error {
	if err != nil {
		return err
	}
	return wantErr(ok, format, args...)
}

// TestSpoofedNodeID: the certificate of the stream says which proxy it is,
// whatever node id the Envoy gives.
func TestSpoofedNodeID(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	config, admin := s.Bootstrap("client", s.CA.SVID(id("client", "client-1")))
	envoy := meshtest.AdminOf(meshtest.Start(t, meshtest.EnvoyCommand(t, config, "--service-node", "app")), admin)
	envoy.WaitAlive()
	envoy.Eventually("the answer to the stream", func() error {
		stats := envoy.Stats()
		denied := strings.Contains(envoy.Log(), "PermissionDenied") || strings.Contains(envoy.Log(), "does not match")
		return wantErr(denied || stats["listener_manager.lds.update_success"] > 0, "neither served nor denied")
	})
	dump, err := envoy.Admin("/config_dump")
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"stat_prefix\": \"tcp\"", s.appHost + "_8443", "\"echo\"", "\"table\""} {
		if strings.Contains(dump, secret) {
			t.Errorf("an Envoy with the client's SVID and the app's node id holds %q of the app", secret)
		}
	}
}

// TestUnknownProxy: an Envoy whose certificate is no proxy's gets nothing and
// is told so.
func TestUnknownProxy(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	config, admin := s.Bootstrap("app", s.CA.SVID(id("nobody", "app-1")))
	envoy := meshtest.AdminOf(meshtest.Start(t, meshtest.EnvoyCommand(t, config)), admin)
	envoy.WaitAlive()
	envoy.Eventually("the refusal arrives", func() error {
		return wantErr(strings.Contains(envoy.Log(), "spiffe://mesh.test/nobody"), "nothing of it in the log")
	})
	if n := envoy.Stat("listener_manager.total_listeners_active"); n != 0 {
		t.Errorf("it has %g listeners", n)
	}
}

// TestOneRouteChanges: a commit that changes one route leaves open connections
// through the same listener and to the same cluster alive.
func TestOneRouteChanges(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	envoy := s.appEnvoy()
	c := s.client(t)
	tcp := s.line(t, s.CA.SVID(id("client", "client-1")))
	wantAnswer(t, c, s.url("/items/1"), 200, "")
	wantAnswer(t, c, s.url("/nowhere"), 404, "")
	if got, err := tcp.say("before"); got != "echo before" {
		t.Fatalf("%q, %v", got, err)
	}

	counters := []string{
		"listener." + s.appHost + "_8443.downstream_cx_total",
		"listener." + s.appHost + "_9443.downstream_cx_total",
		"cluster.app.upstream_cx_total",
		"cluster.echo.upstream_cx_total",
		"listener_manager.listener_modified",
		"listener_manager.lds.update_success",
	}
	before := envoy.Stats()
	commit := s.Repo.Replace("one more route", "proxies/app/routes.yaml", "    - {name: items,",
		"    - {name: nowhere, match: {prefix: /nowhere}, route: {cluster: app}}\n    - {name: items,")
	s.WaitInForce(commit)
	meshtest.Eventually(t, "the new route serves", func() error {
		a := ask(t, c, s.url("/nowhere"))
		return wantErr(a.code == 200, "%d %s", a.code, a.reason)
	})
	wantAnswer(t, c, s.url("/items/1"), 200, "")
	if got, err := tcp.say("after"); got != "echo after" {
		t.Errorf("the TCP connection: %q, %v", got, err)
	}
	after := envoy.Stats()
	for _, name := range counters {
		if after[name] != before[name] {
			t.Errorf("%s went from %g to %g", name, before[name], after[name])
		}
	}
	// The statement and the list of the seal, which are carried by clusters.
	if n := after["cluster_manager.cluster_modified"] - before["cluster_manager.cluster_modified"]; n != 2 {
		t.Errorf("%g clusters were modified, wanted the two carriers of the seal", n)
	}
	if before[counters[0]] != 1 || before[counters[2]] != 1 {
		t.Errorf("the counters do not show the connections: %v", before)
	}
}

// TestSilentTCPClient: a client that connects and says nothing hears nothing,
// and the backend does not learn of it.
func TestSilentTCPClient(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	envoy := s.appEnvoy()
	for name, svid := range map[string]*meshtest.SVID{
		"that may call":     s.CA.SVID(id("client", "client-1")),
		"that may not call": s.CA.SVID(id("client", "client-3")),
	} {
		t.Run(name, func(t *testing.T) {
			silent := s.line(t, svid)
			if err := silent.Handshake(); err != nil {
				t.Fatal(err)
			}
			heard := make(chan string, 1)
			go func() {
				line, _ := silent.r.ReadString('\n')
				heard <- line
			}()
			// Other connections come and go meanwhile; theirs are answered.
			for i := range 20 {
				other := s.line(t, s.CA.SVID(id("client", "client-1")))
				if got, err := other.say(fmt.Sprint(i)); got != "echo "+fmt.Sprint(i) {
					t.Fatalf("%q, %v", got, err)
				}
				other.Close()
			}
			select {
			case line := <-heard:
				if line != "" {
					t.Errorf("heard %q", line)
				}
			default:
			}
			silent.Close()
			if line := <-heard; line != "" {
				t.Errorf("heard %q", line)
			}
		})
	}
	if conns, _ := s.echo.Seen(); conns != 40 {
		t.Errorf("the backend saw %d connections, wanted the 40 that spoke", conns)
	}
	if n := envoy.Stat("listener." + s.appHost + "_9443.downstream_cx_total"); n != 42 {
		t.Errorf("Envoy counted %g connections, wanted 42", n)
	}
}

// TestTCPDecisions: a connection is decided before its first byte goes on.
func TestTCPDecisions(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.appEnvoy()
	if got, err := s.line(t, s.CA.SVID(id("client", "client-1"))).say("hello"); got != "echo hello" {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := s.line(t, s.CA.SVID(id("client", "client-3"))).say("hello"); err == nil {
		t.Errorf("a digest that is not allowed was answered %q", got)
	}
	if conns, bytes := s.echo.Seen(); conns != 1 || bytes != len("hello\n") {
		t.Errorf("the backend saw %d connections and %d bytes, wanted those of the one", conns, bytes)
	}
	var reasons []string
	for _, r := range s.Server.Records() {
		reasons = append(reasons, r.At("meshseal", "reason"))
	}
	if fmt.Sprint(reasons) != "[OK DIGEST_NOT_ALLOWED]" {
		t.Errorf("recorded %v", reasons)
	}
}

// TestUpgrade: a WebSocket is decided at its upgrade.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.appEnvoy()
	for _, c := range []struct {
		program, status string
	}{{"client-1", "101"}, {"client-3", "403"}} {
		t.Run(c.program, func(t *testing.T) {
			s.app.Forget()
			conn := s.raw(t, s.CA.SVID(id("client", c.program)))
			fmt.Fprintf(conn, "GET /items/socket HTTP/1.1\r\nHost: app\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
			r := bufio.NewReader(conn)
			line, err := r.ReadString('\n')
			if err != nil || !strings.Contains(line, c.status) {
				t.Fatalf("%q, %v, wanted %s", line, err, c.status)
			}
			if c.status != "101" {
				if n := len(s.app.Seen()); n != 0 {
					t.Errorf("the backend saw %d requests", n)
				}
				return
			}
			for line != "\r\n" && err == nil {
				line, err = r.ReadString('\n')
			}
			fmt.Fprintf(conn, "ping\n")
			if line, err = r.ReadString('\n'); line != "ping\n" {
				t.Errorf("through the upgrade came %q, %v", line, err)
			}
		})
	}
}
