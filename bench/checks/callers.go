package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"meshseal/internal/meshtest"
)

// callers is how many certificates the warm rows have.
const callers = 500

// caller is a workload's certificate, as the Envoy of orders says it.
type caller struct {
	principal   string
	certificate string
}

// escape writes a PEM text as Envoy does.
var escape = strings.NewReplacer("\n", "%0A", " ", "%20", "+", "%2B", "/", "%2F", "=", "%3D")

// newCallers makes new certificates, of the workloads from the first one on.
func (b *bench) newCallers(first, n int) []*caller {
	list := make([]*caller, n)
	for i := range list {
		list[i] = b.newCaller(spiffeID(workload((first + i) % workloads)))
	}
	return list
}

func (b *bench) newCaller(id string) *caller {
	return &caller{principal: id, certificate: escape.Replace(b.world.ca.SVID(id).CertificatePEM())}
}

// form is a check that a real Envoy sent: its message and its metadata.
type form struct {
	authv3.UnimplementedAuthorizationServer
	mu      sync.Mutex
	message *authv3.CheckRequest
	carried metadata.MD
}

// Check keeps what came, and allows.
func (f *form) Check(ctx context.Context, r *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.message = r
	f.carried, _ = metadata.FromIncomingContext(ctx)
	return floor{}.Check(ctx, r)
}

// capture sends a request through a real Envoy with the resources of s and takes
// what it asks.
func (b *bench) capture(s *server) *form {
	f := &form{}
	socket := s.dir + "/capture.sock"
	meshtest.ServeGRPC(b, "unix", socket, func(g *grpc.Server) { authv3.RegisterAuthorizationServer(g, f) })
	envoy := b.envoy(s, "orders", socket)
	web := b.web(1)
	if code, err := get(web, "https://"+b.world.hosts["orders"]+":8443/orders/1?page=1"); err != nil || code != http.StatusOK {
		b.Fatalf("the request through Envoy: %d, %v\n%s", code, err, envoy.Tail())
	}
	web.CloseIdleConnections()
	_ = envoy.Stop()
	// What gRPC and HTTP/2 write themselves is left out.
	for key := range f.carried {
		if strings.HasPrefix(key, ":") || strings.HasPrefix(key, "grpc-") || key == "content-type" || key == "te" || key == "user-agent" {
			delete(f.carried, key)
		}
	}
	return f
}

// web is an HTTP client with the certificate of a workload.
func (b *bench) web(conns int) *http.Client {
	svid := b.world.ca.SVID(spiffeID(workload(0)))
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		TLSClientConfig: svid.Client(b.world.ca), MaxConnsPerHost: conns, MaxIdleConnsPerHost: conns,
	}}
}

// get asks for a page as a service does, with the headers that it sends and that
// tracing adds.
func get(c *http.Client, url string) (code int, err error) {
	r, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	for name, value := range map[string]string{
		"accept": "application/json", "accept-language": "en-GB,en;q=0.8", "cache-control": "no-cache",
		"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "tracestate": "vendor=t61rcWkgMzE",
		"x-tenant": "north", "x-client-version": "2026.11.3",
	} {
		r.Header.Set(name, value)
	}
	resp, err := c.Do(r)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

// request is the form's request of a caller, with a path, a method and a request
// ID of its own.
func (f *form) request(c *caller, method, path string, n int) *check {
	m := proto.Clone(f.message).(*authv3.CheckRequest)
	m.Attributes.Source.Certificate, m.Attributes.Source.Principal = c.certificate, c.principal
	h := m.Attributes.Request.Http
	id := fmt.Sprintf("%08x-0000-4000-8000-%012x", n, n)
	h.Path, h.Method = path, method
	set := map[string]string{":path": path, ":method": method, "x-request-id": id}
	for name, value := range set {
		if _, ok := h.GetHeaders()[name]; ok {
			h.Headers[name] = value
		}
	}
	for _, header := range h.GetHeaderMap().GetHeaders() {
		if value, ok := set[header.GetKey()]; ok {
			if header.RawValue != nil {
				header.RawValue = []byte(value)
			} else {
				header.Value = value
			}
		}
	}
	wire, err := proto.Marshal(m)
	if err != nil {
		panic(err) // it was decoded
	}
	return &check{wire: wire, carried: metadata.NewOutgoingContext(context.Background(), f.carried)}
}

// requests are n requests of the callers in turn, on eight paths.
func (f *form) requests(list []*caller, n int) []*check {
	out := make([]*check, n)
	for i := range out {
		out[i] = f.request(list[i%len(list)], http.MethodGet, fmt.Sprintf("/orders/%d?page=%d", i%8, i%3), i)
	}
	return out
}
