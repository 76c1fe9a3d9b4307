//go:build spire

package spire

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"meshseal/identity"
	"meshseal/identity/identitytest"
	"meshseal/identity/spire"
	"meshseal/integration/spire/spiretest"
	"meshseal/internal/meshtest"
)

// registry is a SPIRE server, and a mesh repository whose signed snapshots are
// synchronized with it by the program.
type registry struct {
	t        *testing.T
	dir      string
	SPIRE    *spiretest.Server
	repo     *meshtest.Repository
	snapshot string // the file
}

// sum is the hex digest of a text, which stands for a program.
func sum(name string) string {
	d := sha256.Sum256([]byte(name))
	return hex.EncodeToString(d[:])
}

// ordersYAML is a workload that may run the programs named.
func ordersYAML(more string, programs ...string) string {
	var allowed []string
	for _, p := range programs {
		allowed = append(allowed, "sha256:"+sum(p))
	}
	return fmt.Sprintf("spiffe_id: spiffe://shop.test/orders\nallowed: [%s]\n%s", strings.Join(allowed, ", "), more)
}

const ordersSPIRE = "spire: {unix: {path: /opt/orders, user: orders}, x509_svid_ttl: 1m}\n"

func newRegistry(t *testing.T) *registry {
	t.Helper()
	r := &registry{t: t, dir: spiretest.Dir(t), SPIRE: spiretest.StartServer(t, spiretest.ServerConfig{TrustDomain: domain})}
	r.snapshot = r.dir + "/mesh.snapshot"
	files := map[string]string{}
	for name, text := range shop {
		files[name] = strings.NewReplacer("APP", "127.0.0.2", "CLIENT", "127.0.0.3", "BACKEND", "127.0.0.4").Replace(text)
	}
	for _, name := range []string{"app", "client-proxy"} {
		files["workloads/"+name+".yaml"] = fmt.Sprintf("spiffe_id: spiffe://shop.test/%s\nallowed: [sha256:%s]\n", name, sum(name))
	}
	files["workloads/orders.yaml"] = ordersYAML(ordersSPIRE, "orders-1", "orders-2")
	r.repo = meshtest.NewRepository(t, r.dir+"/repo", files)
	meshtest.Run(t, meshtest.Meshseal(t, "keygen", "--out", r.dir+"/key"))
	r.build()
	return r
}

func (r *registry) build() {
	r.t.Helper()
	meshtest.Run(r.t, meshtest.Meshseal(r.t, "build", "--repo", r.repo.Dir, "--out", r.snapshot))
	meshtest.Run(r.t, meshtest.Meshseal(r.t, "sign", "--key", r.dir+"/key", r.snapshot))
}

// commit changes the workload orders and builds the commit.
func (r *registry) commit(orders string) {
	r.t.Helper()
	r.repo.Commit("orders", map[string]string{"workloads/orders.yaml": orders})
	r.build()
}

// synced is what spire sync wrote.
type synced struct {
	Wanted   int
	Steps    []struct{ Action, Why, Error string }
	Findings []struct {
		Code  string
		Entry struct{ ID string }
	}
	code   int
	stderr string
}

func (s synced) actions() string {
	var out []string
	for _, step := range s.Steps {
		out = append(out, step.Action)
	}
	return strings.Join(out, " ")
}

// sync runs spire sync on the server's socket.
func (r *registry) sync(args ...string) synced {
	r.t.Helper()
	return r.run(append([]string{"--server", "unix://" + r.SPIRE.Socket}, args...)...)
}

