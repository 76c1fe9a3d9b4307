package integration

import (
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"meshseal/internal/meshtest"
)

// TestProxySVIDIsRenewed: an Envoy whose SVID lives for half a minute and is
// renewed by SDS at half of that goes on asking meshseal without a refusal, on
// whichever connections.
func TestProxySVIDIsRenewed(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	const life = 30 * time.Second
	short := func(c *x509.Certificate) { c.NotAfter = time.Now().Add(life) }
	config, admin, sds := s.BootstrapWithSDS("app", s.CA.SVID(id("app", "app-1"), short))
	stop, stopped := make(chan struct{}), make(chan struct{})
	defer func() { close(stop); <-stopped }()
	go func() {
		defer close(stopped)
		for tick := time.NewTicker(life / 2); ; {
			select {
			case <-stop:
				tick.Stop()
				return
			case <-tick.C:
				sds.Rotate(s.CA.SVID(id("app", "app-1"), short), s.CA)
			}
		}
	}()
	meshtest.StartEnvoy(t, config, admin)
	c := s.client(t)
	wantAnswer(t, c, s.url("/items/1"), 200, "")
	begin := time.Now()
	meshtest.Stays(t, "the Envoy is heard", life+life/3, func() error {
		a := ask(t, c, s.url("/items/1"))
		return wantErr(a.code == 200, "%d %s after %s", a.code, a.reason, time.Since(begin))
	})
}

// TestStatementIsRenewed: a server that signs renews its statement before it
// ends, for the same root, and no Envoy notices.
func TestStatementIsRenewed(t *testing.T) {
	t.Parallel()
	s := newShop(t, edit(t, "meshseal.yaml", "grace: 5s", "grace: 5s\nstatement_lifetime: 8s"))
	envoy := s.appEnvoy()
	c := s.client(t)
	wantAnswer(t, c, s.url("/items/1"), 200, "")
	before, err := s.Server.Status()
	if err != nil {
		t.Fatal(err)
	}
	updates := envoy.Stat("listener_manager.lds.update_success")
	meshtest.Stays(t, "requests are allowed past the first statement's end", 10*time.Second, func() error {
		a := ask(t, c, s.url("/items/1"))
		return wantErr(a.code == 200, "%d %s", a.code, a.reason)
	})
	after, err := s.Server.Status()
	if err != nil {
		t.Fatal(err)
	}
	if after.Snapshot.Root != before.Snapshot.Root || !after.Snapshot.Expires.After(before.Snapshot.Expires) {
		t.Errorf("the statement went from %v to %v", before.Snapshot, after.Snapshot)
	}
	if n := envoy.Stat("listener_manager.lds.update_success"); n != updates {
		t.Errorf("listeners were sent again: %g updates, then %g", updates, n)
	}
}

// TestBrokenCommitKeepsWhatIsInForce: a commit that does not build is refused
// and shown, and what is in force is renewed past the end of its statement; the
// commit that mends it takes effect.
func TestBrokenCommitKeepsWhatIsInForce(t *testing.T) {
	t.Parallel()
	s := newShop(t, edit(t, "meshseal.yaml", "grace: 5s", "grace: 5s\nstatement_lifetime: 3s"))
	s.appEnvoy()
	c := s.client(t)
	wantAnswer(t, c, s.url("/items/1"), 200, "")
	s.Repo.Replace("a slip", "meshseal.yaml", "format: v1", "fromat: v1")
	meshtest.Eventually(t, "the commit is refused", func() error {
		status, err := s.Server.Status()
		if err != nil {
			return err
		}
		return wantErr(strings.Contains(status.Source.Refused, "fromat"), "refused: %q", status.Source.Refused)
	})
	meshtest.Stays(t, "requests are allowed past the statement's end", 5*time.Second, func() error {
		a := ask(t, c, s.url("/items/1"))
		return wantErr(a.code == 200, "%d %s", a.code, a.reason)
	})
	s.WaitInForce(s.Repo.Replace("mended", "meshseal.yaml", "fromat: v1", "format: v1"))
	wantAnswer(t, c, s.url("/items/1"), 200, "")
}

// fileShop is a shop whose server follows a snapshot file and holds no signing
// key.
func fileShop(t *testing.T, edits ...func(map[string]string)) *shop {
	t.Helper()
	s := newShop(t, edits...)
	if err := s.Server.Stop(); err != nil {
		t.Fatal(err)
	}
	s.publish(t)
	s.Configure("source: {git: {repository: "+s.Repo.Dir+", ref: main, signers: {unsigned: allow}}, poll: 50ms}\nsigning: {key: "+s.Dir+"/key}",
		"source: {file: {path: "+s.Dir+"/mesh.snapshot}, poll: 50ms}\ntrust: {keys: ["+s.Dir+"/key.pub], threshold: 1}")
	s.Configure(s.Dir+"/state", s.Dir+"/file-state")
	return s
}

