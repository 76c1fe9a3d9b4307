package spire

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"meshseal/identity"
	"meshseal/identity/identitytest"
)

func shopID(path string) spiffeid.ID { return spiffeid.RequireFromString("spiffe://shop.test" + path) }

func digest(name string) identity.Digest { return identity.SumDigest([]byte(name)) }

// entry is one with everything set.
func entry(id string) Entry {
	return Entry{
		ID: id, SPIFFEID: shopID("/orders/sha256/" + digest(id).Hex()), ParentID: shopID("/nodes"),
		Selectors:     []Selector{{"unix", "path:/opt/orders"}, {"unix", "sha256:" + digest(id).Hex()}, {"unix", "uid:1000"}},
		FederatesWith: []spiffeid.TrustDomain{spiffeid.RequireTrustDomainFromString("partner.test")},
		X509TTL:       time.Minute, JWTTTL: 2 * time.Minute, Expires: time.Unix(2000000000, 0),
		DNSNames: []string{"orders"}, Hint: "hint", NoPrefetch: true,
	}
}

func TestEntriesComeBackAsTheyWereCreated(t *testing.T) {
	_, c := newFakeEntries(t)
	want := entry("a")
	results, err := c.Create(t.Context(), []Entry{want})
	if err != nil || results[0] != nil {
		t.Fatal(err, results)
	}
	got, err := c.List(t.Context())
	if err != nil || len(got) != 1 || got[0].Digest() != want.Digest() || got[0].ID != "a" || !slices.Equal(got[0].Selectors, want.Selectors) {
		t.Fatalf("got %+v, %v; want %+v", got, err, want)
	}
	if td, err := c.TrustDomain(t.Context()); err != nil || td != want.SPIFFEID.TrustDomain() {
		t.Errorf("trust domain %s, %v", td, err)
	}
}

// TestEveryFieldOfAnEntryIsInItsDigest: whatever somebody edits shows.
func TestEveryFieldOfAnEntryIsInItsDigest(t *testing.T) {
	seen := map[identity.Digest]string{entry("a").Digest(): "nothing"}
	for name, change := range map[string]func(*Entry){
		"SPIFFE ID": func(e *Entry) { e.SPIFFEID = shopID("/other") }, "parent": func(e *Entry) { e.ParentID = shopID("/other") },
		"selector":           func(e *Entry) { e.Selectors[1].Value = "uid:0" },
		"one selector less":  func(e *Entry) { e.Selectors = e.Selectors[1:] },
		"federation":         func(e *Entry) { e.FederatesWith = nil },
		"X.509 lifetime":     func(e *Entry) { e.X509TTL++; e.X509TTL += time.Second },
		"JWT lifetime":       func(e *Entry) { e.JWTTTL += time.Second },
		"expiry":             func(e *Entry) { e.Expires = time.Time{} },
		"admin":              func(e *Entry) { e.Admin = true },
		"downstream":         func(e *Entry) { e.Downstream = true },
		"store":              func(e *Entry) { e.StoreSVID = true },
		"prefetch":           func(e *Entry) { e.NoPrefetch = false },
		"jti":                func(e *Entry) { e.JTI = true },
		"DNS name":           func(e *Entry) { e.DNSNames = nil },
		"another DNS name":   func(e *Entry) { e.DNSNames = []string{"orders", "b"} },
		"hint":               func(e *Entry) { e.Hint = "" },
		"a selector's colon": func(e *Entry) { e.Selectors[0] = Selector{"unix:path", "/opt/orders"} },
	} {
		e := entry("a")
		change(&e)
		if before, twice := seen[e.Digest()]; twice {
			t.Errorf("%s and %s have one digest", name, before)
		}
		seen[e.Digest()] = name
	}
	e := entry("a")
	e.ID = "b"
	if e.Digest() != entry("a").Digest() {
		t.Error("the digest depends on the ID")
	}
}

func TestListReadsEveryPage(t *testing.T) {
	f, c := newFakeEntries(t)
	const n = 2*pageSize + 1
	for i := range n {
		p, err := entry(fmt.Sprintf("%05d", i)).toProto()
		if err != nil {
			t.Fatal(err)
		}
		f.entries[p.Id] = p
	}
	got, err := c.List(t.Context())
	if err != nil || len(got) != n || got[0].ID != "00000" || got[n-1].ID != fmt.Sprintf("%05d", n-1) {
		t.Fatalf("%d entries, %v", len(got), err)
	}
	if f.pages != 4 { // the last is empty: a token came with the last entry
		t.Errorf("%d pages", f.pages)
	}
}

