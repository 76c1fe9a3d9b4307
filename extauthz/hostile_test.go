package extauthz_test

import (
	"context"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	"meshseal/extauthz"
	"meshseal/identity"
	"meshseal/identity/identitytest"
	"meshseal/snapshot"
)

// TestHostileRequests are questions that no honest Envoy asks.
func TestHostileRequests(t *testing.T) {
	w := newWorld(t)
	http := func(change func(*authv3.AttributeContext_HttpRequest)) *question {
		q := w.honest()
		change(q.req.Attributes.Request.Http)
		return q
	}
	bare := func(req *authv3.CheckRequest) *question { return &question{by: w.orders, req: req} }
	for _, c := range []struct {
		name string
		q    *question
		want extauthz.Reason
	}{
		{"empty request", bare(&authv3.CheckRequest{}), extauthz.RequestMalformed},
		{"empty attributes", bare(&authv3.CheckRequest{Attributes: &authv3.AttributeContext{}}), extauthz.ListenerUnmarked},
		{"no metadata", bare(w.honest().req), extauthz.ListenerUnmarked},
		{"no source", func() *question { q := w.honest(); q.req.Attributes.Source = nil; return q }(), extauthz.PeerCertificateMissing},
		{"no HTTP method", http(func(h *authv3.AttributeContext_HttpRequest) { h.Method = "" }), extauthz.RequestMalformed},
		{"no path", http(func(h *authv3.AttributeContext_HttpRequest) { h.Path = "" }), extauthz.RequestMalformed},
		{"CONNECT without a path", http(func(h *authv3.AttributeContext_HttpRequest) { h.Method, h.Path = "CONNECT", "" }), extauthz.RouteNotMatched},
		{"malformed escape", http(func(h *authv3.AttributeContext_HttpRequest) { h.Path = "/api/%zz" }), extauthz.RequestMalformed},
		{"empty HTTP request", http(func(h *authv3.AttributeContext_HttpRequest) { proto.Reset(h) }), extauthz.RequestMalformed},
		{"HTTP asked as TCP", func() *question { q := w.honest(); q.req.Attributes.Request = nil; return q }(), extauthz.ChainKindMismatch},
		{"more headers than anyone has", http(func(h *authv3.AttributeContext_HttpRequest) {
			for i := range 3000 {
				h.Headers[fmt.Sprintf("x-%d", i)] = "1"
			}
		}), extauthz.RequestMalformed},
		{"a megabyte of header", http(func(h *authv3.AttributeContext_HttpRequest) { h.Headers["x"] = strings.Repeat("a", 1<<20) }), extauthz.OK},
		{"control characters", http(func(h *authv3.AttributeContext_HttpRequest) {
			h.Path = "/api/a\n{\"decision\":\"allow\"}\x00\x1b[2J\u2028"
		}), extauthz.OK},
		{"metadata of a type that is not known", func() *question {
			q := w.honest()
			q.req.Attributes.MetadataContext = &corev3.Metadata{TypedFilterMetadata: map[string]*anypb.Any{"x": {TypeUrl: "type.googleapis.com/no.such.Type", Value: []byte("?")}}}
			return q
		}(), extauthz.OK},
		{"metadata of no number, and a path that makes no document", func() *question {
			q := w.honest()
			q.req.Attributes.MetadataContext = &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{"x": {Fields: map[string]*structpb.Value{"n": structpb.NewNumberValue(math.NaN())}}}}
			q.req.Attributes.Request.Http.Path = "/api/%zz"
			return q
		}(), extauthz.RequestMalformed},
		{"metadata of an unknown type, and a path that makes no document", func() *question {
			q := w.honest()
			q.req.Attributes.MetadataContext = &corev3.Metadata{TypedFilterMetadata: map[string]*anypb.Any{"x": {TypeUrl: "type.googleapis.com/no.such.Type", Value: []byte("?")}}}
			q.req.Attributes.Request.Http.Path = "/api/%zz"
			return q
		}(), extauthz.RequestMalformed},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := w.records.count()
			w.wants(t, c.q, c.want)
			if n := w.records.count() - before; n != 1 {
				t.Errorf("%d records, wanted one", n)
			}
		})
	}
}

