package integration

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	luav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/lua/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"meshseal/guard"
	"meshseal/guard/guardtest"
	"meshseal/internal/meshtest"
	"meshseal/snapshot"
)

const extensionType snapshot.TypeURL = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"

// allThatRuns is how many resources run when those of guarded.resources do: the
// Envoy shows the endpoints inside of a cluster too.
const allThatRuns = 6

// inForce brings a first seal into force and returns it with what runs then.
func (g *guarded) inForce() (guardtest.Sealed, map[string]string) {
	g.t.Helper()
	g.start()
	s := g.seal(5, g.resources()...)
	g.runs(s)
	return s, g.running()
}

// runs sends what is sealed and waits for all of it to run: an Envoy accepts a
// listener before its workers listen.
func (g *guarded) runs(s guardtest.Sealed) {
	g.t.Helper()
	g.rogue.accepted(g.honest(s)...)
	g.envoy.WaitReady()
	g.envoy.Eventually("everything that is sealed runs", func() error {
		n := len(g.running())
		return wantErr(n == allThatRuns && g.serves("/x") == sealedAnswer && g.serves("/found") == sealedAnswer,
			"%d resources run: %v; %q, %q", n, slices.Collect(maps.Keys(g.running())), g.serves("/x"), g.serves("/found"))
	})
}

// refused pushes an update and wants it refused by a rule, the Envoy alive, and
// nothing of what runs changed.
func (g *guarded) refused(u *response, want string, runs map[string]string) string {
	g.t.Helper()
	text := g.rogue.verdictOn(g.rogue.push(u))
	if !strings.Contains(text, want) {
		g.t.Errorf("the Envoy answered %q, wanted a refusal by %s", text, want)
	}
	g.unchanged(runs)
	return text
}

func (g *guarded) unchanged(runs map[string]string) {
	g.t.Helper()
	if err := g.envoy.Ended(); err != nil {
		g.t.Fatal(err)
	}
	if now := g.running(); !maps.Equal(now, runs) {
		g.t.Errorf("what runs has changed from\n%v\nto\n%v", runs, now)
	}
	if len(runs) > 0 {
		for _, path := range []string{"/x", "/found"} {
			if got := g.serves(path); got != sealedAnswer {
				g.t.Errorf("GET %s: %s", path, got)
			}
		}
	}
	g.closed()
	if n := len(g.bad.Seen()); n != 0 {
		g.t.Errorf("the rogue's backend saw %d requests", n)
	}
}

// TestGuardAcceptsWhatIsSealed: an honest snapshot, the same again, a renewal of
// the statement alone, the next snapshot with a resource changed, one new and
// one gone.
func TestGuardAcceptsWhatIsSealed(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	s, runs := g.inForce()
	if !strings.Contains(g.rogue.metadata, "guard") {
		t.Errorf("the Envoy says of itself %q, nothing of the guard", g.rogue.metadata)
	}
	g.rogue.accepted(g.honest(s)...)
	g.unchanged(runs)

	renewed := g.sealBy(guardtest.Options{Sequence: 5, Issued: time.Now().UTC().Truncate(time.Second), Resources: s.Resources})
	g.rogue.accepted(of(t, snapshot.ClusterType, renewed.Carriers(t)[0]))
	g.unchanged(runs)

	resources := g.resources()
	resources[0].(*clusterv3.Cluster).ConnectTimeout = durationpb.New(2 * time.Second)
	next := g.seal(6, append(resources[:4:4], g.table("found"), g.listener("more", 82))...)
	g.rogue.accepted(
		of(t, snapshot.ClusterType, append(next.Carriers(t), next.Of(snapshot.ClusterType)[0])...),
		of(t, snapshot.ListenerType, next.Of(snapshot.ListenerType)[1]),
		of(t, snapshot.RouteType, next.Of(snapshot.RouteType)...),
	)
	g.envoy.Eventually("the next snapshot runs", func() error {
		return wantErr(len(g.running()) == allThatRuns+1 && g.serves(":82/x") == sealedAnswer, "%v", g.serves(":82/x"))
	})

	last := g.seal(7, append(resources[:4:4], g.table("found"))...)
	g.rogue.accepted(
		of(t, snapshot.ClusterType, last.Carriers(t)...),
		of(t, snapshot.ListenerType).without("more"),
	)
	g.envoy.Eventually("the listener is gone", func() error {
		return wantErr(len(g.running()) == allThatRuns, "%d resources run", len(g.running()))
	})
}

