package guard_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"

	"meshseal/guard"
	"meshseal/guard/guardtest"
	"meshseal/snapshot"
)

var now = time.Date(2031, 5, 4, 3, 2, 1, 0, time.UTC)

// world is a guard, the key that it trusts, and its clock.
type world struct {
	t      testing.TB
	key    *snapshot.PrivateKey
	config guard.Config
	clock  time.Time
	*guard.Guard
}

func newWorld(t testing.TB, record string, exempt ...snapshot.TypeURL) *world {
	t.Helper()
	w := &world{t: t, key: guardtest.Key(t), clock: now}
	var err error
	if w.config, err = guard.NewConfig("shop", "web", guardtest.Trust(t, 1, w.key), record, exempt); err != nil {
		t.Fatal(err)
	}
	w.restart()
	return w
}

// restart forgets everything but what is on disk.
func (w *world) restart() {
	w.t.Helper()
	text, err := w.config.JSON()
	if err != nil {
		w.t.Fatal(err)
	}
	if w.Guard, err = guard.New(text, func() time.Time { return w.clock }); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) seal(o guardtest.Options) guardtest.Sealed {
	w.t.Helper()
	if o.Issued.IsZero() {
		o.Issued = now
	}
	if o.Signers == nil {
		o.Signers = []snapshot.Signer{w.key}
	}
	if o.Resources == nil {
		o.Resources = resources()
	}
	return guardtest.Seal(w.t, o)
}

func resources() []proto.Message {
	return []proto.Message{
		&clusterv3.Cluster{Name: "a"},
		&clusterv3.Cluster{Name: "b"},
		&endpointv3.ClusterLoadAssignment{ClusterName: "a"},
		&listenerv3.Listener{Name: "in"},
		&routev3.RouteConfiguration{Name: "in"},
	}
}

// take wants an update of clusters accepted, the seal's carriers in front.
func (w *world) take(s guardtest.Sealed, more ...proto.Message) {
	w.t.Helper()
	if err := w.Validate(snapshot.ClusterType, guardtest.Wrap(w.t, append(s.Carriers(w.t), more...)...), nil); err != nil {
		w.t.Fatal(err)
	}
}

// wantCode wants a refusal, by the code and in the words of the rule, with the
// resource's name as a word.
func (w *world) wantCode(err error, code guard.Code, name string) {
	w.t.Helper()
	if guard.CodeOf(err) != code {
		w.t.Fatalf("%v, want %s", err, code)
	}
	text := err.Error()
	if !strings.HasPrefix(text, "meshseal guard: "+string(code)+": ") || strings.ContainsAny(text, "\n\r\x00") || len(text) > 2000 {
		w.t.Errorf("the sentence is %q", text)
	}
	if name != "" && !strings.Contains(text, " "+name+":") {
		w.t.Errorf("%q does not name %q", text, name)
	}
}

// attack is one update that is not what was sealed.
type attack struct {
	name, blamed string
	code         guard.Code
	url          snapshot.TypeURL
	added        []guard.Resource
	removed      []string
}

