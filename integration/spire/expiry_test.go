//go:build spire

package spire

import (
	"fmt"
	"testing"
	"time"

	"meshseal/integration/spire/spiretest"
	"meshseal/internal/meshtest"
)

// TestSPIREExpiredOnLiveConnection: a connection that was opened with an SVID is
// refused from the moment on in which that SVID ends, while the same workload
// goes on with a newer SVID and another connection.
func TestSPIREExpiredOnLiveConnection(t *testing.T) {
	t.Parallel()
	w := newWorld(t, edited(lasting), svidTTL(20*time.Second, "client"))
	client := spiretest.StartWorkload(t, w.Programs["client"], w.Agent)
	w.startEnvoy("app", "app")
	svid := client.WaitFetch(w.id("client"))
	want(t, client, w.app("kept", "/items/kept"), 200, "")
	var last time.Time // of an allowed request's beginning
	meshtest.Eventually(t, "the SVID of the connection ends", func() error {
		begin := time.Now()
		a := client.Get(w.app("kept", "/items/kept"))
		if a.Status == 200 {
			last = begin
		}
		if !a.Reused {
			t.Fatalf("the connection was opened anew: %+v", a)
		}
		return got(a, 403, "PEER_EXPIRED")
	})
	if last.After(svid.NotAfter) {
		t.Errorf("allowed %s after the end of the SVID", last.Sub(svid.NotAfter))
	}
	if r := w.record("/items/kept"); r.At("meshseal", "reason") != "PEER_EXPIRED" {
		t.Errorf("the record says %v", r)
	}
	client.WaitFetch(w.id("client"))
	want(t, client, w.app("new", "/items/new"), 200, "")
}

// TestSPIREServerStopped: without the SPIRE server requests go on until the
// client's SVID ends, and are denied with that reason; when the server is back,
// so is the client.
func TestSPIREServerStopped(t *testing.T) {
	t.Parallel()
	w := newWorld(t, edited(lasting), svidTTL(20*time.Second, "client"))
	client := spiretest.StartWorkload(t, w.Programs["client"], w.Agent)
	w.startEnvoy("app", "app")
	client.WaitWatch(w.id("client"))
	want(t, client, w.app("before", "/items/1"), 200, "")
	if err := w.SPIRE.Stop(); err != nil {
		t.Fatal(err)
	}
	end := client.Newest().NotAfter // nobody renews it
	n := 0
	meshtest.Stays(t, "requests go on", time.Until(end)-3*time.Second, func() error {
		n++
		conn := fmt.Sprint("during-", n%7) // new connections, too
		if n%7 == 0 {
			client.Close(conn)
		}
		return got(client.Get(w.app(conn, "/items/2")), 200, "")
	})
	meshtest.Eventually(t, "the SVID ends", func() error {
		return got(client.Get(w.app("during-1", "/items/3")), 403, "PEER_EXPIRED")
	})
	if r := w.record("/items/3"); r.At("meshseal", "reason") != "PEER_EXPIRED" {
		t.Errorf("the record says %v", r)
	}
	w.SPIRE.Start()
	meshtest.Eventually(t, "the client is back", func() error {
		client.Close("after")
		return got(client.Get(w.app("after", "/items/4")), 200, "")
	})
}

// TestSPIREProxyExpires: when the SVID of an Envoy ends and is not renewed,
// nobody gets through it.
func TestSPIREProxyExpires(t *testing.T) {
	t.Parallel()
	w := newWorld(t, edited(lasting), svidTTL(20*time.Second, "app"), svidTTL(5*time.Minute, "client"))
	client := spiretest.StartWorkload(t, w.Programs["client"], w.Agent)
	w.startEnvoy("app", "app")
	client.WaitFetch(w.id("client"))
	want(t, client, w.app("kept", "/items/1"), 200, "")
	if err := w.SPIRE.Stop(); err != nil {
		t.Fatal(err)
	}
	meshtest.Eventually(t, "the Envoy's SVID ends", func() error {
		a := client.Get(w.app("kept", "/items/2"))
		if a.Status != 403 && a.Status != 503 {
			return fmt.Errorf("%+v", a)
		}
		return nil
	})
	w.Backend.Forget()
	meshtest.Stays(t, "nobody gets through", 3*time.Second, func() error {
		if a := client.Get(w.app("kept", "/items/3")); a.Status == 200 {
			return fmt.Errorf("%+v", a)
		}
		return nil
	})
	if seen := w.Backend.Seen(); len(seen) != 0 {
		t.Errorf("the backend saw %v", seen)
	}
	w.SPIRE.Start()
	meshtest.Eventually(t, "the Envoy is back", func() error {
		return got(client.Get(w.app("kept", "/items/4")), 200, "")
	})
}
