package gitsource

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"meshseal/snapshot"
)

func TestSSHSignedCommit(t *testing.T) {
	for name, args := range map[string][]string{
		"ed25519": {"-t", "ed25519"}, "ecdsa 256": {"-t", "ecdsa", "-b", "256"}, "ecdsa 521": {"-t", "ecdsa", "-b", "521"}, "rsa": {"-t", "rsa", "-b", "2048"},
	} {
		t.Run(name, func(t *testing.T) {
			file, public := sshKey(t, args...)
			dir := emptyRepository(t)
			setupSSH(t, dir, file)
			s := signedCommit(t, dir, "signed")
			signer, err := s.Verify(mustSigners(t, []byte("ann@shop.test "+public+" a comment\n"), nil), now)
			if err != nil {
				t.Fatal(err)
			}
			fingerprint := strings.Fields(program(t, nil, "ssh-keygen", "-l", "-f", file))[1]
			if signer.Principal != "ann@shop.test" || signer.Fingerprint != fingerprint {
				t.Errorf("signed by %v, want ann@shop.test %s", signer, fingerprint)
			}
		})
	}
}

func TestOpenPGPSignedCommit(t *testing.T) {
	g := newGnuPG(t)
	dir := emptyRepository(t)
	for _, algorithm := range []string{"ed25519", "rsa2048", "nistp256"} {
		t.Run(algorithm, func(t *testing.T) {
			user := algorithm + " <" + algorithm + "@shop.test>"
			key := g.key(user, algorithm, "sign", "1y")
			g.setup(dir, key)
			signer, err := signedCommit(t, dir, "signed").Verify(mustSigners(t, nil, g.export(user)), now)
			if err != nil || signer.Principal != user || signer.Fingerprint != key {
				t.Errorf("signed by %v, %v; want %s %s", signer, err, user, key)
			}
		})
	}
}

// The list is what counts: a key that is not in it, or was taken out, refuses.
func TestUnlistedSigner(t *testing.T) {
	_, listed := sshKey(t)
	stranger, _ := sshKey(t)
	g := newGnuPG(t)
	dir := emptyRepository(t)
	signers := mustSigners(t, []byte("ann "+listed), keysOf(t, g, "ann <ann@shop.test>"))
	setupSSH(t, dir, stranger)
	_, err := signedCommit(t, dir, "by a stranger").Verify(signers, now)
	wantIs(t, err, snapshot.ErrCommitSigner, "is in no line of the allowed signers")
	g.setup(dir, g.key("mallory <mallory@shop.test>", "ed25519", "sign", "1y"))
	_, err = signedCommit(t, dir, "by another stranger").Verify(signers, now)
	wantIs(t, err, snapshot.ErrCommitSigner, "is not in the keyring")
}

func keysOf(t testing.TB, g *gnupg, user string) []byte {
	t.Helper()
	g.key(user, "ed25519", "sign", "1y")
	return g.export(user)
}

func TestUnsignedCommit(t *testing.T) {
	_, public := sshKey(t)
	dir := emptyRepository(t)
	commit(t, dir, "unsigned")
	_, err := mustOpen(t, dir, "").Verify(mustSigners(t, []byte("ann "+public), nil), now)
	wantIs(t, err, snapshot.ErrCommitUnsigned)
	_, err = mustOpen(t, dir, "").Verify(&Signers{}, now)
	wantIs(t, err, snapshot.ErrCommitUnsigned)
}

// A commit that states an old date does not bring an expired key back: the time
// of the question counts.
func TestBackdatedCommitDoesNotReviveAKey(t *testing.T) {
	file, public := sshKey(t)
	g := newGnuPG(t)
	dir := emptyRepository(t)
	setupSSH(t, dir, file)
	s := signedCommit(t, dir, "dated 2026-01-02")
	line := `ann valid-after="20250101Z",valid-before="20260201Z" ` + public
	signers := mustSigners(t, []byte(line), nil)
	if _, err := s.Verify(signers, time.Date(2026, 1, 31, 23, 59, 59, 0, time.UTC)); err != nil {
		t.Errorf("within the line's time: %v", err)
	}
	_, err := s.Verify(signers, time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC))
	wantIs(t, err, snapshot.ErrCommitSigner, "was valid before 2026-02-01T00:00:00Z")
	_, err = s.Verify(signers, time.Date(2024, 12, 31, 0, 0, 0, 0, time.UTC))
	wantIs(t, err, snapshot.ErrCommitSigner, "is valid after 2025-01-01T00:00:00Z")

	g.setup(dir, g.key("bob <bob@shop.test>", "ed25519", "sign", "1d"))
	s = signedCommit(t, dir, "signed by a key of one day")
	signers = mustSigners(t, nil, g.export())
	if _, err := s.Verify(signers, now); err != nil {
		t.Errorf("within the key's day: %v", err)
	}
	_, err = s.Verify(signers, now.AddDate(0, 0, 2))
	wantIs(t, err, snapshot.ErrCommitSigner, "expired")
}