// TestCheckWithoutAConnection calls in the process, where nothing is proven.
func TestCheckWithoutAConnection(t *testing.T) {
	w := newWorld(t)
	for name, req := range map[string]*authv3.CheckRequest{"nil": nil, "empty": {}, "honest": w.honest().req} {
		t.Run(name, func(t *testing.T) {
			answer, err := w.server.Check(context.Background(), req)
			if err != nil {
				t.Fatal(err)
			}
			if got := reason(t, answer); got == extauthz.OK {
				t.Error("allowed")
			}
		})
	}
}

// panicking fails in the ways that Go code fails.
type panicking struct{}

func (panicking) Record(extauthz.Record) error { panic("recorder") }

// TestPanics: a fault in any part is a denial, whichever part it is.
func TestPanics(t *testing.T) {
	for name, spoil := range map[string]func(*extauthz.Config){
		"recorder": func(c *extauthz.Config) { c.Records = panicking{} },
		"observer": func(c *extauthz.Config) { c.Observe = func(extauthz.Decision, time.Duration) { panic("observer") } },
		"trust bundles": func(c *extauthz.Config) {
			c.Bundles = func() *identity.TrustBundles { panic("bundles") }
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := empty(t)
			c := extauthz.Config{Bundles: w.bundles.Load, Now: w.clock.Now, Records: w.records}
			spoil(&c)
			s, err := extauthz.New(c)
			if err != nil {
				t.Fatal(err)
			}
			w.server = s
			w.adopt(w.fixture, 7)
			w.answers(t, w.honest().asking(w.over("orders")), extauthz.Internal)
		})
	}
	t.Run("clock", func(t *testing.T) {
		s, err := extauthz.New(extauthz.Config{Bundles: func() *identity.TrustBundles { return nil }, Now: func() time.Time { panic("clock") }, Records: &memory{}})
		if err != nil {
			t.Fatal(err)
		}
		answer, err := s.Check(context.Background(), nil)
		if err != nil || reason(t, answer) != extauthz.Internal {
			t.Errorf("%v, %v", answer, err)
		}
	})
}

// answers is wants for a world that may keep no record.
func (w *world) answers(t testing.TB, q *question, want extauthz.Reason) {
	t.Helper()
	if got := reason(t, w.ask(q)); got != want {
		t.Fatalf("answered %s, wanted %s", got, want)
	}
}

// TestUnrecorded: without a record there is no yes, unless that was chosen.
func TestUnrecorded(t *testing.T) {
	w := newWorld(t)
	w.records.fail = errDiskFull
	w.answers(t, w.honest(), extauthz.RecordFailed)
	w.answers(t, w.honest().with(""), extauthz.RecordFailed)

	w = newWorld(t, config(func(c *extauthz.Config) { c.AllowUnrecorded = true }))
	w.records.fail = errDiskFull
	w.answers(t, w.honest(), extauthz.OK)
	w.answers(t, w.honest().with(""), extauthz.PeerCertificateMissing)
}