func TestListThatNeverEndsIsAnError(t *testing.T) {
	f, c := newFakeEntries(t)
	f.tamper = func(a any) { a.(*entryv1.ListEntriesResponse).NextPageToken = "again" }
	if _, err := c.List(t.Context()); err == nil || !strings.Contains(err.Error(), "came twice") {
		t.Errorf("got %v", err)
	}
}

func TestOneEntryThatFailsDoesNotHideTheOthers(t *testing.T) {
	_, c := newFakeEntries(t)
	bad := entry("bad")
	bad.FederatesWith = []spiffeid.TrustDomain{spiffeid.RequireTrustDomainFromString("unknown.test")}
	results, err := c.Create(t.Context(), []Entry{entry("a"), bad, entry("b")})
	if err != nil || results[0] != nil || results[2] != nil {
		t.Fatal(err, results)
	}
	if results[1] == nil || !strings.Contains(results[1].Error(), "bad") || !strings.Contains(results[1].Error(), "unknown.test") {
		t.Errorf("the error does not name the entry and the bundle: %v", results[1])
	}
}

func TestCreateAgainIsNoError(t *testing.T) {
	_, c := newFakeEntries(t)
	for range 2 {
		if results, err := c.Create(t.Context(), []Entry{entry("a")}); err != nil || results[0] != nil {
			t.Fatal(err, results)
		}
	}
}

func TestCreateTellsWhoHasThePlace(t *testing.T) {
	_, c := newFakeEntries(t)
	there := entry("a")
	there.ID = "somebody"
	sameID := entry("b")
	sameID.ID = "c"
	if results, err := c.Create(t.Context(), []Entry{there, sameID}); err != nil || errors.Join(results...) != nil {
		t.Fatal(err, results)
	}
	results, err := c.Create(t.Context(), []Entry{entry("a"), entry("c")})
	if err != nil {
		t.Fatal(err)
	}
	if !errors.Is(results[0], ErrPlaceTaken) || !strings.Contains(results[0].Error(), "somebody") {
		t.Errorf("place: %v", results[0])
	}
	if results[1] == nil || errors.Is(results[1], ErrPlaceTaken) || !strings.Contains(results[1].Error(), "has this ID") {
		t.Errorf("ID: %v", results[1])
	}
}

func TestBatchesAreBounded(t *testing.T) {
	_, c := newFakeEntries(t)
	var all []Entry
	var ids []string
	for i := range batchSize + 1 {
		all = append(all, entry(fmt.Sprint(i)))
		ids = append(ids, fmt.Sprint(i))
	}
	created, err := c.Create(t.Context(), all)
	if err != nil || len(created) != len(all) || errors.Join(created...) != nil {
		t.Fatalf("%d of %d created: %v, %v", len(created), len(all), err, errors.Join(created...))
	}
	deleted, err := c.Delete(t.Context(), ids)
	if err != nil || len(deleted) != len(all) || errors.Join(deleted...) != nil {
		t.Fatalf("%d of %d deleted: %v, %v", len(deleted), len(all), err, errors.Join(deleted...))
	}
}

// TestAnswersThatDoNotFitAreErrors: what the server says it has is compared with
// what was asked for.
func TestAnswersThatDoNotFitAreErrors(t *testing.T) {
	for name, tamper := range map[string]func(any){
		"another content": func(a any) {
			if r, ok := a.(*entryv1.BatchCreateEntryResponse); ok {
				r.Results[0].Entry = &types.Entry{Id: "a", SpiffeId: r.Results[0].Entry.SpiffeId, ParentId: r.Results[0].Entry.ParentId, Admin: true}
			}
		},
		"no result": func(a any) {
			if r, ok := a.(*entryv1.BatchCreateEntryResponse); ok {
				r.Results = nil
			}
			if r, ok := a.(*entryv1.BatchDeleteEntryResponse); ok {
				r.Results = nil
			}
		},
		"another ID": func(a any) {
			if r, ok := a.(*entryv1.BatchCreateEntryResponse); ok {
				r.Results[0].Entry = &types.Entry{Id: "x", SpiffeId: r.Results[0].Entry.SpiffeId, ParentId: r.Results[0].Entry.ParentId}
			}
			if r, ok := a.(*entryv1.BatchDeleteEntryResponse); ok {
				r.Results[0].Id = "x"
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			f, c := newFakeEntries(t)
			f.tamper = tamper
			results, err := c.Create(t.Context(), []Entry{entry("a")})
			if err == nil && results[0] == nil {
				t.Error("create: no error")
			}
			results, err = c.Delete(t.Context(), []string{"a"})
			if name != "another content" && err == nil && results[0] == nil {
				t.Error("delete: no error")
			}
		})
	}
}