func (r *registry) run(args ...string) synced {
	r.t.Helper()
	cmd := meshtest.Meshseal(r.t, append([]string{"spire", "sync", "-o", "json", "--key", r.dir + "/key.pub", r.snapshot}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	s := synced{stderr: stderr.String()}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		s.code = exit.ExitCode()
	} else if err != nil {
		r.t.Fatal(err)
	}
	if len(out) > 0 {
		if err := json.Unmarshal(out, &s); err != nil {
			r.t.Fatalf("%v: %s", err, out)
		}
	}
	return s
}

// wants holds that a synchronization ended so.
func (r *registry) wants(s synced, code int, actions string) {
	r.t.Helper()
	if s.code != code || s.actions() != actions {
		r.t.Fatalf("exit code %d with %q, wanted %d with %q: %+v", s.code, s.actions(), code, actions, s)
	}
}

// has holds that the server has own entries for exactly these programs.
func (r *registry) has(programs ...string) []spiretest.Entry {
	r.t.Helper()
	var got, wanted []string
	var own []spiretest.Entry
	for _, e := range r.SPIRE.Entries() {
		if strings.HasPrefix(e.ID, "meshseal.shop.") {
			own = append(own, e)
			got = append(got, e.SPIFFEID)
		}
	}
	for _, p := range programs {
		wanted = append(wanted, "spiffe://shop.test/orders/sha256/"+sum(p))
	}
	slices.Sort(got)
	slices.Sort(wanted)
	if !slices.Equal(got, wanted) {
		r.t.Fatalf("the server has %q, wanted %q", got, wanted)
	}
	return own
}

// TestSyncMakesTheServerHoldWhatTheSnapshotWants, from an empty server on: a dry
// run changes nothing, a second run has nothing to do, a revoked digest loses
// its entry, and a change of lifetime replaces an entry.
func TestSyncMakesTheServerHoldWhatTheSnapshotWants(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	r.wants(r.sync("--dry-run"), 0, "create create")
	r.has()
	r.wants(r.sync(), 0, "create create")
	r.has("orders-1", "orders-2")
	r.wants(r.sync(), 0, "")

	r.commit(ordersYAML(ordersSPIRE+"revoked: [sha256:"+sum("orders-1")+"]\n", "orders-1", "orders-2"))
	r.wants(r.sync(), 0, "delete")
	e := r.has("orders-2")[0]
	slices.Sort(e.Selectors)
	if want := []string{"unix:path:/opt/orders", "unix:sha256:" + sum("orders-2"), "unix:user:orders"}; !slices.Equal(e.Selectors, want) || e.ParentID != r.SPIRE.Nodes() || e.X509TTL != time.Minute {
		t.Errorf("the entry is %+v", e)
	}

	r.commit(ordersYAML(strings.Replace(ordersSPIRE, "1m", "2m", 1), "orders-2", "orders-3"))
	r.wants(r.sync(), 0, "create replace")
	for _, e := range r.has("orders-2", "orders-3") {
		if e.X509TTL != 2*time.Minute {
			t.Errorf("the entry is %+v", e)
		}
	}
}

// TestSyncPutsRightWhatSomebodyEdited: an entry of meshseal's that was opened to
// a user is replaced.
func TestSyncPutsRightWhatSomebodyEdited(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	r.sync()
	e := r.has("orders-1", "orders-2")[0]
	r.SPIRE.Command("entry update", "-entryID", e.ID, "-spiffeID", e.SPIFFEID, "-parentID", e.ParentID, "-selector", "unix:uid:0", "-admin")
	s := r.sync()
	r.wants(s, 0, "replace")
	if !strings.Contains(s.Steps[0].Why, "edited") {
		t.Errorf("it is not told: %+v", s)
	}
	for _, after := range r.has("orders-1", "orders-2") {
		if after.ID == e.ID && (after.Admin || !slices.Equal(after.Selectors, e.Selectors)) {
			t.Errorf("the entry is %+v, wanted %+v", after, e)
		}
	}
}

// TestSyncTellsEntriesOfOthersAndLeavesThem: one that gives the identity to a
// user, and one in the way of a wanted one.
func TestSyncTellsEntriesOfOthersAndLeavesThem(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	id := "spiffe://shop.test/orders/sha256/"
	open := r.SPIRE.CreateEntry(spiretest.Entry{SPIFFEID: id + sum("orders-1"), Selectors: []string{"unix:uid:0"}})
	blocks := r.SPIRE.CreateEntry(spiretest.Entry{SPIFFEID: id + sum("orders-2"), Selectors: []string{"unix:path:/opt/orders", "unix:user:orders", "unix:sha256:" + sum("orders-2")}})
	other := r.SPIRE.CreateEntry(spiretest.Entry{SPIFFEID: "spiffe://shop.test/somebody", Selectors: []string{"unix:uid:0"}})
	s := r.sync()
	r.wants(s, 1, "create")
	codes := map[string]string{}
	for _, f := range s.Findings {
		codes[f.Entry.ID] = f.Code
	}
	if len(codes) != 2 || codes[open] != "ENTRY_UNPINNED" || codes[blocks] != "ENTRY_BLOCKS" {
		t.Errorf("findings %v", codes)
	}
	r.has("orders-1")
	for _, e := range []string{open, blocks, other} {
		if !slices.ContainsFunc(r.SPIRE.Entries(), func(got spiretest.Entry) bool { return got.ID == e }) {
			t.Errorf("entry %s is gone", e)
		}
	}
	r.SPIRE.DeleteEntry(open)
	r.SPIRE.DeleteEntry(blocks)
	r.wants(r.sync(), 0, "create")
	r.has("orders-1", "orders-2")
}

// TestSyncNamesTheEntryThatCannotBeCreated: the others are created, and what
// the new one would take the place of stays.
func TestSyncNamesTheEntryThatCannotBeCreated(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	r.sync()
	r.repo.Commit("partner", map[string]string{"meshseal.yaml": strings.Replace(shop["meshseal.yaml"], "[shop.test]", "[shop.test, partner.test]", 1)})
	r.commit(ordersYAML("spire: {unix: {path: /opt/orders-new, user: orders}, federates_with: [partner.test]}\n", "orders-2"))
	s := r.sync()
	r.wants(s, 2, "create delete delete")
	if !strings.Contains(s.stderr, "partner.test") || !strings.Contains(s.stderr, sum("orders-2")) || !strings.Contains(s.stderr, "held back") {
		t.Errorf("stderr: %s", s.stderr)
	}
	if e := r.has("orders-2")[0]; !slices.Contains(e.Selectors, "unix:path:/opt/orders") {
		t.Errorf("the entry is %+v", e)
	}
}

// TestSyncRefusesWhatIsNotSignedOrOld: nothing is created and nothing deleted.
func TestSyncRefusesWhatIsNotSignedOrOld(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	record := r.dir + "/record.json"
	old, err := os.ReadFile(r.snapshot)
	if err != nil {
		t.Fatal(err)
	}
	r.commit(ordersYAML(ordersSPIRE, "orders-2"))
	r.wants(r.sync("--record", record), 0, "create")
	newest, err := os.ReadFile(r.snapshot)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"an older snapshot": {old, "ROLLBACK"},
		"a flipped byte":    {flip(newest), "_"},
		"no signature":      {nil, "SIGNATURE_MISSING"},
	} {
		if c.data == nil {
			meshtest.Run(t, meshtest.Meshseal(t, "build", "--repo", r.repo.Dir, "--out", r.snapshot))
		} else if err := os.WriteFile(r.snapshot, c.data, 0o600); err != nil {
			t.Fatal(err)
		}
		if s := r.sync("--record", record); s.code != 1 || !strings.Contains(s.stderr, c.want) {
			t.Errorf("%s: exit code %d: %s", name, s.code, s.stderr)
		}
		r.has("orders-2")
	}
}