func TestOpenPGPKeysThatDoNotCount(t *testing.T) {
	g := newGnuPG(t)
	dir := emptyRepository(t)

	t.Run("revoked", func(t *testing.T) {
		user := "revoked <revoked@shop.test>"
		key := g.key(user, "ed25519", "sign", "1y")
		g.setup(dir, key)
		s := signedCommit(t, dir, "before it was revoked")
		if _, err := s.Verify(mustSigners(t, nil, g.export(user)), now); err != nil {
			t.Fatal(err)
		}
		certificate, err := os.ReadFile(filepath.Join(g.home, "openpgp-revocs.d", key+".rev"))
		if err != nil {
			t.Fatal(err)
		}
		revocation := filepath.Join(t.TempDir(), "revocation")
		// GnuPG writes it with a colon before the first line, against accidents.
		if err := os.WriteFile(revocation, bytes.Replace(certificate, []byte(":-----BEGIN"), []byte("-----BEGIN"), 1), 0o600); err != nil {
			t.Fatal(err)
		}
		g.gpg("--import", revocation)
		_, err = s.Verify(mustSigners(t, nil, g.export(user)), now.Add(time.Minute))
		wantIs(t, err, snapshot.ErrCommitSigner, "revoked")
	})

	t.Run("subkey with and without the signing flag", func(t *testing.T) {
		user := "subkeys <subkeys@shop.test>"
		primary := g.key(user, "ed25519", "cert", "1y")
		g.gpg("--quick-add-key", primary, "ed25519", "sign", "1y")
		subkey := g.fingerprints(user)[1]
		g.setup(dir, subkey+"!")
		signer, err := signedCommit(t, dir, "by the subkey").Verify(mustSigners(t, nil, g.export(user)), now)
		if err != nil || signer.Fingerprint != subkey || signer.Principal != user {
			t.Errorf("signed by %v, %v", signer, err)
		}
		// The same key without the subkey: its signature is by nobody.
		g.gpg("--yes", "--delete-secret-and-public-key", primary)
	})

	t.Run("weak hash", func(t *testing.T) {
		user := "weak <weak@shop.test>"
		g.setup(dir, g.key(user, "rsa2048", "sign", "1y"))
		wrapper := filepath.Join(g.home, "gpg.sh")
		script, err := os.ReadFile(wrapper)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(wrapper, bytes.Replace(script, []byte(" --batch"), []byte(" --allow-weak-digest-algos --digest-algo SHA1 --batch"), 1), 0o755); err != nil {
			t.Fatal(err)
		}
		_, err = signedCommit(t, dir, "SHA-1").Verify(mustSigners(t, nil, g.export(user)), now)
		wantIs(t, err, snapshot.ErrCommitSignature, "insecure")
	})
}

// Nothing of a signed commit can be changed: not one byte.
func TestEveryByteOfACommitIsSigned(t *testing.T) {
	file, public := sshKey(t)
	dir := emptyRepository(t)
	setupSSH(t, dir, file)
	s := signedCommit(t, dir, "signed\n\nwith a body")
	signers := mustSigners(t, []byte("ann "+public), nil)
	raw := gitRaw(t, dir, "cat-file", "commit", s.Commit().Hash)
	object, err := parseCommit(raw)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := signers.verify(object, now); err != nil {
		t.Fatal(err)
	}
	accepted := 0
	for i := range raw {
		for _, bit := range []byte{0x01, 0x20} {
			forged := bytes.Clone(raw)
			forged[i] ^= bit
			object, err := parseCommit(forged)
			if err == nil {
				_, err = signers.verify(object, now)
			}
			if err == nil {
				accepted++
				t.Errorf("byte %d of %d changed to %q: still signed\n%s", i, len(raw), forged[i], forged)
			}
		}
	}
}

func gitRaw(t testing.TB, dir string, args ...string) []byte {
	t.Helper()
	// git trims nothing; only this file's helper does.
	return append([]byte(git(t, dir, args...)), '\n')
}

