package xds

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"meshseal/identity"
	"meshseal/snapshot"
	"meshseal/xds/xdstest"
)

// These tests hold for any sequence of snapshots, requests, answers and
// reconnects what the others hold for one. They drive a stream without a
// socket.

// meshContent is a snapshot that nobody signed.
type meshContent struct {
	root    snapshot.Digest
	proxies []snapshot.Proxy
	bytes   map[snapshot.Digest][]byte
}

func (m meshContent) Root() snapshot.Digest     { return m.root }
func (m meshContent) Proxies() []snapshot.Proxy { return m.proxies }
func (m meshContent) Seal(proxy string) (snapshot.Seal, error) {
	return snapshot.Seal{Statement: []byte(m.root.String()), List: []byte(proxy + m.root.String())}, nil
}
func (m meshContent) Resource(d snapshot.Digest) ([]byte, bool) { b, ok := m.bytes[d]; return b, ok }

// draw makes a mesh in which listeners and routes name only clusters that
// exist, and a second proxy with resources of the same names. The era is in
// every resource.
func draw(t *rapid.T, tb testing.TB, era string) meshContent {
	m := meshContent{bytes: map[snapshot.Digest][]byte{}}
	for _, name := range []string{"web", "orders"} {
		clusters := rapid.SliceOfNDistinct(rapid.IntRange(0, 4), 1, 5, rapid.ID).Draw(t, name+" clusters")
		target := rapid.Custom(func(t *rapid.T) string { return fmt.Sprint("c", rapid.SampledFrom(clusters).Draw(t, "target")) })
		var list []proto.Message
		for _, c := range clusters {
			m := cluster(fmt.Sprint("c", c))
			m.AltStatName = era + name + fmt.Sprint(rapid.IntRange(0, 2).Draw(t, "version"))
			list = append(list, m)
		}
		for i := range rapid.IntRange(0, 2).Draw(t, "listeners") {
			list = append(list, tcpListener(tb, fmt.Sprint("l", i), target.Draw(t, "of listener"), pipe("/run/"+era+name)))
		}
		for i := range rapid.IntRange(0, 2).Draw(t, "tables") {
			table := routes(fmt.Sprint("r", i), target.Draw(t, "of table"))
			table.VirtualHosts[0].Name = era + name
			list = append(list, table)
		}
		p := snapshot.Proxy{Name: name}
		for _, r := range list {
			data, err := snapshot.Canonical(r)
			if err != nil {
				tb.Fatal(err)
			}
			hash := identity.SumDigest(data)
			m.bytes[hash] = data
			url := snapshot.TypeURL("type.googleapis.com/" + string(r.ProtoReflect().Descriptor().FullName()))
			p.Entries = append(p.Entries, snapshot.Entry{Type: url, Name: xdstest.Name(r), Hash: hash})
		}
		m.proxies = append(m.proxies, p)
	}
	m.root = identity.SumDigest([]byte(fmt.Sprint(m.proxies)))
	return m
}

// modelled are the types that the model's client asks for, in Envoy's order.
var modelled = []snapshot.TypeURL{cds, lds, rds}

// wire takes the responses of a stream.
type wire struct {
	grpc.ServerStream
	sent []*discoveryv3.DeltaDiscoveryResponse
}

func (w *wire) Send(*discoveryv3.DeltaDiscoveryResponse) error    { panic("unused") }
func (w *wire) Recv() (*discoveryv3.DeltaDiscoveryRequest, error) { panic("unused") }
func (w *wire) SendMsg(m any) error {
	w.sent = append(w.sent, m.(*response).full())
	return nil
}

// model is an Envoy that takes up to some time to look at a response, and a
// server with one stream to it.
type model struct {
	t      *rapid.T
	tb     testing.TB
	server *Server
	stream *stream
	wire   *wire
	// unread are the responses that the client has not looked at, by type.
	unread map[snapshot.TypeURL][]*discoveryv3.DeltaDiscoveryResponse
	// force is what the client has in force.
	force    map[snapshot.TypeURL]map[string]*discoveryv3.Resource
	asked    map[snapshot.TypeURL]bool
	tables   map[string]bool // route tables that the client asks for
	rejected map[string]bool // type, name and version that may not come again
}

func newModel(t *rapid.T, tb testing.TB) *model {
	s, err := New(Config{Bundles: func() *identity.TrustBundles { return nil }, Now: time.Now})
	if err != nil {
		tb.Fatal(err)
	}
	m := &model{t: t, tb: tb, server: s, force: map[snapshot.TypeURL]map[string]*discoveryv3.Resource{}, rejected: map[string]bool{}}
	for _, typ := range snapshot.Types() {
		m.force[typ] = map[string]*discoveryv3.Resource{}
	}
	m.adopt("")
	m.open()
	return m
}

