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
	"pgregory.net/rapid"

	"meshseal/identity"
	"meshseal/snapshot"
)

// worldWire takes the responses of a stream.
type worldWire struct {
	grpc.ServerStream
	sent []*worldResponse
}

func (w *worldWire) Send(*discoveryv3.DiscoveryResponse) error    { panic("unused") }
func (w *worldWire) Recv() (*discoveryv3.DiscoveryRequest, error) { panic("unused") }
func (w *worldWire) SendMsg(m any) error {
	w.sent = append(w.sent, m.(*worldResponse))
	return nil
}

// allNames are those that draw gives.
var allNames = []string{"c0", "c1", "c2", "c3", "c4", "l0", "l1", "r0", "r1"}

// worldModel is an Envoy in state-of-the-world form that takes up to some time
// to look at a response, and a server with one stream to it.
type worldModel struct {
	t      *rapid.T
	tb     testing.TB
	server *Server
	stream *world
	wire   *worldWire
	// unread are the responses that the client has not looked at. It takes one
	// after the other.
	unread []*worldResponse
	// unanswered are those that it took, or did not like, and has not said so:
	// Envoy says nothing about clusters while they warm.
	unanswered map[snapshot.TypeURL][]said
	// force is what the client has in force.
	force    map[snapshot.TypeURL]map[string]*resource
	version  map[snapshot.TypeURL]string // accepted last
	asked    map[snapshot.TypeURL]bool
	acked    map[string]bool // type and name that were accepted on this stream
	rejected map[string]bool // type, name and version that may not come again
	// disliked are type, name and version of what the client rejects, and liked
	// of what it had in force: it does not change its mind.
	disliked, liked map[string]bool
	// sent counts responses, and at is the count of each. Of a type and name,
	// came is what brought that which is in force, lacked the last that lacked
	// it, and left the last before a snapshot did not have it. A table that has
	// left is in no listener any more.
	sent               int
	at                 map[*worldResponse]int
	came, lacked, left map[string]int
	// blind: the client came back with what the server does not know.
	blind bool
}

// said is an answer to a response, and what of it the client does not like:
// names and versions.
type said struct {
	req *discoveryv3.DiscoveryRequest
	to  *worldResponse
	bad map[string]string
}

func newWorldModel(t *rapid.T, tb testing.TB) *worldModel {
	s, err := New(Config{Bundles: func() *identity.TrustBundles { return nil }, Now: time.Now})
	if err != nil {
		tb.Fatal(err)
	}
	m := &worldModel{t: t, tb: tb, server: s, rejected: map[string]bool{}, disliked: map[string]bool{}, liked: map[string]bool{}, at: map[*worldResponse]int{},
		came: map[string]int{}, lacked: map[string]int{}, left: map[string]int{},
		force: map[snapshot.TypeURL]map[string]*resource{}, version: map[snapshot.TypeURL]string{}}
	for _, typ := range modelled {
		m.force[typ] = map[string]*resource{}
	}
	m.adopt("")
	m.open()
	return m
}

// adopt puts any snapshot in force.
func (m *worldModel) adopt(era string) {
	m.server.adopt(draw(m.t, m.tb, era))
	v := m.server.view.Load().proxies["web"]
	maps.DeleteFunc(m.rejected, func(key string, _ bool) bool {
		return !slices.ContainsFunc(slices.Concat(v.set(cds).list, v.set(lds).list, v.set(rds).list), func(r *resource) bool {
			return key == string(r.typ)+r.name+r.version
		})
	})
	for _, name := range allNames {
		if v.set(rds).get(name) == nil {
			m.left[name] = m.sent
		}
	}
	if m.stream != nil {
		m.look()
		m.advance()
	}
}

func (m *worldModel) look() {
	v := m.server.view.Load()
	m.stream.view, m.stream.caller = v, caller{proxy: v.proxies["web"]}
}

// open begins a stream, in place of the one before.
func (m *worldModel) open() {
	if m.stream != nil {
		m.server.unregister(m.stream.session)
		m.blind = true
	}
	m.wire = new(worldWire)
	m.stream = newWorld(m.server, m.wire, func(error) {})
	m.look()
	if err := m.server.register(m.stream.session); err != nil {
		m.tb.Fatal(err)
	}
	m.unread, m.unanswered = nil, map[snapshot.TypeURL][]said{}
	m.server.timing.settle = time.Hour
	m.asked, m.acked = map[snapshot.TypeURL]bool{}, map[string]bool{}
}

