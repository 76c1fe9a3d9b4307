//go:build spire

package spire

import (
	"context"
	"crypto/tls"
	"fmt"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"meshseal/integration/spire/spiretest"
)

// TestSPIREProxyBinary: where proxy.yaml lists what the Envoy may run, an Envoy
// of another binary gets neither its configuration nor a decision, though
// somebody gave it an SVID with the proxy's SPIFFE ID; and the one that is
// listed is refused with the next request when a commit takes it off the list.
func TestSPIREProxyBinary(t *testing.T) {
	t.Parallel()
	w := newWorld(t, edited(lasting), svidTTL(5*time.Minute, "client"), edited(func(w *world, files map[string]string) {
		files["proxies/app/proxy.yaml"] += "allowed: [sha256:" + w.Programs["app"].Digest + "]\n"
	}))
	client := spiretest.StartWorkload(t, w.Programs["client"], w.Agent)
	w.startEnvoy("app", "app")
	client.WaitFetch(w.id("client"))
	want(t, client, w.app("kept", "/items/1"), 200, "")

	// An Envoy with one byte more, and a program that is no Envoy at all.
	w.Programs["changed"] = w.Programs["app"].Copy(t, w.Dir+"/changed/envoy", "x")
	w.Programs["nobody"] = spiretest.BuildWorkload(t, w.Dir+"/nobody", "1")
	changed, nobody := id("app", w.Programs["changed"]), id("app", w.Programs["nobody"])
	w.SPIRE.CreateEntry(spiretest.Entry{SPIFFEID: changed, Selectors: w.Programs["changed"].Selectors()})
	w.SPIRE.CreateEntry(spiretest.Entry{SPIFFEID: nobody, Selectors: w.Programs["nobody"].Selectors()})
	envoy := w.launchEnvoy("app", "changed")
	envoy.Eventually("the changed Envoy is refused", func() error {
		if log := w.Server.Log(); !strings.Contains(log, "an xDS stream was denied") || !strings.Contains(log, changed) {
			return fmt.Errorf("the server said nothing of %s", changed)
		}
		return nil
	})
	if body, err := envoy.Admin("/listeners"); err != nil || strings.Contains(body, w.appHost) {
		t.Errorf("the changed Envoy has listeners: %s, %v", body, err)
	}
	svid := spiretest.StartWorkload(t, w.Programs["nobody"], w.Agent).WaitFetch(nobody)
	check, ads := w.ask(svid.Certificate(t), "app")
	if status.Code(ads) != codes.PermissionDenied || !strings.Contains(ads.Error(), "may not run") {
		t.Errorf("ADS: %v", ads)
	}
	if got := reason(check); got != "PROXY_DIGEST_NOT_ALLOWED" {
		t.Errorf("ext_authz: %q: %v", got, check)
	}

	commit := w.Repo.Replace("another Envoy", "proxies/app/proxy.yaml", "allowed: [sha256:"+w.Programs["app"].Digest+"]", "allowed: [sha256:"+w.Programs["changed"].Digest+"]")
	w.waitInForce(commit)
	if a := want(t, client, w.app("kept", "/items/2"), 403, "PROXY_DIGEST_NOT_ALLOWED"); !a.Reused {
		t.Error("the connection was opened anew")
	}
}

// ask opens an ADS stream and asks ext_authz with a certificate, and returns what
// was answered and how the stream ended.
func (w *world) ask(cert tls.Certificate, node string) (check *authv3.CheckResponse, ads error) {
	w.t.Helper()
	conn, err := grpc.NewClient(w.Host+":18000", grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}, InsecureSkipVerify: true})))
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(w.t.Context(), 10*time.Second)
	defer cancel()
	stream, ads := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if ads == nil {
		// An error of Send says that the stream has ended; Recv says why.
		_ = stream.Send(&discoveryv3.DeltaDiscoveryRequest{Node: &corev3.Node{Id: node}, TypeUrl: "type.googleapis.com/envoy.config.cluster.v3.Cluster"})
		_, ads = stream.Recv()
	}
	check, err = authv3.NewAuthorizationClient(conn).Check(ctx, &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{Method: "GET", Path: "/items", Host: "app", Protocol: "HTTP/1.1"}}}})
	if err != nil {
		w.t.Fatal(err)
	}
	return check, ads
}

// reason is the reason code of a denial.
func reason(answer *authv3.CheckResponse) string {
	for _, h := range answer.GetDeniedResponse().GetHeaders() {
		if h.GetHeader().GetKey() == "x-meshseal-reason" {
			return h.GetHeader().GetValue() + string(h.GetHeader().GetRawValue())
		}
	}
	return ""
}