// adopt puts any snapshot in force.
func (m *model) adopt(era string) {
	m.server.adopt(draw(m.t, m.tb, era))
	v := m.server.view.Load().proxies["web"]
	maps.DeleteFunc(m.rejected, func(key string, _ bool) bool {
		return !slices.ContainsFunc(slices.Concat(v.delta(cds).list, v.set(lds).list, v.set(rds).list), func(r *resource) bool {
			return key == string(r.typ)+r.name+r.version
		})
	})
	if m.stream != nil {
		m.look()
		m.advance()
	}
}

func (m *model) look() {
	v := m.server.view.Load()
	m.stream.view, m.stream.caller = v, caller{proxy: v.proxies["web"]}
}

// open begins a stream, in place of the one before.
func (m *model) open() {
	if m.stream != nil {
		m.server.unregister(m.stream.session)
	}
	m.wire = new(wire)
	m.stream = newStream(m.server, m.wire, func(error) {})
	m.look()
	if err := m.server.register(m.stream.session); err != nil {
		m.tb.Fatal(err)
	}
	m.unread = map[snapshot.TypeURL][]*discoveryv3.DeltaDiscoveryResponse{}
	m.asked = map[snapshot.TypeURL]bool{}
	m.server.timing.settle, m.server.timing.retry = time.Hour, 0
}

// ask sends the first request for the next type, with what the client has.
// Envoy asks for clusters first, also when it comes back.
func (m *model) ask() {
	at := slices.IndexFunc(modelled, func(typ snapshot.TypeURL) bool { return !m.asked[typ] })
	if at < 0 {
		return
	}
	typ := modelled[at]
	m.asked[typ] = true
	has := map[string]string{}
	for name, r := range m.force[typ] {
		has[name] = r.GetVersion()
	}
	req := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: string(typ), InitialResourceVersions: has}
	if typ == rds {
		m.tables = map[string]bool{"r0": true, "r1": true}
		req.ResourceNamesSubscribe = []string{"r0", "r1"}
	}
	if len(m.asked) == len(modelled) {
		m.server.timing.settle = 0
	}
	m.read(req)
}

// turn asks for a route table, again if it does already, or not any more.
func (m *model) turn(name string, on bool) {
	req := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: string(rds)}
	switch {
	case !m.asked[rds]:
		return
	case on:
		m.tables[name] = true
		req.ResourceNamesSubscribe = []string{name}
	default:
		delete(m.tables, name)
		delete(m.force[rds], name)
		for _, r := range m.unread[rds] { // comes too late
			r.Resources = slices.DeleteFunc(r.GetResources(), func(res *discoveryv3.Resource) bool { return res.GetName() == name })
		}
		req.ResourceNamesUnsubscribe = []string{name}
	}
	m.read(req)
}

func (m *model) read(req *discoveryv3.DeltaDiscoveryRequest) {
	if err := m.stream.read(req); err != nil {
		m.t.Fatal(err)
	}
	m.advance()
}

// advance lets the server send, and looks at what it may not send.
func (m *model) advance() {
	if err := m.stream.advance(); err != nil {
		m.t.Fatal(err)
	}
	m.stream.publish()
	for _, r := range m.wire.sent {
		typ := snapshot.TypeURL(r.GetTypeUrl())
		set := m.stream.caller.proxy.delta(typ)
		for _, res := range r.GetResources() {
			own := set.get(res.GetName())
			if own == nil || !bytes.Equal(own.body, res.GetResource().GetValue()) {
				m.t.Fatalf("sent %s %q, which the proxy does not have", typ, res.GetName())
			}
			if m.rejected[string(typ)+res.GetName()+res.GetVersion()] {
				m.t.Fatalf("sent %s %q again, which was rejected", typ, res.GetName())
			}
		}
		for _, name := range r.GetRemovedResources() {
			if set.get(name) != nil {
				m.t.Fatalf("removed %s %q, which the proxy has", typ, name)
			}
		}
		m.unread[typ] = append(m.unread[typ], r)
	}
	m.wire.sent = nil
}

// refuse is the answer of a guard to the oldest response of a type. Nothing of
// the response is applied.
func (m *model) refuse(typ snapshot.TypeURL) {
	if len(m.unread[typ]) == 0 {
		return
	}
	r := m.unread[typ][0]
	m.unread[typ] = m.unread[typ][1:]
	m.read(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: string(typ), ResponseNonce: r.GetNonce(),
		ErrorDetail: &rpcstatus.Status{Message: "meshseal guard: STATEMENT_EXPIRED: c0, l0 and r0"}})
}