// ask sends the first request for the next type.
func (m *worldModel) ask() {
	at := slices.IndexFunc(modelled, func(typ snapshot.TypeURL) bool { return !m.asked[typ] })
	if at >= 0 {
		m.asked[modelled[at]] = true
		if len(m.asked) == len(modelled) {
			m.server.timing.settle = 0
		}
		m.read(&discoveryv3.DiscoveryRequest{TypeUrl: string(modelled[at]), VersionInfo: m.version[modelled[at]]})
	}
}

func (m *worldModel) read(req *discoveryv3.DiscoveryRequest) {
	if req.GetTypeUrl() == string(rds) {
		req.ResourceNames = []string{"r0", "r1"}
	}
	if err := m.stream.read(req); err != nil {
		m.t.Fatal(err)
	}
	m.advance()
}

// advance lets the server send, and looks at what it may not send.
func (m *worldModel) advance() {
	if err := m.stream.advance(); err != nil {
		m.t.Fatal(err)
	}
	m.stream.publish()
	for _, r := range m.wire.sent {
		typ := snapshot.TypeURL(r.GetTypeUrl())
		names := map[string]bool{}
		for i, res := range r.resources {
			if !bytes.Equal(r.GetResources()[i].GetValue(), res.body) || names[res.name] || res.typ != typ {
				m.t.Fatalf("the response of %s is not what it should be", typ)
			}
			names[res.name] = true
			if m.rejected[string(typ)+res.name+res.version] {
				m.t.Fatalf("sent %s %q again, which was rejected", typ, res.name)
			}
		}
		for _, own := range m.stream.caller.proxy.set(typ).list {
			if hasWildcard(typ) && !names[own.name] && m.acked[string(typ)+own.name] {
				m.t.Fatalf("%s %q is taken from a client that accepted it, though the proxy has it", typ, own.name)
			}
		}
		m.unread = append(m.unread, r)
		m.sent++
		for _, name := range allNames {
			if key := string(typ) + name; !names[name] {
				m.lacked[key] = m.sent
				delete(m.acked, key)
			}
		}
		m.at[r] = m.sent
	}
	m.wire.sent = nil
}

// take looks at the oldest response, or rejects it with an apply in part.
func (m *worldModel) take(accept bool) bool {
	if len(m.unread) == 0 {
		return false
	}
	r := m.unread[0]
	m.unread = m.unread[1:]
	typ := snapshot.TypeURL(r.GetTypeUrl())
	if !accept {
		m.dislike(typ, r)
	}
	bad := map[string]string{}
	for _, res := range r.resources {
		if m.disliked[string(typ)+res.name+res.version] {
			bad[res.name] = res.version
		}
	}
	m.apply(typ, r, bad)
	req := &discoveryv3.DiscoveryRequest{TypeUrl: r.GetTypeUrl(), ResponseNonce: r.GetNonce()}
	if len(bad) == 0 {
		m.version[typ] = r.GetVersionInfo()
	} else {
		req.ErrorDetail = &rpcstatus.Status{Message: fmt.Sprint("bad: ", slices.Sorted(maps.Keys(bad)))}
	}
	req.VersionInfo = m.version[typ]
	m.unanswered[typ] = append(m.unanswered[typ], said{req, r, bad})
	return true
}

// answer says what became of the oldest response of a type that the client has
// looked at. An ACK may be passed over if a newer one follows.
func (m *worldModel) answer(typ snapshot.TypeURL, pass bool) bool {
	if len(m.unanswered[typ]) == 0 {
		return false
	}
	said := m.unanswered[typ][0]
	m.unanswered[typ] = m.unanswered[typ][1:]
	if pass && len(said.bad) == 0 && len(m.unanswered[typ]) > 0 {
		return true
	}
	for name, version := range said.bad {
		if own := m.stream.caller.proxy.set(typ).get(name); own != nil && own.version == version {
			m.rejected[string(typ)+name+version] = true
		}
	}
	for _, res := range said.to.resources {
		if key := string(typ) + res.name; len(said.bad) == 0 && m.at[said.to] > m.lacked[key] {
			m.acked[key] = true
		}
	}
	m.read(said.req)
	return true
}