func attacks(w *world, s guardtest.Sealed) []attack {
	wrap := func(m ...proto.Message) []guard.Resource { return guardtest.Wrap(w.t, m...) }
	edit := func(r []guard.Resource, f func(*guard.Resource)) []guard.Resource {
		f(&r[len(r)-1])
		return r
	}
	const c, l, r, e = snapshot.ClusterType, snapshot.ListenerType, snapshot.RouteType, snapshot.EndpointType
	carriers := s.Carriers(w.t)
	evil := &clusterv3.Cluster{Name: "a", AltStatName: "evil"}
	all := []attack{
		{"changed", "a", guard.CodeChanged, c, wrap(evil), nil},
		{"changed behind a good one", "a", guard.CodeChanged, c, wrap(s.Resources[1], evil), nil},
		{"unlisted cluster", "c", guard.CodeUnlisted, c, wrap(&clusterv3.Cluster{Name: "c"}), nil},
		{"unlisted listener", "out", guard.CodeUnlisted, l, wrap(&listenerv3.Listener{Name: "out"}), nil},
		{"endpoints of a cluster without any", "b", guard.CodeUnlisted, e, wrap(&endpointv3.ClusterLoadAssignment{ClusterName: "b"}), nil},
		{"misnamed", "b", guard.CodeMisnamed, c, edit(wrap(s.Resources[0]), func(r *guard.Resource) { r.Name = "b" }), nil},
		{"misnamed carrier", snapshot.SealCluster, guard.CodeMisnamed, c, edit(wrap(carriers[0]), func(r *guard.Resource) { r.Name = snapshot.SealCluster }), nil},
		{"no name", "", guard.CodeUnlisted, c, edit(wrap(s.Resources[0]), func(r *guard.Resource) { r.Name = "" }), nil},
		{"not a resource", "a", guard.CodeUnreadable, c, edit(wrap(s.Resources[0]), func(r *guard.Resource) { r.Body = []byte{0xff} }), nil},
		{"a carrier that is none", snapshot.SealCluster, guard.CodeUnreadable, c, edit(wrap(carriers[1]), func(r *guard.Resource) { r.Body = []byte{0xff} }), nil},
		{"removed cluster", "b", guard.CodeRemoved, c, nil, []string{"gone", "b"}},
		{"removed route table", "in", guard.CodeRemoved, r, nil, []string{"in"}},
		{"removed statement", snapshot.StatementCluster, guard.CodeCarrierRemoved, c, nil, []string{snapshot.StatementCluster}},
		{"removed list, beside a new pair", snapshot.SealCluster, guard.CodeTwice, c, wrap(carriers...), []string{snapshot.SealCluster}},
		{"TTL", "in", guard.CodeTTL, l, edit(wrap(s.Resources[3]), func(r *guard.Resource) { r.HasTTL = true }), nil},
		{"TTL on a carrier", snapshot.StatementCluster, guard.CodeTTL, c, edit(wrap(carriers[0]), func(r *guard.Resource) { r.HasTTL = true }), nil},
		{"bodiless", "in", guard.CodeBodiless, l, edit(wrap(s.Resources[3]), func(r *guard.Resource) { r.HasBody, r.Body = false, nil }), nil},
		{"alias", "in", guard.CodeAlias, l, edit(wrap(s.Resources[3]), func(r *guard.Resource) { r.Aliases = 1 }), nil},
		{"added twice", "a", guard.CodeTwice, c, wrap(s.Resources[0], s.Resources[0]), nil},
		{"removed twice", "z", guard.CodeTwice, c, nil, []string{"z", "z"}},
		{"added and removed", "a", guard.CodeTwice, c, wrap(s.Resources[0]), []string{"a"}},
		{"huge body", "a", guard.CodeTooLarge, c, edit(wrap(s.Resources[0]), func(r *guard.Resource) { r.Body = make([]byte, guard.MaxResource+1) }), nil},
		{"huge carrier", snapshot.SealCluster, guard.CodeTooLarge, c, edit(wrap(carriers[1]), func(r *guard.Resource) { r.Body = make([]byte, guard.MaxCarrier+1) }), nil},
		{"huge name", "", guard.CodeTooLarge, c, nil, []string{strings.Repeat("x", 4097)}},
		{"too many", "", guard.CodeTooLarge, c, nil, make([]string, guard.MaxNames+1)},
		{"a control character in the name", "?[31mx", guard.CodeUnlisted, c, wrap(&clusterv3.Cluster{Name: "\x1b[31mx"}), nil},
	}
	for _, url := range guard.TypeURLs()[4:] {
		all = append(all, attack{"of type " + url.Short(), "x", guard.CodeUnsealable, url, []guard.Resource{{Name: "x", HasBody: true}}, nil})
	}
	for _, url := range []snapshot.TypeURL{"", "type.googleapis.com/envoy.config.cluster.v3.ClusterCollection", "nonsense"} {
		all = append(all, attack{"of type " + string(url), "x", guard.CodeUnsealable, url, []guard.Resource{{Name: "x", HasBody: true}}, nil})
	}
	return all
}

// TestRefused: each rule by its code; after each refusal the guard is what it
// was.
func TestRefused(t *testing.T) {
	w := newWorld(t, "")
	s := w.seal(guardtest.Options{Sequence: 3})
	w.take(s)
	seen := map[guard.Code]bool{guard.CodeStateOfTheWorld: true, guard.CodeSealMissing: true, guard.CodeRecord: true, guard.CodeInternal: true} // tests of their own
	for _, a := range attacks(w, s) {
		t.Run(a.name, func(t *testing.T) {
			w.t = t
			seen[a.code] = true
			err := w.Validate(a.url, a.added, a.removed)
			w.wantCode(err, a.code, a.blamed)
			if want := "in force is " + s.Draft.Root().String() + ", sequence 3"; !strings.Contains(err.Error(), want) {
				t.Errorf("%q does not say %q", err, want)
			}
			w.take(s, s.Resources[0], s.Resources[1])
		})
	}
	for _, r := range guard.Rules() {
		if !seen[r.Code] && r.Code != guard.CodeSealRefused {
			t.Errorf("no test reaches %s", r.Code)
		}
	}
}