// answer takes the oldest response of a type, or rejects it with an apply in
// part.
func (m *model) answer(typ snapshot.TypeURL, accept bool) bool {
	if len(m.unread[typ]) == 0 {
		return false
	}
	r := m.unread[typ][0]
	m.unread[typ] = m.unread[typ][1:]
	req := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: string(typ), ResponseNonce: r.GetNonce()}
	for _, name := range r.GetRemovedResources() {
		m.remove(typ, name)
	}
	set := m.stream.caller.proxy.delta(typ)
	for _, res := range r.GetResources() {
		if !accept {
			if own := set.get(res.GetName()); own != nil && own.version == res.GetVersion() && !snapshot.IsCarrier(own.name) {
				m.rejected[string(typ)+res.GetName()+res.GetVersion()] = true
			}
			if rapid.Bool().Draw(m.t, "rejected entirely") {
				continue
			}
		}
		m.apply(typ, res)
	}
	if !accept {
		req.ErrorDetail = &rpcstatus.Status{Message: "no"}
	}
	m.read(req)
	return true
}

func (m *model) apply(typ snapshot.TypeURL, res *discoveryv3.Resource) {
	r := m.known(typ, res)
	for _, c := range r.uses {
		if typ != cds && m.force[cds][c] == nil {
			m.t.Fatalf("%s %q came before its cluster %q", typ, res.GetName(), c)
		}
	}
	m.force[typ][res.GetName()] = res
}

func (m *model) remove(typ snapshot.TypeURL, name string) {
	delete(m.force[typ], name)
	if typ != cds {
		return
	}
	for _, user := range []snapshot.TypeURL{lds, rds} {
		for _, res := range m.force[user] {
			if m.known(user, res).mayUse(name) {
				m.t.Fatalf("cluster %q was removed under %s %q", name, user, res.GetName())
			}
		}
	}
}

// known is the resource with what it names.
func (m *model) known(typ snapshot.TypeURL, res *discoveryv3.Resource) *resource {
	clusters := map[string]struct{}{}
	for i := range 5 {
		clusters[fmt.Sprint("c", i)] = struct{}{}
	}
	return newResource(resourceKey{typ: typ, name: res.GetName()}, res.GetResource().GetValue(), clusters)
}

// settle asks for everything and answers until nothing comes any more.
func (m *model) settle() {
	for range modelled {
		m.ask()
	}
	for range 1000 {
		if !m.answer(cds, true) && !m.answer(lds, true) && !m.answer(rds, true) {
			return
		}
	}
	m.t.Fatal("the server never stops sending")
}

func (m *model) equal() {
	for _, typ := range modelled {
		want := slices.DeleteFunc(slices.Clone(m.stream.caller.proxy.delta(typ).list), func(r *resource) bool {
			return typ == rds && !m.tables[r.name]
		})
		if len(want) != len(m.force[typ]) {
			m.t.Fatalf("the client has %d resources of %s, want %d", len(m.force[typ]), typ, len(want))
		}
		for _, r := range want {
			if got := m.force[typ][r.name]; got.GetVersion() != r.version {
				m.t.Fatalf("the client has another version of %s %q", typ, r.name)
			}
		}
	}
	if p := m.server.Status()[1]; p.State != Synced {
		m.t.Fatalf("the client has it all, and the status is %+v", p)
	}
}

// slim holds that a client that has all that it asked for costs nothing.
func (m *model) slim() {
	for _, sub := range m.stream.subs {
		if sub.answered && len(sub.outstanding) == 0 && len(sub.held)+len(sub.withheld) == 0 && sub.status(m.stream.view.root, m.stream.caller.proxy.delta(sub.typ)).State == Synced &&
			(len(sub.odd) > 0 || sub.told != 0 || sub.base != m.stream.caller.proxy.delta(sub.typ)) {
			m.t.Fatalf("a client that is synced has %d exceptions of %s", len(sub.odd), sub.typ)
		}
	}
}

func TestAnySequence(t *testing.T) {
	for name, rejects := range map[string]bool{"without NACKs": false, "with NACKs": true} {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				m := newModel(rt, t)
				types := rapid.SampledFrom(modelled)
				actions := map[string]func(*rapid.T){
					"adopt":  func(*rapid.T) { m.adopt("") },
					"ask":    func(*rapid.T) { m.ask() },
					"take":   func(rt *rapid.T) { m.answer(types.Draw(rt, "type"), true) },
					"settle": func(*rapid.T) { m.settle() },
					"reopen": func(*rapid.T) { m.open() },
					"turn": func(rt *rapid.T) {
						m.turn(rapid.SampledFrom([]string{"r0", "r1", "r2"}).Draw(rt, "table"), rapid.Bool().Draw(rt, "on"))
					},
					"refuse": func(rt *rapid.T) { m.refuse(types.Draw(rt, "type")) },
				}
				if rejects {
					actions["reject"] = func(rt *rapid.T) { m.answer(types.Draw(rt, "type"), false) }
				}
				rt.Repeat(actions)
				m.settle()
				m.slim()
				if rejects {
					// All that was rejected has a newer version now.
					m.adopt("next")
					m.settle()
				}
				m.equal()
				m.server.unregister(m.stream.session)
			})
		})
	}
}