// dislike chooses something among what is new to the client.
func (m *worldModel) dislike(typ snapshot.TypeURL, r *worldResponse) {
	var keys []string
	for _, res := range r.resources {
		if key := string(typ) + res.name + res.version; !m.liked[key] {
			keys = append(keys, key)
		}
	}
	if len(keys) > 0 {
		m.disliked[rapid.SampledFrom(keys).Draw(m.t, "bad")] = true
	}
}

// apply puts a response in force, without what is bad. Beside that, all of it
// may be in force or not.
func (m *worldModel) apply(typ snapshot.TypeURL, r *worldResponse, bad map[string]string) {
	applies := func() bool { return len(bad) == 0 || rapid.Bool().Draw(m.t, "applied all the same") }
	has := map[string]bool{}
	for _, res := range r.resources {
		has[res.name] = true
		if bad[res.name] == "" && (m.same(typ, res) || applies()) {
			m.add(typ, res)
			m.came[string(typ)+res.name] = m.at[r]
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m.force[typ])) {
		if hasWildcard(typ) && !has[name] && applies() {
			m.remove(typ, name)
		}
	}
}

func (m *worldModel) same(typ snapshot.TypeURL, res *resource) bool {
	had := m.force[typ][res.name]
	return had != nil && had.version == res.version
}

func (m *worldModel) add(typ snapshot.TypeURL, res *resource) {
	for _, c := range res.uses {
		if typ != cds && !m.same(typ, res) && m.force[cds][c] == nil {
			m.t.Fatalf("%s %q came before its cluster %q", typ, res.name, c)
		}
	}
	m.force[typ][res.name], m.liked[string(typ)+res.name+res.version] = res, true
}

func (m *worldModel) remove(typ snapshot.TypeURL, name string) {
	delete(m.force[typ], name)
	if typ != cds || m.blind {
		return
	}
	for _, user := range []snapshot.TypeURL{lds, rds} {
		for n, res := range m.force[user] {
			if res.mayUse(name) && (user != rds || m.came[string(rds)+n] > m.left[n]) {
				m.t.Fatalf("cluster %q was removed under %s %q", name, user, n)
			}
		}
	}
}

// settle asks for everything and answers until nothing comes any more.
func (m *worldModel) settle() {
	for range modelled {
		m.ask()
	}
	for range 1000 {
		if !m.take(true) && !m.answer(cds, false) && !m.answer(lds, false) && !m.answer(rds, false) {
			m.forget()
			return
		}
	}
	m.t.Fatal("the server never stops sending")
}

// forget ends what the server does not know of a client that came back: tables
// that are in no listener any more, and, one day, those that it had to keep.
func (m *worldModel) forget() {
	set := m.stream.caller.proxy.set(rds)
	maps.DeleteFunc(m.force[rds], func(name string, _ *resource) bool {
		return m.blind && set.get(name) == nil && !m.acked[string(rds)+name]
	})
	m.blind = m.blind && slices.ContainsFunc(slices.Collect(maps.Keys(m.force[rds])), func(name string) bool { return !m.acked[string(rds)+name] })
}

func (m *worldModel) equal() {
	for _, typ := range modelled {
		set := m.stream.caller.proxy.set(typ)
		if hasWildcard(typ) && len(set.list) != len(m.force[typ]) {
			m.t.Fatalf("the client has %d resources of %s, want %d", len(m.force[typ]), typ, len(set.list))
		}
		for _, r := range set.list {
			if !m.same(typ, r) {
				m.t.Fatalf("the client has another version of %s %q", typ, r.name)
			}
		}
	}
	if p := m.server.Status()[1]; p.State != Synced {
		m.t.Fatalf("the client has it all, and the status is %+v", p)
	}
}

func TestWorldAnySequence(t *testing.T) {
	for name, rejects := range map[string]bool{"without NACKs": false, "with NACKs": true} {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				m := newWorldModel(rt, t)
				types := rapid.SampledFrom(modelled)
				actions := map[string]func(*rapid.T){
					"adopt":  func(*rapid.T) { m.adopt("") },
					"ask":    func(*rapid.T) { m.ask() },
					"take":   func(*rapid.T) { m.take(true) },
					"answer": func(rt *rapid.T) { m.answer(types.Draw(rt, "type"), false) },
					"pass":   func(rt *rapid.T) { m.answer(types.Draw(rt, "type"), true) },
					"settle": func(*rapid.T) { m.settle() },
					"reopen": func(*rapid.T) { m.open() },
				}
				if rejects {
					actions["reject"] = func(*rapid.T) { m.take(false) }
				}
				rt.Repeat(actions)
				m.settle()
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