func flip(data []byte) []byte {
	out := slices.Clone(data)
	out[len(out)/2] ^= 1
	return out
}

// TestSyncOverTCPNeedsAnAdmin: mutual TLS with the SVID of the agent; that of
// an administrator may, that of a workload may not.
func TestSyncOverTCPNeedsAnAdmin(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	agent := r.SPIRE.StartAgent(spiretest.AgentConfig{})
	binary, err := meshtest.Binary()
	if err == nil {
		binary, err = filepath.Abs(binary)
	}
	if err == nil {
		binary, err = filepath.EvalSymlinks(binary)
	}
	if err != nil {
		t.Fatal(err)
	}
	me := spiretest.ProgramOf(t, binary)
	over := []string{"--server", fmt.Sprintf("%s:%d", r.SPIRE.Host, r.SPIRE.Port), "--workload-api", "unix://" + agent.Socket}

	plain := r.SPIRE.CreateEntry(spiretest.Entry{SPIFFEID: "spiffe://shop.test/nobody", Selectors: me.Selectors()})
	if s := r.run(over...); s.code != 2 || !strings.Contains(s.stderr, "PermissionDenied") {
		t.Errorf("a workload's SVID: exit code %d: %s", s.code, s.stderr)
	}
	r.SPIRE.DeleteEntry(plain)
	r.SPIRE.CreateEntry(spiretest.Entry{SPIFFEID: "spiffe://shop.test/admin", Selectors: me.Selectors(), Admin: true})
	meshtest.Eventually(t, "an administrator's SVID may", func() error {
		if s := r.run(over...); s.code != 0 || s.actions() != "create create" {
			return fmt.Errorf("exit code %d: %s", s.code, s.stderr)
		}
		return nil
	})
	r.has("orders-1", "orders-2")
}