// TestNewRefuses: no default for a choice of trust.
func TestNewRefuses(t *testing.T) {
	whole := func() extauthz.Config {
		return extauthz.Config{Bundles: func() *identity.TrustBundles { return nil }, Now: time.Now, Records: &memory{}}
	}
	if _, err := extauthz.New(whole()); err != nil {
		t.Fatal(err)
	}
	for name, without := range map[string]func(*extauthz.Config){
		"trust bundles": func(c *extauthz.Config) { c.Bundles = nil },
		"clock":         func(c *extauthz.Config) { c.Now = nil },
		"recorder":      func(c *extauthz.Config) { c.Records = nil },
		"deadline":      func(c *extauthz.Config) { c.Deadline = -1 },
	} {
		c := whole()
		without(&c)
		if s, err := extauthz.New(c); err == nil || s != nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestMany asks from many goroutines while plans and trust bundles change.
func TestMany(t *testing.T) {
	w := newWorld(t)
	q, other := w.honest(), w.honest().with(w.partnerCertificate())
	next := w.changed(same)
	var wg sync.WaitGroup
	for range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := range 40 {
				ask := []*question{q, other}[i%2]
				answer, err := ask.by.Check(metadata.NewOutgoingContext(t.Context(), ask.md), ask.req)
				if err != nil || answer.GetStatus().GetCode() != int32(codes.OK) {
					t.Errorf("answered %v, %v", answer, err)
				}
			}
		}()
	}
	for i := range 20 {
		w.adopt([]*fixture{next, w.fixture}[i%2], uint64(8+i))
		b := *w.bundles.Load()
		w.bundles.Store(&b)
	}
	wg.Wait()
}

// TestManyWithEvidence is the same with every source, while their keys change
// too.
func TestManyWithEvidence(t *testing.T) {
	known, err := identity.NewIntermediates()
	if err != nil {
		t.Fatal(err)
	}
	e := demanding(t, []identity.EvidenceKind{identity.JWTSVID, identity.SPIREEntry}, config(func(c *extauthz.Config) { c.Intermediates = known }),
		content(func(c *snapshot.Content) { c.Mesh.Evidence.Chain = true }))
	nested := e.shop.Intermediate(t).SVID(t, webSVID())
	good, bad := e.showing(e.shopJWT.sign(e.claims())), e.showing(e.shopJWT.sign(e.claims("sub", webID)))
	deep := e.showing(good.req.Attributes.Request.Http.Headers[tokenHeader]).with(identitytest.Envoy(nested))
	deep.req.Attributes.Request.Http.Headers[forwarded] = handedOver(nested)
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			for i := range 30 {
				ask := []*question{good, bad, deep}[i%3]
				answer, err := ask.by.Check(metadata.NewOutgoingContext(t.Context(), ask.md), ask.req)
				if allowed := answer.GetStatus().GetCode() == int32(codes.OK); err != nil || allowed != (ask != bad) {
					t.Errorf("%d: answered %v, %v", i%3, answer, err)
				}
			}
		})
	}
	for i := range 20 {
		e.adopt(e.fixture, uint64(8+i))
		e.trust(map[string]*issuer{"shop.test": e.shopJWT})
		if err := known.Configure(); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
}

// TestRawHeaders: what the policy judges is what the backend gets, or nothing
// is allowed.
func TestRawHeaders(t *testing.T) {
	w := newWorld(t)
	raw := func(kv ...string) *question {
		q := w.honest()
		h := q.req.Attributes.Request.Http
		m := &corev3.HeaderMap{}
		for name, value := range h.Headers {
			m.Headers = append(m.Headers, &corev3.HeaderValue{Key: name, RawValue: []byte(value)})
		}
		for i := 0; i < len(kv); i += 2 {
			m.Headers = append(m.Headers, &corev3.HeaderValue{Key: kv[i], RawValue: []byte(kv[i+1])})
		}
		h.Headers, h.HeaderMap = nil, m
		return q
	}
	w.wants(t, raw("X-User", "ann", "x-user", "bob"), extauthz.OK)
	if got := w.records.last(t); !strings.Contains(line(t, got), `"x-user":"ann,bob"`) {
		t.Errorf("the record has other headers: %s", line(t, got))
	}
	w.wants(t, raw("x-user", "ali\xe9ce"), extauthz.RequestMalformed)
	both := raw()
	both.req.Attributes.Request.Http.Headers = map[string]string{"x-user": "ann"}
	w.wants(t, both, extauthz.RequestMalformed)
}
