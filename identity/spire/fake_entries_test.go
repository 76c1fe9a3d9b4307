package spire

import (
	"context"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	bundlev1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/bundle/v1"
	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

// fakeEntries is a fake of a SPIRE server's Entry API. It answers as the real
// one was seen to: an ID that is taken by an entry in another place is
// ALREADY_EXISTS without an entry; a page token comes with the last entries too.
// integration/spire runs the client against the real one.
type fakeEntries struct {
	entryv1.UnimplementedEntryServer
	bundlev1.UnimplementedBundleServer

	mu      sync.Mutex
	entries map[string]*types.Entry
	fail    error // of every call, where set
	pages   int   // answered
	// tamper, if set, changes an answer of BatchCreateEntry, ListEntries or
	// BatchDeleteEntry.
	tamper func(any)
}

func (f *fakeEntries) GetBundle(context.Context, *bundlev1.GetBundleRequest) (*types.Bundle, error) {
	return &types.Bundle{TrustDomain: "shop.test"}, nil
}

func (f *fakeEntries) do(answer any, work func()) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail != nil {
		return f.fail
	}
	work()
	if f.tamper != nil {
		f.tamper(answer)
	}
	return nil
}

func (f *fakeEntries) ListEntries(_ context.Context, r *entryv1.ListEntriesRequest) (*entryv1.ListEntriesResponse, error) {
	out := &entryv1.ListEntriesResponse{}
	return out, f.do(out, func() {
		f.pages++
		for _, id := range slices.Sorted(maps.Keys(f.entries)) {
			if id > r.PageToken && len(out.Entries) < int(r.PageSize) {
				out.Entries = append(out.Entries, f.entries[id])
				out.NextPageToken = id
			}
		}
	})
}

func (f *fakeEntries) BatchCreateEntry(_ context.Context, r *entryv1.BatchCreateEntryRequest) (*entryv1.BatchCreateEntryResponse, error) {
	out := &entryv1.BatchCreateEntryResponse{}
	return out, f.do(out, func() {
		for _, e := range r.Entries {
			out.Results = append(out.Results, f.create(e))
		}
	})
}

func (f *fakeEntries) create(e *types.Entry) *entryv1.BatchCreateEntryResponse_Result {
	say := func(c codes.Code, text string, e *types.Entry) *entryv1.BatchCreateEntryResponse_Result {
		return &entryv1.BatchCreateEntryResponse_Result{Status: &types.Status{Code: int32(c), Message: text}, Entry: e}
	}
	if slices.Contains(e.FederatesWith, "unknown.test") {
		return say(codes.Internal, `unable to find federated bundle "spiffe://unknown.test"`, nil)
	}
	place := func(e *types.Entry) string {
		return fmt.Sprint(e.SpiffeId.Path, e.ParentId.Path, e.Selectors)
	}
	for _, other := range f.entries {
		if place(other) == place(e) {
			return say(codes.AlreadyExists, "similar entry already exists", other)
		}
	}
	if _, taken := f.entries[e.Id]; taken {
		return say(codes.AlreadyExists, "failed to create entry", nil)
	}
	f.entries[e.Id] = proto.Clone(e).(*types.Entry)
	return say(codes.OK, "OK", f.entries[e.Id])
}

func (f *fakeEntries) BatchDeleteEntry(_ context.Context, r *entryv1.BatchDeleteEntryRequest) (*entryv1.BatchDeleteEntryResponse, error) {
	out := &entryv1.BatchDeleteEntryResponse{}
	return out, f.do(out, func() {
		for _, id := range r.Ids {
			status := &types.Status{Code: int32(codes.OK)}
			if f.entries[id] == nil {
				status = &types.Status{Code: int32(codes.NotFound), Message: "entry not found"}
			}
			delete(f.entries, id)
			out.Results = append(out.Results, &entryv1.BatchDeleteEntryResponse_Result{Id: id, Status: status})
		}
	})
}

// serve runs the fake on a listener until the test ends.
func (f *fakeEntries) serve(t *testing.T, l net.Listener, options ...grpc.ServerOption) {
	t.Helper()
	g := grpc.NewServer(options...)
	entryv1.RegisterEntryServer(g, f)
	bundlev1.RegisterBundleServer(g, f)
	done := make(chan struct{})
	go func() { defer close(done); _ = g.Serve(l) }()
	t.Cleanup(func() { g.Stop(); <-done })
}

// newFakeEntries is a fake on a socket and a client of it.
func newFakeEntries(t *testing.T) (*fakeEntries, *Client) {
	t.Helper()
	dir, err := os.MkdirTemp("", "spire") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "api"))
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeEntries{entries: map[string]*types.Entry{}}
	f.serve(t, l)
	c, err := NewClient(ClientConfig{Server: "unix://" + l.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return f, c
}