// TestSyncFollowsTheSnapshot: a new file is taken by itself, a bad one changes
// nothing, and what somebody deletes while the server is away comes back.
func TestSyncFollowsTheSnapshot(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	follow := meshtest.Start(t, meshtest.Meshseal(t, "spire", "sync", "--follow", "--poll", "20ms", "--key", r.dir+"/key.pub", "--server", "unix://"+r.SPIRE.Socket, r.snapshot))
	until := func(what string, programs ...string) {
		t.Helper()
		follow.Eventually(what, func() error {
			n := 0
			for _, e := range r.SPIRE.Entries() {
				if strings.HasPrefix(e.ID, "meshseal.shop.") {
					if !slices.ContainsFunc(programs, func(p string) bool { return strings.HasSuffix(e.SPIFFEID, sum(p)) }) {
						return fmt.Errorf("there is %s", e.SPIFFEID)
					}
					n++
				}
			}
			if n != len(programs) {
				return fmt.Errorf("%d entries", n)
			}
			return nil
		})
	}
	until("the snapshot is registered", "orders-1", "orders-2")
	if err := r.SPIRE.Stop(); err != nil {
		t.Fatal(err)
	}
	r.commit(ordersYAML(ordersSPIRE, "orders-3"))
	follow.Eventually("it is told that the server is away", func() error {
		if !strings.Contains(follow.Log(), "SPIRE server unix://") {
			return errors.New("not yet")
		}
		return nil
	})
	r.SPIRE.Start()
	until("the newer snapshot is registered", "orders-3")
	if err := os.WriteFile(r.snapshot, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	follow.Eventually("the bad file is told", func() error {
		if !strings.Contains(follow.Log(), "MALFORMED") {
			return errors.New("not yet")
		}
		return nil
	})
	until("nothing has changed", "orders-3")
}

// TestWatchedEntriesOfTheRealServer: what the server holds is what the evidence
// says, and a server that is gone is not known.
func TestWatchedEntriesOfTheRealServer(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	r.sync()
	client, err := spire.NewClient(spire.ClientConfig{Server: "unix://" + r.SPIRE.Socket})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	watch := spire.NewWatch(spire.WatchConfig{List: client.List, Poll: 100 * time.Millisecond, Now: time.Now})
	watch.Demand(true)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- watch.Run(ctx) }()
	defer func() { cancel(); <-done }()

	holder := holderOf(t, "spiffe://shop.test/orders/sha256/"+sum("orders-1"))
	says := func(want error) {
		t.Helper()
		meshtest.Eventually(t, fmt.Sprint("it says ", want), func() error {
			d, err := watch.Digest(holder, time.Now())
			if !errors.Is(err, want) || want == nil && d.Hex() != sum("orders-1") {
				return fmt.Errorf("%s, %w", d, err)
			}
			return nil
		})
	}
	says(nil)
	open := r.SPIRE.CreateEntry(spiretest.Entry{SPIFFEID: "spiffe://shop.test/orders/sha256/" + sum("orders-1"), Selectors: []string{"unix:uid:0"}})
	says(identity.ErrEntryUnpinned)
	r.SPIRE.DeleteEntry(open)
	says(nil)
	r.commit(ordersYAML(ordersSPIRE, "orders-2"))
	r.sync()
	says(identity.ErrEntryMissing)
	if err := r.SPIRE.Stop(); err != nil {
		t.Fatal(err)
	}
	says(identity.ErrEntryUnknown)
	r.SPIRE.Start()
	says(identity.ErrEntryMissing)
}