// TestBeforeASeal: nothing is accepted, not even an update without anything.
func TestBeforeASeal(t *testing.T) {
	w := newWorld(t, "", snapshot.EndpointType)
	s := w.seal(guardtest.Options{})
	carriers := guardtest.Wrap(t, s.Carriers(t)...)
	for _, m := range s.Resources {
		w.wantCode(w.Validate(guardtest.TypeOf(m), guardtest.Wrap(t, m), nil), guard.CodeSealMissing, guardtest.NameOf(m))
	}
	for _, url := range snapshot.Types() {
		w.wantCode(w.Validate(url, nil, nil), guard.CodeSealMissing, "")
		w.wantCode(w.Validate(url, nil, []string{"x"}), guard.CodeSealMissing, "x")
	}
	w.wantCode(w.Validate(snapshot.ClusterType, carriers[:1], nil), guard.CodeSealMissing, snapshot.StatementCluster)
	w.wantCode(w.Validate(snapshot.ClusterType, carriers[1:], nil), guard.CodeSealMissing, snapshot.SealCluster)
	// Neither half was kept.
	w.wantCode(w.Validate(snapshot.ClusterType, carriers[1:], nil), guard.CodeSealMissing, snapshot.SealCluster)
	// The carriers count only as clusters.
	w.wantCode(w.Validate(snapshot.ListenerType, carriers, nil), guard.CodeSealMissing, snapshot.StatementCluster)
	// Of a type that nothing can be of, nothing is something that may be said.
	if err := w.Validate(guard.TypeURLs()[10], nil, []string{"layer"}); err != nil {
		t.Error(err)
	}
	w.take(s, s.Resources[0])
}

// TestWholeOrNothing: a good seal beside one bad resource is not adopted.
func TestWholeOrNothing(t *testing.T) {
	record := filepath.Join(t.TempDir(), "record.json")
	w := newWorld(t, record)
	first, second := w.seal(guardtest.Options{Sequence: 1}), w.seal(guardtest.Options{Sequence: 2})
	w.take(first)
	before, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	bad := guardtest.Wrap(t, append(second.Carriers(t), &clusterv3.Cluster{Name: "evil"})...)
	w.wantCode(w.Validate(snapshot.ClusterType, bad, nil), guard.CodeUnlisted, "evil")
	w.wantCode(w.Validate(snapshot.ClusterType, guardtest.Wrap(t, second.Carriers(t)...), []string{"a"}), guard.CodeRemoved, "a")
	if after, err := os.ReadFile(record); err != nil || string(after) != string(before) {
		t.Errorf("the record changed to %s (%v)", after, err)
	}
	w.take(first) // the first is still not a rollback
	w.take(second)
	w.wantCode(w.Validate(snapshot.ClusterType, guardtest.Wrap(t, first.Carriers(t)...), nil), "ROLLBACK", snapshot.StatementCluster)
}

// TestRecordThatCannotBeWritten: what would not be remembered is not adopted.
func TestRecordThatCannotBeWritten(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "gone")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, filepath.Join(dir, "record.json"))
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	s := w.seal(guardtest.Options{})
	w.wantCode(w.Validate(snapshot.ClusterType, guardtest.Wrap(t, s.Carriers(t)...), nil), guard.CodeRecord, snapshot.StatementCluster)
	w.wantCode(w.Validate(snapshot.ClusterType, guardtest.Wrap(t, s.Resources[0]), nil), guard.CodeSealMissing, "a")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	w.take(s)
}