func TestMalformedSignatures(t *testing.T) {
	file, public := sshKey(t)
	dir := emptyRepository(t)
	setupSSH(t, dir, file)
	first := signedCommit(t, dir, "one")
	signers := mustSigners(t, []byte("ann "+public), nil)
	raw := string(gitRaw(t, dir, "cat-file", "commit", first.Commit().Hash))
	header := raw[strings.Index(raw, "gpgsig "):strings.Index(raw, "\n\n")]
	armored := strings.TrimSpace(strings.TrimPrefix(strings.ReplaceAll(header, "\n ", "\n"), "gpgsig "))
	for name, c := range map[string]struct {
		forged string
		kind   error
		says   string
	}{
		"two gpgsig headers":        {strings.Replace(raw, header, header+"\n"+header, 1), snapshot.ErrCommitSignature, "stands twice"},
		"gpgsig-sha256":             {strings.Replace(raw, "gpgsig ", "gpgsig-sha256 ", 1), snapshot.ErrCommitSignature, "gpgsig-sha256"},
		"both":                      {strings.Replace(raw, header, header+"\n"+strings.Replace(header, "gpgsig", "gpgsig-sha256", 1), 1), snapshot.ErrCommitSignature, "gpgsig-sha256"},
		"two trees":                 {strings.Replace(raw, "author ", "tree "+strings.Repeat("1", 40)+"\nauthor ", 1), snapshot.ErrCommitSignature, "stands"},
		"two committers":            {strings.Replace(raw, "gpgsig ", "committer x <x> 0 +0000\ngpgsig ", 1), snapshot.ErrCommitSignature, "stands twice"},
		"no author":                 {raw[:strings.Index(raw, "author ")] + raw[strings.Index(raw, "committer "):], snapshot.ErrCommitSignature, `where "author" belongs`},
		"a parent at the end":       {strings.Replace(raw, "gpgsig ", "parent "+strings.Repeat("1", 40)+"\ngpgsig ", 1), snapshot.ErrCommitSignature, "parent header"},
		"a NUL byte":                {strings.Replace(raw, "\n\none", "\n\no\x00ne", 1), snapshot.ErrCommitSignature, "NUL"},
		"cut off in the signature":  {raw[:strings.Index(raw, "-----END")-40] + "\n\none\n", snapshot.ErrCommitSignature, "not one armored"},
		"something behind it":       {strings.Replace(raw, "-----END SSH SIGNATURE-----", "-----END SSH SIGNATURE-----\n x", 1), snapshot.ErrCommitSignature, "not one armored"},
		"two signatures in one":     {strings.Replace(raw, header, header+"\n "+strings.ReplaceAll(armored, "\n", "\n "), 1), snapshot.ErrCommitSignature, "not one armored"},
		"an X.509 signature":        {strings.ReplaceAll(raw, "SSH SIGNATURE", "SIGNED MESSAGE"), snapshot.ErrCommitSignature, "X.509"},
		"an empty one":              {strings.Replace(raw, header, "gpgsig ", 1), snapshot.ErrCommitUnsigned, ""},
		"a huge one":                {strings.Replace(raw, header, header+strings.Repeat("\n "+strings.Repeat("A", 76), 1000), 1), snapshot.ErrCommitSignature, "at most 65536"},
		"of another namespace":      {resigned(t, raw, header, file, "file"), snapshot.ErrCommitSignature, "namespace"},
		"of another commit":         {strings.Replace(raw, "\n\none", "\n\ntwo", 1), snapshot.ErrCommitSignature, "did not verify"},
		"OpenPGP that is not":       {strings.ReplaceAll(raw, "SSH SIGNATURE", "PGP SIGNATURE"), snapshot.ErrCommitSignature, ""},
		"signature in the message":  {strings.Replace(strings.Replace(raw, header+"\n", "", 1), "\n\none\n", "\n\none\n"+armored+"\n", 1), snapshot.ErrCommitUnsigned, ""},
		"signature under the blank": {strings.Replace(strings.Replace(raw, header+"\n", "", 1), "\n\none", "\n\n"+header+"\none", 1), snapshot.ErrCommitUnsigned, ""},
	} {
		t.Run(name, func(t *testing.T) {
			object, err := parseCommit([]byte(c.forged))
			if err == nil {
				_, err = signers.verify(object, now)
			}
			wantIs(t, err, c.kind, c.says)
		})
	}
}

