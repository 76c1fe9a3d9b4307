//go:build spire

package spire

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"meshseal/integration/spire/spiretest"
	"meshseal/internal/meshtest"
)

// shows is the certificate that a TLS server shows to a client with an SVID.
func shows(address string, svid tls.Certificate, next ...string) (*x509.Certificate, error) {
	conn, err := tls.Dial("tcp", address, &tls.Config{Certificates: []tls.Certificate{svid}, InsecureSkipVerify: true, NextProtos: next})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0], nil
}

// TestSPIREAgentRestarted: while the agent is away requests go on; when it is
// back, meshseal and the Envoy get newer SVIDs by themselves, and requests go on
// past the end of those from before.
func TestSPIREAgentRestarted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, edited(lasting), svidTTL(20*time.Second, "app", "meshseal"), svidTTL(5*time.Minute, "client"))
	client := spiretest.StartWorkload(t, w.Programs["client"], w.Agent)
	w.startEnvoy("app", "app")
	cert := client.WaitFetch(w.id("client")).Certificate(t)
	want(t, client, w.app("kept", "/items/1"), 200, "")
	if err := w.Agent.Stop(); err != nil {
		t.Fatal(err)
	}
	want(t, client, w.app("kept", "/items/2"), 200, "")
	servers := map[string][]string{w.appHost + ":8443": nil, w.Host + ":18000": {"h2"}}
	before := map[string]*x509.Certificate{}
	for address, next := range servers {
		c, err := shows(address, cert, next...)
		if err != nil {
			t.Fatal(err)
		}
		before[address] = c
	}
	w.Agent.Start()
	for address, next := range servers {
		meshtest.Eventually(t, address+" shows a newer SVID", func() error {
			c, err := shows(address, cert, next...)
			if err == nil && !c.NotAfter.After(before[address].NotAfter) {
				err = fmt.Errorf("%s ends %s", c.URIs[0], c.NotAfter)
			}
			return err
		})
	}
	end := before[w.appHost+":8443"].NotAfter
	if other := before[w.Host+":18000"].NotAfter; other.After(end) {
		end = other
	}
	meshtest.Stays(t, "requests go on", time.Until(end)+2*time.Second, func() error {
		return got(client.Get(w.app("kept", "/items/3")), 200, "")
	})
	client.WaitFetch(w.id("client"))
}

// TestSPIREMeshsealIsAWorkload: meshseal shows its own SVID, resumes no session,
// and answers nobody but an Envoy of the mesh.
func TestSPIREMeshsealIsAWorkload(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	client := spiretest.StartWorkload(t, w.Programs["client"], w.Agent)
	svid := client.WaitFetch(w.id("client"))
	address := w.Host + ":18000"
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(svid.Bundle))
	config := &tls.Config{Certificates: []tls.Certificate{svid.Certificate(t)}, NextProtos: []string{"h2"},
		ClientSessionCache: tls.NewLRUClientSessionCache(1), ServerName: "meshseal", InsecureSkipVerify: true,
		VerifyConnection: func(c tls.ConnectionState) error {
			if id := c.PeerCertificates[0].URIs[0].String(); id != w.id("meshseal") {
				return fmt.Errorf("the server is %s", id)
			}
			if c.DidResume {
				return errors.New("the session was resumed")
			}
			_, err := c.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots})
			return err
		}}
	check, ads := w.ask(svid.Certificate(t), "app")
	if status.Code(ads) != codes.PermissionDenied {
		t.Errorf("ADS for a workload that is no proxy: %v", ads)
	}
	if got := reason(check); got != "PROXY_UNKNOWN" || codes.Code(check.GetStatus().GetCode()) != codes.PermissionDenied {
		t.Errorf("ext_authz for a workload that is no proxy: %v", check)
	}
	for range 3 {
		// A ticket for the next session comes before the first byte.
		if err := hearsWith(address, config); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSPIREStrangersAreRefused: a client without a certificate, and one whose
// SVID is from another SPIRE server of the same name, do not get past the
// handshake with meshseal, where a workload of the mesh does.
func TestSPIREStrangersAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	client := spiretest.StartWorkload(t, w.Programs["client"], w.Agent)
	other := spiretest.StartServer(t, spiretest.ServerConfig{TrustDomain: domain})
	program := spiretest.BuildWorkload(t, w.Dir+"/stranger", "1")
	wanted := id("app", w.Programs["app"])
	other.CreateEntry(spiretest.Entry{SPIFFEID: wanted, Selectors: program.Selectors()})
	stranger := spiretest.StartWorkload(t, program, other.StartAgent(spiretest.AgentConfig{}))
	for name, c := range map[string]struct {
		certs []tls.Certificate
		heard bool
	}{
		"no certificate": {nil, false},
		"another server": {[]tls.Certificate{stranger.WaitFetch(wanted).Certificate(t)}, false},
		"a workload":     {[]tls.Certificate{client.WaitFetch(w.id("client")).Certificate(t)}, true},
	} {
		err := hears(w.Host+":18000", c.certs)
		if silent, ok := err.(net.Error); (err == nil) != c.heard || ok && silent.Timeout() {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// hears is nil if a TLS server sends the first byte after the handshake. With TLS
// 1.3 a refusal of the client's certificate comes in its place.
func hears(address string, certs []tls.Certificate) error {
	return hearsWith(address, &tls.Config{Certificates: certs, InsecureSkipVerify: true, NextProtos: []string{"h2"}})
}

func hearsWith(address string, config *tls.Config) error {
	conn, err := tls.Dial("tcp", address, config)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 1))
	return err
}