// TestRecordOutlivesTheProcess: rollback after a restart is refused with a
// record, and not known without one. A record that is broken stops the start.
func TestRecordOutlivesTheProcess(t *testing.T) {
	record := filepath.Join(t.TempDir(), "record.json")
	for _, path := range []string{record, ""} {
		w := newWorld(t, path)
		first, second := w.seal(guardtest.Options{Sequence: 1}), w.seal(guardtest.Options{Sequence: 2})
		w.take(second)
		w.restart()
		err := w.Validate(snapshot.ClusterType, guardtest.Wrap(t, first.Carriers(t)...), nil)
		if want := path != ""; (guard.CodeOf(err) == "ROLLBACK") != want {
			t.Errorf("record %q: %v", path, err)
		}
	}
	if err := os.WriteFile(record, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, _ := guard.NewConfig("shop", "web", guardtest.Trust(t, 1, guardtest.Key(t)), record, nil)
	text, _ := c.JSON()
	if _, err := guard.New(text, time.Now); err == nil || !strings.Contains(err.Error(), "record") {
		t.Errorf("a broken record: %v", err)
	}
}

// TestKeysRotate: a statement signed by the old and the new key brings the new
// one into force, also after a restart; from then on the old one alone signs
// nothing.
func TestKeysRotate(t *testing.T) {
	w := newWorld(t, filepath.Join(t.TempDir(), "record.json"))
	next := guardtest.Key(t)
	w.take(w.seal(guardtest.Options{Sequence: 1}))
	alone := w.seal(guardtest.Options{Sequence: 2, Signers: []snapshot.Signer{next}})
	w.wantCode(w.Validate(snapshot.ClusterType, guardtest.Wrap(t, alone.Carriers(t)...), nil), "SIGNATURE_UNTRUSTED", snapshot.StatementCluster)
	w.take(w.seal(guardtest.Options{Sequence: 3, Signers: []snapshot.Signer{w.key, next}, Keys: guardtest.Trust(t, 1, next)}))
	for range 2 {
		old := w.seal(guardtest.Options{Sequence: 4})
		w.wantCode(w.Validate(snapshot.ClusterType, guardtest.Wrap(t, old.Carriers(t)...), nil), "SIGNATURE_UNTRUSTED", snapshot.StatementCluster)
		w.restart()
	}
	w.take(w.seal(guardtest.Options{Sequence: 4, Signers: []snapshot.Signer{next}}))
}

// TestExpiry: one second before its end a statement judges, at its end nothing
// passes, and a renewal alone, without the list, brings everything back.
func TestExpiry(t *testing.T) {
	w := newWorld(t, "")
	s := w.seal(guardtest.Options{Lifetime: time.Hour})
	w.take(s)
	listener := guardtest.Wrap(t, s.Resources[3])
	w.clock = now.Add(time.Hour - time.Second)
	if err := w.Validate(snapshot.ListenerType, listener, nil); err != nil {
		t.Fatal(err)
	}
	w.clock = now.Add(time.Hour)
	for _, url := range snapshot.Types() {
		w.wantCode(w.Validate(url, nil, nil), "STATEMENT_EXPIRED", snapshot.StatementCluster)
	}
	w.wantCode(w.Validate(snapshot.ListenerType, listener, nil), "STATEMENT_EXPIRED", snapshot.StatementCluster)
	w.wantCode(w.Validate(snapshot.ClusterType, guardtest.Wrap(t, s.Carriers(t)...), nil), "STATEMENT_EXPIRED", snapshot.StatementCluster)
	renewed := w.seal(guardtest.Options{Lifetime: time.Hour, Issued: w.clock})
	if err := w.Validate(snapshot.ClusterType, guardtest.Wrap(t, renewed.Carriers(t)[0], s.Resources[0]), nil); err != nil {
		t.Fatal(err)
	}
	if err := w.Validate(snapshot.ListenerType, listener, nil); err != nil {
		t.Fatal(err)
	}
	w.clock = now.Add(-2 * time.Minute) // the clock went back
	w.wantCode(w.Validate(snapshot.ListenerType, listener, nil), "STATEMENT_NOT_YET_VALID", snapshot.StatementCluster)
}

// TestExemptEndpoints: endpoints from elsewhere pass, if they are endpoints and
// what they say they are; those that are sealed, and everything else, are as
// ever.
func TestExemptEndpoints(t *testing.T) {
	w := newWorld(t, "", snapshot.EndpointType)
	s := w.seal(guardtest.Options{})
	w.take(s)
	other := &endpointv3.ClusterLoadAssignment{ClusterName: "b", NamedEndpoints: map[string]*endpointv3.Endpoint{"x": {}}}
	if err := w.Validate(snapshot.EndpointType, guardtest.Wrap(t, other, s.Resources[2]), []string{"c"}); err != nil {
		t.Fatal(err)
	}
	moved := &endpointv3.ClusterLoadAssignment{ClusterName: "a", NamedEndpoints: map[string]*endpointv3.Endpoint{"x": {}}}
	w.wantCode(w.Validate(snapshot.EndpointType, guardtest.Wrap(t, moved), nil), guard.CodeChanged, "a")
	w.wantCode(w.Validate(snapshot.EndpointType, nil, []string{"a"}), guard.CodeRemoved, "a")
	for code, f := range map[guard.Code]func(*guard.Resource){
		guard.CodeTTL:        func(r *guard.Resource) { r.HasTTL = true },
		guard.CodeMisnamed:   func(r *guard.Resource) { r.Name = "a" },
		guard.CodeUnreadable: func(r *guard.Resource) { r.Body = []byte{0xff} },
		guard.CodeBodiless:   func(r *guard.Resource) { r.HasBody = false },
	} {
		r := guardtest.Wrap(t, other)
		f(&r[0])
		w.wantCode(w.Validate(snapshot.EndpointType, r, nil), code, r[0].Name)
	}
	w.wantCode(w.Validate(snapshot.ClusterType, guardtest.Wrap(t, &clusterv3.Cluster{Name: "c"}), nil), guard.CodeUnlisted, "c")
	w.clock = now.Add(48 * time.Hour)
	w.wantCode(w.Validate(snapshot.EndpointType, guardtest.Wrap(t, other), nil), "STATEMENT_EXPIRED", snapshot.StatementCluster)
}

func TestStateOfTheWorld(t *testing.T) {
	w := newWorld(t, "")
	w.wantCode(w.ValidateState(snapshot.ListenerType), guard.CodeStateOfTheWorld, "")
	w.take(w.seal(guardtest.Options{}))
	w.wantCode(w.ValidateState(snapshot.ListenerType), guard.CodeStateOfTheWorld, "")
}

// TestPanic: whatever goes wrong inside is a refusal, and the guard lives.
func TestPanic(t *testing.T) {
	w := newWorld(t, "")
	text, err := w.config.JSON()
	if err != nil {
		t.Fatal(err)
	}
	broken := true
	g, err := guard.New(text, func() time.Time {
		if broken {
			panic("no clock")
		}
		return now
	})
	if err != nil {
		t.Fatal(err)
	}
	s := guardtest.Wrap(t, w.seal(guardtest.Options{}).Carriers(t)...)
	w.wantCode(g.Validate(snapshot.ClusterType, s, nil), guard.CodeInternal, "")
	broken = false
	if err := g.Validate(snapshot.ClusterType, s, nil); err != nil {
		t.Fatal(err)
	}
}

// TestBodiesAreNotKept: the bytes are Envoy's and change after the call.
func TestBodiesAreNotKept(t *testing.T) {
	w := newWorld(t, "")
	s := w.seal(guardtest.Options{})
	carriers := guardtest.Wrap(t, s.Carriers(t)...)
	if err := w.Validate(snapshot.ClusterType, carriers, nil); err != nil {
		t.Fatal(err)
	}
	for _, r := range carriers {
		clear(r.Body)
	}
	renewed := w.seal(guardtest.Options{Issued: now.Add(time.Second)})
	if err := w.Validate(snapshot.ClusterType, guardtest.Wrap(t, append(renewed.Carriers(t)[:1], s.Resources[0])...), nil); err != nil {
		t.Fatal(err)
	}
}

// TestManyAtOnce: validators of several threads share one state.
func TestManyAtOnce(t *testing.T) {
	w := newWorld(t, "")
	var seals [][]guard.Resource
	for i := range 8 {
		seals = append(seals, guardtest.Wrap(t, w.seal(guardtest.Options{Sequence: uint64(i + 1)}).Carriers(t)...))
	}
	last := len(seals) - 1
	var wg sync.WaitGroup
	for i := range seals {
		wg.Go(func() {
			if err := w.Validate(snapshot.ClusterType, seals[i], nil); err != nil && guard.CodeOf(err) != "ROLLBACK" {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if err := w.Validate(snapshot.ClusterType, seals[last], nil); err != nil {
		t.Error(err)
	}
	for i := range last {
		w.wantCode(w.Validate(snapshot.ClusterType, seals[i], nil), "ROLLBACK", "")
	}
}

// TestLargeLists: 100,000 resources fit into the bound of a carrier; a list
// above it is refused without a look into it.
func TestLargeLists(t *testing.T) {
	w := newWorld(t, "")
	var many []proto.Message
	for i := range 100_000 {
		many = append(many, &clusterv3.Cluster{Name: fmt.Sprintf("outbound.region-1.service-%06d.production.test", i)})
	}
	s := w.seal(guardtest.Options{Resources: many})
	t.Logf("the list of %d resources with names of %d bytes has %d bytes", len(many), len(guardtest.NameOf(many[0])), len(s.Seal.List))
	w.take(s, many...)
}