// TestGuardRefusesWhatIsNotSealed: whoever holds the stream sends everything but
// what was sealed, to an Envoy that runs.
func TestGuardRefusesWhatIsNotSealed(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	s, runs := g.inForce()
	fresh := func(i int) proto.Message { return proto.Clone(s.Resources[i]) }
	edited := func(i int, edit func(proto.Message)) *response {
		m := fresh(i)
		edit(m)
		return of(t, guardtest.TypeOf(m), m)
	}
	stranger := guardtest.Key(t)
	other := g.sealBy(guardtest.Options{Sequence: 9, Proxy: "orders", Resources: s.Resources})
	foreign := g.sealBy(guardtest.Options{Sequence: 9, Mesh: "bazaar", Resources: s.Resources})
	forged := g.sealBy(guardtest.Options{Sequence: 9, Signers: []snapshot.Signer{stranger}, Resources: s.Resources})
	older := g.seal(4, s.Resources...)
	fork := g.seal(5, s.Resources[0], s.Resources[1], s.Resources[2], s.Resources[3], g.table("found"))
	next := g.seal(6, append(g.resources()[:4:4], g.table("found"))...)
	expired := g.sealBy(guardtest.Options{Sequence: 9, Issued: time.Now().Add(-25 * time.Hour).UTC().Truncate(time.Second), Resources: s.Resources})
	carriers := func(s guardtest.Sealed, more ...proto.Message) *response {
		return of(t, snapshot.ClusterType, append(s.Carriers(t), more...)...)
	}
	evil := &luav3.Lua{DefaultSourceCode: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{
		InlineString: `function envoy_on_request(h) h:respond({[":status"] = "200"}, "evil") end`,
	}}}
	huge := &clusterv3.Cluster{}
	proto.Merge(huge, s.Carriers(t)[1])
	huge.Metadata.TypedFilterMetadata["meshseal"].Value = make([]byte, 10<<20)
	occupied := s.Carriers(t)
	occupied[1].(*clusterv3.Cluster).LoadAssignment = assignment(snapshot.SealCluster, g.bad.Address)

	for _, c := range []struct {
		name, code string
		update     *response
	}{
		{"a cluster's endpoint changed", "RESOURCE_CHANGED", edited(0, func(m proto.Message) {
			m.(*clusterv3.Cluster).LoadAssignment = assignment("fixed", g.bad.Address)
		})},
		{"a cluster's timeout changed", "RESOURCE_CHANGED", edited(0, func(m proto.Message) {
			m.(*clusterv3.Cluster).ConnectTimeout = durationpb.New(time.Hour)
		})},
		{"an unknown field more", "RESOURCE_CHANGED", edited(0, func(m proto.Message) {
			m.ProtoReflect().SetUnknown([]byte{0xf8, 0xff, 0xff, 0x07, 1})
		})},
		{"other endpoints", "RESOURCE_CHANGED", of(t, snapshot.EndpointType, assignment("found", g.bad.Address))},
		{"a route's cluster changed", "RESOURCE_CHANGED", of(t, snapshot.RouteType, g.table("found"))},
		{"a route's prefix changed", "RESOURCE_CHANGED", edited(4, func(m proto.Message) {
			m.(*routev3.RouteConfiguration).VirtualHosts[0].Routes[0].Match.PathSpecifier = &routev3.RouteMatch_Prefix{Prefix: "/foun"}
		})},
		{"a route's timeout changed", "RESOURCE_CHANGED", edited(4, func(m proto.Message) {
			m.(*routev3.RouteConfiguration).VirtualHosts[0].Routes[0].GetRoute().Timeout = durationpb.New(time.Hour)
		})},
		{"the order of routes swapped", "RESOURCE_CHANGED", edited(4, func(m proto.Message) {
			r := m.(*routev3.RouteConfiguration).VirtualHosts[0].Routes
			r[0], r[1] = r[1], r[0]
		})},
		{"the listener at another port", "RESOURCE_CHANGED", of(t, snapshot.ListenerType, g.listener("http", 81))},
		{"a listener too many", "RESOURCE_UNLISTED", of(t, snapshot.ListenerType, g.listener("evil", 81))},
		{"a cluster too many, beside one that is sealed", "RESOURCE_UNLISTED", of(t, snapshot.ClusterType, s.Resources[0], &clusterv3.Cluster{Name: "evil"})},
		{"a sealed cluster removed", "RESOURCE_REMOVED", of(t, snapshot.ClusterType).without("fixed")},
		{"the sealed listener removed", "RESOURCE_REMOVED", of(t, snapshot.ListenerType).without("http")},
		{"the sealed endpoints removed", "RESOURCE_REMOVED", of(t, snapshot.EndpointType).without("found")},
		{"the statement removed", "CARRIER_REMOVED", of(t, snapshot.ClusterType).without(snapshot.StatementCluster)},
		{"a TTL", "RESOURCE_TTL", of(t, snapshot.ListenerType, s.Resources[3]).change(ttl(durationpb.New(time.Second)))},
		{"an alias", "RESOURCE_ALIAS", of(t, snapshot.ListenerType, s.Resources[3]).change(func(r *discoveryv3.Resource) { r.Aliases = []string{"h"} })},
		{"an alias and no body", "RESOURCE_ALIAS", of(t, snapshot.ListenerType, s.Resources[3]).change(func(r *discoveryv3.Resource) {
			r.Version, r.Aliases, r.Resource = "new", []string{"h"}, nil
		})},
		{"a wrapper with another name", "RESOURCE_MISNAMED", of(t, snapshot.ClusterType, s.Resources[0]).change(func(r *discoveryv3.Resource) { r.Name = "found" })},
		{"a wrapper with a name that nothing has", "RESOURCE_UNLISTED", of(t, snapshot.ListenerType, s.Resources[3]).change(func(r *discoveryv3.Resource) { r.Name = "h" })},
		{"a name twice", "duplicate name", of(t, snapshot.ClusterType, s.Resources[0], s.Resources[0])},
		{"a body of another type", "does not match", of(t, snapshot.ClusterType, s.Resources[0]).change(func(r *discoveryv3.Resource) {
			r.Resource = anyOf(t, s.Resources[3])
		})},
		{"an extension's configuration", "RESOURCE_UNSEALABLE", of(t, extensionType, &corev3.TypedExtensionConfig{Name: "extra", TypedConfig: anyOf(t, evil)})},
		{"another proxy's seal", "SEAL_PROXY", carriers(other)},
		{"another mesh's seal", "MESH_MISMATCH", carriers(foreign)},
		{"a signature by a key that is not trusted", "SIGNATURE_UNTRUSTED", carriers(forged)},
		{"an older sequence", "ROLLBACK", carriers(older)},
		{"the same sequence with another root", "FORK", carriers(fork)},
		{"an expired statement", "STATEMENT_EXPIRED", carriers(expired)},
		{"the next list with today's statement", "SEAL_PROOF", of(t, snapshot.ClusterType, next.Carriers(t)[1])},
		{"the next statement with today's list", "SEAL_PROOF", of(t, snapshot.ClusterType, next.Carriers(t)[0])},
		{"the next seal with what it does not list", "RESOURCE_UNLISTED", carriers(next, &clusterv3.Cluster{Name: "evil"})},
		{"the next seal's route table without its seal", "RESOURCE_CHANGED", of(t, snapshot.RouteType, next.Of(snapshot.RouteType)...)},
		{"a seal of 10 MiB", "UPDATE_TOO_LARGE", of(t, snapshot.ClusterType, huge)},
		{"a carrier with endpoints", "SEAL_MALFORMED", of(t, snapshot.ClusterType, occupied...)},
	} {
		t.Run(c.name, func(t *testing.T) {
			g.t = t
			text := g.refused(c.update, c.code, runs)
			if _, known := codes()[c.code]; known && !strings.Contains(text, s.Draft.Root().String()+", sequence 5") {
				t.Errorf("the sentence does not say what is in force: %s", text)
			}
		})
	}
	g.t = t

	// A heartbeat: Envoy keeps it to itself, and it changes nothing.
	heartbeat := of(t, snapshot.ListenerType, s.Resources[3]).change(func(r *discoveryv3.Resource) { r.Resource = nil })
	g.rogue.accepted(heartbeat)
	g.unchanged(runs)

	// After all of that, the next snapshot is accepted as if nothing had been.
	g.rogue.accepted(of(t, snapshot.ClusterType, next.Carriers(t)...), of(t, snapshot.RouteType, next.Of(snapshot.RouteType)...))

	// And what the one before listed is not sealed any more, nor is its seal.
	runs = g.running()
	g.refused(of(t, snapshot.RouteType, s.Of(snapshot.RouteType)...), "RESOURCE_CHANGED", runs)
	g.refused(carriers(s), "ROLLBACK", runs)
}