func TestDeleteOfWhatIsNotThereIsNoError(t *testing.T) {
	_, c := newFakeEntries(t)
	if results, err := c.Delete(t.Context(), []string{"nothing"}); err != nil || results[0] != nil {
		t.Fatal(err, results)
	}
}

func TestServerThatRefusesIsAnErrorWithItsName(t *testing.T) {
	f, c := newFakeEntries(t)
	f.fail = status.Error(codes.PermissionDenied, "not an admin")
	_, listed := c.List(t.Context())
	_, created := c.Create(t.Context(), []Entry{entry("a")})
	_, deleted := c.Delete(t.Context(), []string{"a"})
	for what, err := range map[string]error{"list": listed, "create": created, "delete": deleted} {
		if err == nil || !strings.Contains(err.Error(), "not an admin") || !strings.Contains(err.Error(), "unix://") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestWhereAServerCanBe(t *testing.T) {
	for _, bad := range []string{"", "unix://relative", "/run/api.sock", "http://host:1", "unix:/run/api.sock", "host:", "host:http", ":8081", "host", "host:8081"} {
		if _, err := NewClient(ClientConfig{Server: bad, Now: time.Now}); err == nil {
			t.Errorf("%q was taken without an identity", bad)
		}
	}
}

// TestServerOverTCP: it has to be the SPIRE server of the own trust domain, and
// it gets the own SVID.
func TestServerOverTCP(t *testing.T) {
	shop, other := identitytest.NewCA(t, "shop.test"), identitytest.NewCA(t, "other.test")
	own, _, _ := opened(t, newAgent(t), message(t, shop.SVID(t, me), shop.Bundle(), nil))
	for name, c := range map[string]struct {
		ca   *identitytest.CA
		id   string
		opts []identitytest.Option
		want error
	}{
		"the server":                 {ca: shop, id: "spiffe://shop.test/spire/server"},
		"an agent":                   {shop, "spiffe://shop.test/spire/agent/x", nil, identity.ErrID},
		"a workload":                 {shop, "spiffe://shop.test/orders", nil, identity.ErrID},
		"below the server":           {shop, "spiffe://shop.test/spire/server/x", nil, identity.ErrID},
		"the server of another":      {other, "spiffe://other.test/spire/server", nil, identity.ErrChain},
		"the right ID by another CA": {other, "spiffe://shop.test/spire/server", nil, identity.ErrChain},
		"expired":                    {shop, "spiffe://shop.test/spire/server", []identitytest.Option{identitytest.WithTimes(time.Now().Add(-time.Hour), time.Now().Add(-time.Minute))}, identity.ErrChain},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			f, callers := &fakeEntries{entries: map[string]*types.Entry{}}, make(chan string, 1)
			f.serve(t, l, grpc.Creds(credentials.NewTLS(&tls.Config{
				Certificates: []tls.Certificate{c.ca.SVID(t, c.id, c.opts...)}, ClientAuth: tls.RequireAnyClientCert, NextProtos: []string{"h2"},
				VerifyConnection: func(cs tls.ConnectionState) error {
					callers <- cs.PeerCertificates[0].URIs[0].String()
					return nil
				},
			})))
			client, err := NewClient(ClientConfig{Server: l.Addr().String(), Identity: own, Now: time.Now})
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			_, err = client.List(t.Context())
			if (err == nil) != (c.want == nil) || c.want != nil && !strings.Contains(err.Error(), c.want.Error()) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if c.want == nil {
				if caller := <-callers; caller != me {
					t.Errorf("the server saw %s", caller)
				}
			}
		})
	}
}

// TestHandshakeWithTheServerIsNeverResumed: go-spiffe's check of the peer would
// not run on a resumed one.
func TestHandshakeWithTheServerIsNeverResumed(t *testing.T) {
	shop := identitytest.NewCA(t, "shop.test")
	own, _, _ := opened(t, newAgent(t), message(t, shop.SVID(t, me), shop.Bundle(), nil))
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{shop.SVID(t, "spiffe://shop.test/spire/server")}, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("x")) // carries the tickets of TLS 1.3 too
			_ = c.Close()
		}
	}()
	config := serverTLS(own, time.Now)
	for range 3 {
		c, err := tls.Dial("tcp", l.Addr().String(), config)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		if c.ConnectionState().DidResume {
			t.Error("a handshake was resumed")
		}
		_ = c.Close()
	}
}