// resigned is the commit with a signature that ssh-keygen made for a namespace.
func resigned(t testing.TB, raw, header, key, namespace string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "payload")
	write(t, filepath.Dir(file), "payload", strings.Replace(raw, header+"\n", "", 1))
	program(t, nil, "ssh-keygen", "-q", "-Y", "sign", "-n", namespace, "-f", key, file)
	made, err := os.ReadFile(file + ".sig")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Replace(raw, header, "gpgsig "+strings.ReplaceAll(strings.TrimSpace(string(made)), "\n", "\n "), 1)
}

func TestAllowedSigners(t *testing.T) {
	_, key := sshKey(t)
	weak, short := sshKey(t, "-t", "rsa", "-b", "1024")
	_ = weak
	for line, want := range map[string]string{
		"ann " + key: "", "ann,*@shop.test " + key: "", `"a b" ` + key: "", "ann\t" + key + " a comment": "",
		`ann namespaces="git" ` + key: "", `ann namespaces="file,g*" ` + key: "", `ann NAMESPACES="git",valid-before="20990101Z" ` + key: "",
		`ann valid-after="202501020304Z" ` + key: "", `ann valid-after="20250102030405Z" ` + key: "",
		"# nobody\n\nann " + key: "",

		"": "lists nobody", "# ann " + key: "lists nobody", key: "not a public key", "ann": "are needed",
		"ann cert-authority " + key:                        "cert-authority is not supported",
		`ann no-touch-required ` + key:                     "known are",
		`ann namespaces=git ` + key:                        "known are",
		`ann namespaces="git",namespaces="file" ` + key:    "known are",
		`ann valid-before="20260101" ` + key:               "write it in UTC",
		`ann valid-before="20261301Z" ` + key:              "write it in UTC",
		`ann valid-before="never" ` + key:                  "write it in UTC",
		"ann " + short:                                     "less than 2048 bits",
		"ann ssh-dss AAAAB3NzaC1kc3M=":                     "not a public key",
		"ann " + strings.Replace(key, "ed25519", "rsa", 1): "not a public key",
		"ann " + key + "\x1b[31m":                          "control character",
		"ann " + key + "\nbob nonsense":                    "line 2",
	} {
		t.Run(line, func(t *testing.T) {
			_, err := parseAllowedSigners([]byte(line))
			if want == "" && err != nil {
				t.Error(err)
			}
			if want != "" {
				wantError(t, err, want)
			}
		})
	}
}

// A line for other namespaces than git's does not let its key sign commits; one
// more line for the key may.
func TestNamespacesOfASigner(t *testing.T) {
	file, key := sshKey(t)
	dir := emptyRepository(t)
	setupSSH(t, dir, file)
	s := signedCommit(t, dir, "signed")
	for list, ok := range map[string]bool{
		`ann namespaces="file" ` + key:                    false,
		`ann namespaces="g?t" ` + key:                     true,
		`ann namespaces="*,!git" ` + key:                  false,
		`ann namespaces="!git,*" ` + key:                  false,
		`ann namespaces="[g]it" ` + key:                   false,
		`ann namespaces="gi" ` + key:                      false,
		"old namespaces=\"file\" " + key + "\nann " + key: true,
	} {
		_, err := s.Verify(mustSigners(t, []byte(list), nil), now)
		if ok && err != nil {
			t.Errorf("%s: %v", list, err)
		}
		if !ok {
			wantIs(t, err, snapshot.ErrCommitSigner, "namespaces")
		}
	}
}

func TestKeyringsThatAreRefused(t *testing.T) {
	g := newGnuPG(t)
	public := keysOf(t, g, "ann <ann@shop.test>")
	private := g.gpg("--armor", "--export-secret-keys")
	for name, c := range map[string]struct{ text, want string }{
		"nothing":       {"\n", "no armored public key"},
		"a private key": {private, "only public keys belong here"},
		"both":          {string(public) + private, "only public keys belong here"},
		"half":          {string(public[:len(public)/2]), ""},
		"too much":      {strings.Repeat(" ", maxSigners+1), "at most"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := NewSigners(nil, []byte(c.text))
			wantError(t, err, c.want)
		})
	}
	two := append(bytes.Clone(public), keysOf(t, g, "bob <bob@shop.test>")...)
	if ring, err := parseKeyring(two); err != nil || len(ring) < 2 {
		t.Errorf("two blocks hold %d keys, %v", len(ring), err)
	}
	_, err := NewSigners(nil, nil)
	wantError(t, err, "nobody is listed")
}