// codes are those of the guard.
func codes() map[string]bool {
	all := map[string]bool{}
	for _, r := range guard.Rules() {
		all[string(r.Code)] = true
	}
	for _, c := range snapshot.Codes() {
		all[c] = true
	}
	return all
}

// TestGuardRefusesWithoutASeal: an Envoy that has just started takes nothing
// before a seal, and what a good seal lists right after.
func TestGuardRefusesWithoutASeal(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	g.start()
	s := g.seal(5, g.resources()...)
	nothing := map[string]string{}
	text := g.refused(of(t, snapshot.ClusterType, s.Of(snapshot.ClusterType)...), "SEAL_MISSING", nothing)
	if !strings.Contains(text, "nothing is in force") {
		t.Error(text)
	}
	g.refused(of(t, snapshot.ClusterType), "SEAL_MISSING", nothing)
	g.refused(of(t, snapshot.ClusterType, s.Carriers(t)[0]), "SEAL_MISSING", nothing)
	g.refused(of(t, snapshot.ClusterType, s.Carriers(t)[1]), "SEAL_MISSING", nothing)
	g.refused(of(t, snapshot.ListenerType, g.listener("evil", 81)), "SEAL_MISSING", nothing)
	g.refused(of(t, snapshot.ListenerType, s.Of(snapshot.ListenerType)...), "SEAL_MISSING", nothing)
	g.rogue.accepted(g.honest(s)...)
	g.envoy.Eventually("it serves", func() error {
		got := g.serves("/x")
		return wantErr(got == sealedAnswer, "%s", got)
	})
}