// holderOf is the holder of an SVID, which another CA than SPIRE's may have
// signed: the watch looks at the SPIFFE ID alone.
func holderOf(t *testing.T, id string) identity.Presented {
	t.Helper()
	ca := identitytest.NewCA(t, domain)
	svid, err := identity.VerifySVID(identitytest.Chain(t, ca.SVID(t, id)), identitytest.Bundles(t, ca), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return identity.Presented{SVID: svid}
}

// TestServeKeepsTheEntriesAndTellsWhatIsWrong: an adoption is registered at
// once; what somebody else registered, and a server that is away, stand in the
// status and the metrics, and keep nobody from being served.
func TestServeKeepsTheEntriesAndTellsWhatIsWrong(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	meshtest.Write(t, r.dir, "bundle.json", r.SPIRE.Bundle())
	http := "unix://" + r.dir + "/http.sock"
	config := meshtest.Write(t, r.dir, "serve.yaml", fmt.Sprintf(`
state: %[1]s/state
source: {file: {path: %[1]s/mesh.snapshot}, poll: 20ms}
trust: {keys: [%[1]s/key.pub], threshold: 1}
identity: {trust_bundles: {shop.test: %[1]s/bundle.json}}
spire: {server: "unix://%[2]s", sync: true, poll: 100ms}
listeners: [{socket: %[1]s/app.sock, proxy: app}]
http: {address: "%[3]s"}
records: {path: %[1]s/records.json}
drain: 10ms
`, r.dir, r.SPIRE.Socket, http))
	serve := meshtest.Start(t, meshtest.Meshseal(t, "serve", "--config", config))
	shows := func(what string, code int, wanted ...string) {
		t.Helper()
		serve.Eventually(what, func() error {
			cmd := meshtest.Meshseal(t, "status", "--address", http)
			out, err := cmd.Output()
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) || cmd.ProcessState.ExitCode() != code {
				return fmt.Errorf("exit code %d: %s", cmd.ProcessState.ExitCode(), out)
			}
			for _, w := range wanted {
				if !strings.Contains(string(out), w) {
					return fmt.Errorf("no %q in %s", w, out)
				}
			}
			return nil
		})
	}
	shows("the entries are there", 0, "2 entries, synchronized at")
	r.has("orders-1", "orders-2")

	open := r.SPIRE.CreateEntry(spiretest.Entry{SPIFFEID: "spiffe://shop.test/orders/sha256/" + sum("orders-1"), Selectors: []string{"unix:uid:0"}})
	r.commit(ordersYAML(ordersSPIRE, "orders-1", "orders-2", "orders-3"))
	shows("the finding is told", 1, "ENTRY_UNPINNED", open, "3 entries, synchronized at")
	r.SPIRE.DeleteEntry(open)

	if err := r.SPIRE.Stop(); err != nil {
		t.Fatal(err)
	}
	r.commit(ordersYAML(ordersSPIRE, "orders-3"))
	shows("the server that is away is told", 1, "NOT SYNCHRONIZED", r.SPIRE.Socket)
	r.SPIRE.Start()
	shows("it is tried again", 0, "1 entries, synchronized at")
	r.has("orders-3")
}
