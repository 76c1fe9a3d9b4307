package xds

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"

	"meshseal/identity"
)

// FuzzWorldRequests reads any requests, and holds that the stream ends with an
// error made for the client, if it ends, and that the status can be made.
func FuzzWorldRequests(f *testing.F) {
	f.Add([]byte("c\x00"), "a", "*", "1.2", "v", "no")
	f.Add([]byte("elrx"), "", "b", "", "", "")
	f.Add(bytes.Repeat([]byte{'c', 'e'}, 80), "none", "a", "0.1", "", "a is bad")
	snap := take(f, resources{"web": web(f), "orders": {cluster("a"), cluster("b")}})
	f.Fuzz(func(t *testing.T, types []byte, one, two, nonce, version, text string) {
		s, err := New(Config{Bundles: func() *identity.TrustBundles { return nil }, Now: time.Now})
		if err != nil {
			t.Fatal(err)
		}
		s.Adopt(snap)
		wire := new(worldWire)
		w := newWorld(s, wire, func(error) {})
		v := s.view.Load()
		w.view, w.caller = v, caller{proxy: v.proxies["web"]}
		if err := s.register(w.session); err != nil {
			t.Fatal(err)
		}
		defer s.unregister(w.session)
		for i, b := range types[:min(len(types), 200)] {
			req := &discoveryv3.DiscoveryRequest{TypeUrl: fuzzType(b), ResponseNonce: nonce, VersionInfo: version}
			if n := len(wire.sent); b&0x80 != 0 && n > 0 {
				last := wire.sent[(i*7)%n]
				req.ResponseNonce, req.VersionInfo = last.GetNonce(), last.GetVersionInfo()
			}
			if b&0x40 == 0 {
				req.ResourceNames = append(req.ResourceNames, one)
			}
			if b&0x20 == 0 {
				req.ResourceNames = append(req.ResourceNames, two)
			}
			if i%3 == 2 && text != "" {
				req.ErrorDetail = &rpcstatus.Status{Message: text}
			}
			if err := w.read(req); err != nil {
				if ending(err) != err {
					t.Fatalf("the client would not be told %v", err)
				}
				return
			}
			if err := w.advance(); err != nil {
				return
			}
			w.publish()
		}
		for _, r := range wire.sent {
			for _, res := range r.resources {
				if own := v.proxies["web"].set(res.typ).get(res.name); own != res {
					t.Fatalf("sent %s %q, which the proxy does not have", res.typ, res.name)
				}
			}
		}
		s.Status()
	})
}

func fuzzType(b byte) string {
	switch b % 6 {
	case 0:
		return string(cds)
	case 1:
		return string(eds)
	case 2:
		return string(lds)
	case 3:
		return string(rds)
	case 4:
		return fmt.Sprint("type/", b)
	}
	return ""
}