// TestGuardRemembers: an older snapshot is refused, also by an Envoy that was
// started anew; the newest is accepted again.
func TestGuardRemembers(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	s, runs := g.inForce()
	older := g.seal(4, g.resources()...)
	rollback := func(runs map[string]string) {
		t.Helper()
		g.refused(of(t, snapshot.ClusterType, append(older.Carriers(t), older.Of(snapshot.ClusterType)...)...), "ROLLBACK", runs)
	}
	rollback(runs)
	if err := g.envoy.Stop(); err != nil {
		t.Fatal(err)
	}
	g.start()
	rollback(map[string]string{})
	g.runs(s)
	rollback(runs)
}

// TestGuardFreezesWhenTheStatementExpires: with an expired statement nothing is
// accepted, not even what it lists, until a newer one comes. What runs goes on.
func TestGuardFreezesWhenTheStatementExpires(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	g.start()
	o := guardtest.Options{Sequence: 5, Issued: time.Now().UTC().Truncate(time.Second), Lifetime: 8 * time.Second, Resources: g.resources()}
	s := g.sealBy(o)
	g.rogue.accepted(g.honest(s)...)
	g.envoy.WaitReady()
	runs := g.running()
	meshtest.Eventually(t, "the statement expires", func() error {
		left := time.Until(s.Draft.Statement().Expires)
		return wantErr(left < 0, "in %s", left)
	})
	g.refused(of(t, snapshot.RouteType, s.Of(snapshot.RouteType)...), "STATEMENT_EXPIRED", runs)
	g.refused(of(t, snapshot.ClusterType, s.Carriers(t)...), "STATEMENT_EXPIRED", runs)
	g.refused(of(t, snapshot.ListenerType).without("http"), "STATEMENT_EXPIRED", runs)
	o.Issued = time.Now().UTC().Truncate(time.Second)
	renewed := g.sealBy(o)
	g.rogue.accepted(of(t, snapshot.ClusterType, renewed.Carriers(t)[0]), of(t, snapshot.RouteType, s.Of(snapshot.RouteType)...))
	g.unchanged(runs)
}
