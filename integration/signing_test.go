package integration

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"meshseal/internal/meshtest"
	"meshseal/snapshot"
)

// securesystemslib returns a function that runs testdata/signing/foreign.py,
// which signs and verifies with the library of in-toto's own tools.
func securesystemslib(t *testing.T) func(stdin []byte, args ...string) string {
	t.Helper()
	wheel := meshtest.Run(t, exec.Command("../scripts/securesystemslib"))
	lib := t.TempDir()
	meshtest.Run(t, exec.Command("python3", "-m", "zipfile", "-e", wheel, lib))
	return func(stdin []byte, args ...string) string {
		cmd := exec.Command("python3", append([]string{"testdata/signing/foreign.py"}, args...)...)
		cmd.Env = append(os.Environ(), "PYTHONPATH="+lib, "PYTHONDONTWRITEBYTECODE=1")
		cmd.Stdin = bytes.NewReader(stdin)
		return meshtest.Run(t, cmd)
	}
}

// opensslKey makes a key that meshseal never sees; its public half is key+".pub".
func opensslKey(t *testing.T, dir, name string, algorithm ...string) (key string) {
	t.Helper()
	key = filepath.Join(dir, name)
	meshtest.Run(t, exec.Command("openssl", append([]string{"genpkey", "-out", key, "-algorithm"}, algorithm...)...))
	meshtest.Run(t, exec.Command("openssl", "pkey", "-in", key, "-pubout", "-out", key+".pub"))
	return key
}

// TestEnvelopeOfAnotherTool: a statement that in-toto's own library signs is a
// signature like any other, and that library verifies what meshseal wrote.
func TestEnvelopeOfAnotherTool(t *testing.T) {
	t.Parallel()
	foreign := securesystemslib(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "mesh.snapshot")
	ed := opensslKey(t, dir, "ed", "ed25519")
	ec := opensslKey(t, dir, "ec", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
	meshtest.Run(t, meshtest.Meshseal(t, "build", "--repo", shopRepository(t).Dir, "--out", file))

	statement := filepath.Join(dir, "statement.json")
	meshtest.Run(t, meshtest.Meshseal(t, "sign", "--export", statement, file))
	envelope := meshtest.Write(t, dir, "envelope.json", foreign(nil, "sign", statement, "ed25519:"+ed, "ecdsa:"+ec))
	for _, key := range []string{ed, ec} {
		meshtest.Run(t, meshtest.Meshseal(t, "sign", "--attach", envelope, "--public", key+".pub", file))
	}
	verify := func(args ...string) (string, int) {
		return exit(t, meshtest.Meshseal(t, append([]string{"verify", "--key", ed + ".pub", "--key", ec + ".pub", "--threshold", "2"}, args...)...))
	}
	if out, code := verify(file); code != 0 {
		t.Fatalf("exit %d: %s", code, out)
	}

	// The other way round.
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	key, err := snapshot.ReadPublicKey(ed + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	der := key.DER()
	public := hex.EncodeToString(der[len(der)-32:]) // RFC 8410: the key's bytes end its DER
	if got := foreign(envelopeIn(t, data), "verify", public, key.ID()); got != snapshot.PayloadType {
		t.Errorf("securesystemslib verified a payload of type %q", got)
	}

	// Signed, but not this snapshot's statement.
	other := meshtest.Write(t, dir, "other.json", strings.Replace(meshtest.Run(t, exec.Command("cat", statement)), `"sequence":1`, `"sequence":2`, 1))
	envelope = meshtest.Write(t, dir, "envelope.json", foreign(nil, "sign", other, "ed25519:"+ed))
	out, code := exit(t, meshtest.Meshseal(t, "sign", "--renew", "--attach", envelope, "--public", ed+".pub", file))
	if code != 1 || !strings.Contains(out, "ENVELOPE_INVALID") {
		t.Errorf("another statement: exit %d: %s", code, out)
	}
}

// envelopeIn is the DSSE envelope of a snapshot file, found by docs/snapshot.md:
// a line, and a field.
func envelopeIn(t *testing.T, file []byte) []byte {
	t.Helper()
	_, rest, ok := bytes.Cut(file, []byte("\n"))
	if !ok || len(rest) < 4 {
		t.Fatal("not a snapshot file")
	}
	return rest[4 : 4+binary.BigEndian.Uint32(rest)]
}

// TestServerSignsByAnotherProgram: the server holds no key. While the program
// cannot sign, the snapshot in force stays.
func TestServerSignsByAnotherProgram(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	if err := s.Server.Stop(); err != nil {
		t.Fatal(err)
	}
	key := opensslKey(t, s.Dir, "kms", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
	s.Configure("signing: {key: "+s.Dir+"/key}", "signing: {signer: [openssl, dgst, -sha256, -sign, "+key+"], public: "+key+".pub}")
	s.Configure(s.Dir+"/state", s.Dir+"/kms-state")
	if err := os.Remove(s.Dir + "/key"); err != nil {
		t.Fatal(err)
	}
	s.Start()
	first := s.Repo.Git("rev-parse", "HEAD")
	s.WaitInForce(first)

	if err := os.Rename(key, key+".away"); err != nil {
		t.Fatal(err)
	}
	second := s.Repo.Commit("more", map[string]string{"policies/more.rego": "package more\n"})
	s.Server.Eventually("status says why nothing newer is in force", func() error {
		status, err := s.Server.Status()
		if err == nil && (!strings.Contains(status.Source.Refused, "exit status 1") || status.Snapshot.Commit != first) {
			err = fmt.Errorf("commit %s is in force, refused: %q", status.Snapshot.Commit, status.Source.Refused)
		}
		return err
	})
	if err := os.Rename(key+".away", key); err != nil {
		t.Fatal(err)
	}
	s.WaitInForce(second)
}
