package extauthz_test

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"strings"
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"

	"meshseal/extauthz"
	"meshseal/identity"
	"meshseal/identity/identitytest"
	"meshseal/snapshot"
)

// asOrders is the context of a call over a TLS connection of orders' proxy.
func (w *world) asOrders(md metadata.MD) context.Context {
	chain := identitytest.Chain(w.t, w.svid("spiffe://shop.test/ns/shop/orders", image("orders-1")))
	ctx := peer.NewContext(context.Background(), &peer.Peer{AuthInfo: credentials.TLSInfo{State: tls.ConnectionState{PeerCertificates: chain}}})
	return metadata.NewIncomingContext(ctx, md)
}

// keys are the provenance keys in order; a fuzzed text has one value a line.
func keys() []string {
	var out []string
	for _, p := range snapshot.Provenance() {
		out = append(out, p[0])
	}
	return out
}

func lines(md metadata.MD) string {
	var out []string
	for _, k := range keys() {
		out = append(out, strings.Join(md.Get(k), ""))
	}
	return strings.Join(out, "\n")
}

// fromLines is metadata of which an empty line leaves its key out, and lines
// behind the last key give keys a second value.
func fromLines(text string) metadata.MD {
	md, all := metadata.MD{}, keys()
	for i, value := range strings.Split(text, "\n") {
		if value != "" {
			md.Append(all[i%len(all)], value)
		}
	}
	return md
}

// FuzzCheck: whatever bytes arrive as a CheckRequest, with whatever metadata,
// the answer is a whole one, and it allows only web through the sealed HTTP
// route.
func FuzzCheck(f *testing.F) {
	w := newWorld(f, policy(`allow if input.attributes.request.http.method == "GET"`), config(func(c *extauthz.Config) { c.Records = discard{} }))
	w.fixedCA()
	honest := w.honest()
	for _, q := range []*question{honest, w.tcp(), w.outbound(nil, "orders", "out", "payments")} {
		data, err := proto.Marshal(q.req)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data, lines(q.md))
		f.Add(data[:len(data)/2], lines(q.md))
		f.Add(data, lines(q.md)+"\n"+lines(q.md))
	}
	ctx := w.asOrders(nil)
	if answer, err := w.server.Check(metadata.NewIncomingContext(ctx, honest.md), honest.req); err != nil || reason(f, answer) != extauthz.OK {
		f.Fatalf("the honest request: %v, %v", answer, err)
	}
	f.Fuzz(func(t *testing.T, data []byte, text string) {
		req := new(authv3.CheckRequest)
		if proto.Unmarshal(data, req) != nil {
			return
		}
		md := fromLines(text)
		answer, err := w.server.Check(metadata.NewIncomingContext(ctx, md), req)
		if err != nil || answer == nil {
			t.Fatalf("answered %v, %v", answer, err)
		}
		if reason(t, answer) != extauthz.OK {
			return
		}
		a := req.GetAttributes()
		if w.isOutbound(md) {
			return
		}
		if !strings.HasPrefix(a.GetRequest().GetHttp().GetPath(), "/api") {
			t.Errorf("allowed by a route that does not take %q", a.GetRequest().GetHttp().GetPath())
		}
		if !w.isWeb(a.GetSource().GetCertificate()) || a.GetRequest().GetHttp().GetMethod() != "GET" {
			t.Errorf("allowed a caller that proved nothing: %v", req)
		}
		for _, key := range keys() {
			if key != snapshot.HeaderLocalAddress && strings.Join(md.Get(key), "\n") != strings.Join(honest.md.Get(key), "\n") {
				t.Errorf("allowed with %s %q", key, md.Get(key))
			}
		}
	})
}

// fixedCA gives the world a CA with a key that is the same in every process:
// the fuzzer runs inputs in other processes than the one that made the seeds,
// and the honest one among them has to be honest there too.
func (w *world) fixedCA() {
	w.shop = identitytest.NewCA(w.t, "shop.test", identitytest.WithKey(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))),
		identitytest.WithTemplate(func(c *x509.Certificate) {
			c.SerialNumber, c.Subject = big.NewInt(1), pkix.Name{CommonName: "the same in every process"}
		}))
	w.bundles.Store(identitytest.Bundles(w.t, w.shop))
	w.webCertificate = identitytest.Envoy(w.svid(webID, image("web-1")))
}

// isWeb reports whether a certificate proves to be web with its image.
func (w *world) isWeb(certificate string) bool {
	c, err := identity.PeerCertificate(certificate)
	if err != nil {
		return false
	}
	svid, err := identity.VerifySVID([]*x509.Certificate{c}, w.bundles.Load(), w.clock.Now())
	return err == nil && svid.ID().String() == webID+"/sha256/"+image("web-1").Hex()
}

// isOutbound reports whether the metadata is that of the one sealed outbound
// route of orders, whose caller is proven by the connection.
func (w *world) isOutbound(md metadata.MD) bool {
	want := w.outbound(nil, "orders", "out", "payments").md
	for _, key := range keys() {
		if strings.Join(md.Get(key), "\n") != strings.Join(want.Get(key), "\n") {
			return false
		}
	}
	return true
}

// discard keeps no record, but makes each.
type discard struct{}

func (discard) Record(r extauthz.Record) error {
	return extauthz.NewLines(nothing{}).Record(r)
}

type nothing struct{}

func (nothing) Write(p []byte) (int, error) { return len(p), nil }

// BenchmarkCheckEvidence is the same with every source of evidence demanded.
func BenchmarkCheckEvidence(b *testing.B) {
	e := demanding(b, demandAll, config(func(c *extauthz.Config) { c.Records = discard{} }))
	q := e.showing(e.shopJWT.sign(e.claims())).with(identitytest.Envoy(e.svid(webID, image("web-1"), extension(image("web-1").String()))))
	ctx := e.asOrders(q.md)
	b.ReportAllocs()
	for b.Loop() {
		answer, err := e.server.Check(ctx, q.req)
		if err != nil || answer.GetStatus().GetCode() != int32(codes.OK) {
			b.Fatal(answer, err)
		}
	}
}

// BenchmarkCheck is one honest request from question to answer, in the
// process: every step, Rego, and the record.
func BenchmarkCheck(b *testing.B) {
	w := newWorld(b, policy(`default allow := false

allow if {
	input.meshseal.workload == "web"
	input.attributes.request.http.method == "GET"
	input.parsed_path[0] == "api"
}`), config(func(c *extauthz.Config) { c.Records = discard{} }))
	q := w.honest()
	ctx := w.asOrders(q.md)
	b.ReportAllocs()
	for b.Loop() {
		answer, err := w.server.Check(ctx, q.req)
		if err != nil || answer.GetStatus().GetCode() != int32(codes.OK) {
			b.Fatal(answer, err)
		}
	}
}