// publish builds and signs the commit and puts the file where the server reads
// it, in one step.
func (s *shop) publish(t *testing.T) {
	t.Helper()
	file := s.Dir + "/next.snapshot"
	meshtest.Run(t, meshtest.Meshseal(t, "build", "--repo", s.Repo.Dir, "--out", file))
	meshtest.Run(t, meshtest.Meshseal(t, "sign", "--key", s.Dir+"/key", file))
	if err := os.Rename(file, s.Dir+"/mesh.snapshot"); err != nil {
		t.Fatal(err)
	}
}

// TestFileSource: what CI signed takes effect by itself; what nobody whom the
// server trusts signed, and what is older, does not.
func TestFileSource(t *testing.T) {
	t.Parallel()
	s := fileShop(t)
	s.Start()
	s.appEnvoy()
	c := s.client(t)
	wantAnswer(t, c, s.url("/items/1"), 200, "")
	old, err := os.ReadFile(s.Dir + "/mesh.snapshot")
	if err != nil {
		t.Fatal(err)
	}
	commit := s.Repo.Replace("revoke", "workloads/client.yaml", "revoked: [", "revoked: [sha256:"+digest("client-1")+", ")
	s.publish(t)
	s.WaitInForce(commit)
	wantAnswer(t, c, s.url("/items/1"), 403, "DIGEST_REVOKED")

	refused := func(what string, file []byte, why string) {
		t.Helper()
		if err := os.WriteFile(s.Dir+"/other", file, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(s.Dir+"/other", s.Dir+"/mesh.snapshot"); err != nil {
			t.Fatal(err)
		}
		s.Server.Eventually(what+" is refused", func() error {
			status, err := s.Server.Status()
			return errorsOr(err, strings.Contains(strings.ToLower(status.Source.Refused), why), "%q", status.Source.Refused)
		})
		status, err := s.Server.Status()
		if err != nil || status.Snapshot.Commit != commit {
			t.Errorf("%s: %v is in force, %v", what, status.Snapshot, err)
		}
	}
	refused("an older snapshot", old, "older")
	s.Repo.Replace("allow again", "workloads/client.yaml", "revoked: [sha256:"+digest("client-1")+", ", "revoked: [")
	meshtest.Run(t, meshtest.Meshseal(t, "build", "--repo", s.Repo.Dir, "--out", s.Dir+"/unsigned"))
	unsigned, err := os.ReadFile(s.Dir + "/unsigned")
	if err != nil {
		t.Fatal(err)
	}
	refused("an unsigned snapshot", unsigned, "sign")
	meshtest.Run(t, meshtest.Meshseal(t, "keygen", "--out", s.Dir+"/stranger"))
	meshtest.Run(t, meshtest.Meshseal(t, "sign", "--key", s.Dir+"/stranger", s.Dir+"/unsigned"))
	stranger, err := os.ReadFile(s.Dir + "/unsigned")
	if err != nil {
		t.Fatal(err)
	}
	refused("a stranger's signature", stranger, "sign")
	refused("half a file", old[:len(old)/2], "malformed")
	wantAnswer(t, c, s.url("/items/1"), 403, "DIGEST_REVOKED")

	// A restart changes nothing: the state folder knows what was adopted.
	if err := os.WriteFile(s.Dir+"/mesh.snapshot", old, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := s.Server.Stop(); err != nil {
		t.Fatal(err)
	}
	s.Start()
	if status, err := s.Server.Status(); err != nil || status.Snapshot.Commit != commit {
		t.Errorf("after a restart with the older file: %v, %v", status, err)
	}
	meshtest.Eventually(t, "the Envoy is back", func() error {
		a := ask(t, c, s.url("/items/1"))
		return wantErr(a.reason == "DIGEST_REVOKED", "%d %s", a.code, a.reason)
	})
}

// TestExpiry: a snapshot that nobody renews is denied past its end, by name.
func TestExpiry(t *testing.T) {
	t.Parallel()
	s := fileShop(t, edit(t, "meshseal.yaml", "grace: 5s", "grace: 5s\nstatement_lifetime: 8s"))
	s.Start()
	s.appEnvoy()
	c := s.client(t)
	s.publish(t)
	meshtest.Eventually(t, "the newest statement serves", func() error {
		a := ask(t, c, s.url("/items/1"))
		return wantErr(a.code == 200, "%d %s", a.code, a.reason)
	})
	meshtest.Eventually(t, "the statement ends", func() error {
		a := ask(t, c, s.url("/items/1"))
		return wantErr(a.code == 403 && a.reason == "SNAPSHOT_EXPIRED", "%d %s", a.code, a.reason)
	})
}

// TestMeshsealHangs: a server that is frozen is as good as none: Envoy denies
// in its own time, and the backend is untouched.
func TestMeshsealHangs(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.appEnvoy()
	c := s.client(t)
	wantAnswer(t, c, s.url("/items/1"), 200, "")
	s.app.Forget()
	defer s.Server.Freeze()()
	begin := time.Now()
	if a := ask(t, c, s.url("/items/1")); a.code != 403 && a.code != 503 {
		t.Errorf("%d %s", a.code, a.body)
	}
	if took := time.Since(begin); took > 8*time.Second {
		t.Errorf("the denial took %s", took)
	}
	if n := len(s.app.Seen()); n != 0 {
		t.Errorf("the backend saw %d requests", n)
	}
}

// TestSIGTERM: not ready, drained, exit code 0.
func TestSIGTERM(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.appEnvoy()
	wantAnswer(t, s.client(t), s.url("/items/1"), 200, "")
	if err := s.Server.Stop(); err != nil {
		t.Errorf("%v\n%s", err, s.Server.Tail())
	}
}

// TestStartsThatAreRefused end with a reason and not with a server.
func TestStartsThatAreRefused(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	second := func(change func(string) string) (string, int) {
		t.Helper()
		text, err := os.ReadFile(filepath.Join(s.Dir, "serve.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		return exit(t, meshtest.Meshseal(t, "serve", "--config", meshtest.Write(t, t.TempDir(), "serve.yaml", change(string(text)))))
	}
	elsewhere := strings.NewReplacer(s.Dir+"/state", t.TempDir(), s.Host, meshtest.Host()).Replace
	for _, c := range []struct {
		name, says string
		change     func(string) string
	}{
		{"two on one state folder", "state", func(text string) string { return strings.ReplaceAll(text, s.Host, meshtest.Host()) }},
		{"an address that is taken", "address already in use", func(text string) string { return strings.ReplaceAll(text, s.Dir+"/state", t.TempDir()) }},
		{"an unknown setting", "surprise", func(text string) string { return elsewhere(text) + "surprise: 1\n" }},
		{"neither trust nor a key", "signing", func(text string) string {
			return strings.Replace(elsewhere(text), "signing: {key: "+s.Dir+"/key}\n", "", 1)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, code := second(c.change)
			if code == 0 || !strings.Contains(out, c.says) {
				t.Errorf("exit %d, wanted a refusal that says %q:\n%s", code, c.says, out)
			}
		})
	}
}

// TestProbesAndMetrics: what operators look at.
func TestProbesAndMetrics(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.appEnvoy()
	wantAnswer(t, s.client(t), s.url("/items/1"), 200, "")
	wantAnswer(t, s.caller(t, s.CA.SVID(id("client", "client-3"))), s.url("/items/1"), 403, "DIGEST_NOT_ALLOWED")
	metrics := s.Server.Metrics()
	for _, want := range []string{`decision="allow"`, `reason="DIGEST_NOT_ALLOWED"`, "connected", "duration", "expir"} {
		if !strings.Contains(metrics, want) {
			t.Errorf("/metrics has no %s:\n%s", want, metrics)
		}
	}
	out, code := exit(t, meshtest.Meshseal(t, "status", "--address", s.Server.HTTP))
	if !strings.Contains(out, "app") || code > 1 {
		t.Errorf("status: exit %d\n%s", code, out)
	}
}

// TestPlaintextIsRefused: nobody reaches xDS or ext_authz without TLS, nor
// without a certificate.
func TestPlaintextIsRefused(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	conn, err := net.Dial("tcp", s.Host+":18000")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(meshtest.Patience)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(conn, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
	heard := make([]byte, 64)
	n, err := conn.Read(heard)
	if err == nil && (n < 1 || heard[0] != 0x15) { // 0x15 begins a TLS alert
		t.Errorf("plaintext was answered %q", heard[:n])
	}
	c := s.client(t)
	transportOf(c).TLSClientConfig.GetClientCertificate = nil
	transportOf(c).ForceAttemptHTTP2 = true
	if resp, err := c.Do(get(t, "https://"+s.Host+":18000/")); err == nil {
		t.Errorf("without a certificate: %s", resp.Status)
		resp.Body.Close()
	}
}