func TestSignedTag(t *testing.T) {
	file, public := sshKey(t)
	g := newGnuPG(t)
	signers := mustSigners(t, []byte("ann "+public), keysOf(t, g, "bob <bob@shop.test>"))
	dir := emptyRepository(t)
	setupSSH(t, dir, file)
	first := commit(t, dir, "an unsigned commit")
	git(t, dir, "tag", "-s", "-m", "release", "v1")
	git(t, dir, "tag", "-s", "-m", "a tag of a tag", "nested", "v1")
	git(t, dir, "tag", "-a", "-m", "not signed", "unsigned")
	git(t, dir, "tag", "light")
	g.setup(dir, g.fingerprints("bob")[0])
	git(t, dir, "tag", "-s", "-m", "release\n\nby OpenPGP", "v2")
	commit(t, dir, "later")

	for _, tag := range []string{"v1", "refs/tags/v2"} {
		s := mustOpen(t, dir, tag)
		if signer, err := s.VerifyTag(signers, now); err != nil || signer.Principal == "" || s.Commit().Hash != first {
			t.Errorf("%s: commit %s, signed by %v, %v", tag, s.Commit().Hash, signer, err)
		}
		_, err := s.Verify(signers, now)
		wantIs(t, err, snapshot.ErrCommitUnsigned)
	}
	renamed := git(t, dir, "rev-parse", "v1")
	git(t, dir, "update-ref", "refs/tags/v9", renamed)
	write(t, t.TempDir(), "x", "")
	raw := string(gitRaw(t, dir, "cat-file", "tag", "v1"))
	doubled := raw + raw[strings.Index(raw, beginSSH):]
	moved := strings.Replace(raw, first, git(t, dir, "rev-parse", "HEAD"), 1)
	for ref, text := range map[string]string{"doubled": doubled, "moved": moved} {
		hash := gitIn(t, dir, []byte(strings.Replace(text, "tag v1\n", "tag "+ref+"\n", 1)), "hash-object", "-t", "tag", "-w", "--literally", "--stdin")
		git(t, dir, "update-ref", "refs/tags/"+ref, hash)
	}
	for rev, c := range map[string]struct {
		kind error
		says string
	}{
		"v9":       {snapshot.ErrCommitSignature, `it was signed as tag "v1"`},
		"nested":   {snapshot.ErrCommitSignature, "sign a tag of the commit itself"},
		"unsigned": {snapshot.ErrCommitUnsigned, "tag unsigned"},
		"light":    {snapshot.ErrCommitUnsigned, "lightweight"},
		"main":     {snapshot.ErrCommitUnsigned, "is not a tag"},
		"v1~0":     {snapshot.ErrCommitUnsigned, "is not a tag"},
		first:      {snapshot.ErrCommitUnsigned, "is not a tag"},
		"doubled":  {snapshot.ErrCommitSignature, "more than one signature"},
		"moved":    {snapshot.ErrCommitSignature, "did not verify"},
	} {
		_, err := mustOpen(t, dir, rev).VerifyTag(signers, now)
		t.Run(rev, func(t *testing.T) { wantIs(t, err, c.kind, c.says) })
	}
}

// VerifySince wants a signature on each commit that comes in, by whichever
// parent, and on none of those that were in force before.
func TestEveryCommitBetween(t *testing.T) {
	file, public := sshKey(t)
	signers := mustSigners(t, []byte("ann "+public), nil)
	dir := emptyRepository(t)
	setupSSH(t, dir, file)
	old := commit(t, dir, "unsigned, in force")
	signedCommit(t, dir, "signed")
	git(t, dir, "checkout", "-q", "-b", "side")
	sneaked := commit(t, dir, "unsigned, on a side branch")
	git(t, dir, "checkout", "-q", "main")
	s := signedCommit(t, dir, "signed too")
	if err := s.VerifySince(old, signers, now); err != nil {
		t.Error(err)
	}
	git(t, dir, "merge", "-q", "--no-ff", "-S", "-m", "merge", "side")
	s = mustOpen(t, dir, "HEAD")
	if _, err := s.Verify(signers, now); err != nil {
		t.Errorf("the merge itself: %v", err)
	}
	wantIs(t, s.VerifySince(old, signers, now), snapshot.ErrCommitUnsigned, sneaked)
	if err := s.VerifySince("", signers, now); err != nil {
		t.Errorf("nothing in force: %v", err)
	}
	wantError(t, s.VerifySince(fmt.Sprintf("%040d", 1), signers, now), "missing")
}
