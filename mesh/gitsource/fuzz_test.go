package gitsource

import (
	"bytes"
	"compress/zlib"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
)

// fixedKey is the same SSH key in every process of a fuzzing run, so that what
// one of them has signed counts for the others.
func fixedKey(f *testing.F, name string) ssh.Signer {
	f.Helper()
	seed := sha256.Sum256([]byte(name))
	s, err := ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(seed[:]))
	if err != nil {
		f.Fatal(err)
	}
	return s
}

func armored(f *testing.F, key ssh.Signer, payload, namespace string) string {
	f.Helper()
	sig, err := sshsig.Sign(strings.NewReader(payload), key, sshsig.HashSHA512, namespace)
	if err != nil {
		f.Fatal(err)
	}
	return strings.TrimRight(string(sshsig.Armor(sig)), "\n")
}

// FuzzSignedObject: whatever stands in a commit or a tag, what counts as signed
// is exactly what the listed key has signed.
func FuzzSignedObject(f *testing.F) {
	listed, stranger := fixedKey(f, "listed"), fixedKey(f, "stranger")
	signers := mustSigners(f, append([]byte("ann@shop.test "), ssh.MarshalAuthorizedKey(listed.PublicKey())...), nil)
	const (
		who  = "Ann <ann@shop.test> 1767323045 +0000"
		tree = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
	)
	var payloads []string
	for _, body := range []string{"one\n", "two\n\nwith a body\n", ""} {
		head := fmt.Sprintf("tree %s\nparent %s\nauthor %s\ncommitter %s\n", tree, tree, who, who)
		tag := fmt.Sprintf("object %s\ntype commit\ntag v1\ntagger %s\n\n%s", tree, who, body)
		payloads = append(payloads, head+"\n"+body, tag)
		for _, key := range []ssh.Signer{listed, stranger} {
			for _, namespace := range []string{"git", "file"} {
				sig := armored(f, key, head+"\n"+body, namespace)
				f.Add([]byte(head+"gpgsig "+strings.ReplaceAll(sig, "\n", "\n ")+"\n\n"+body), false)
				f.Add([]byte(tag+armored(f, key, tag, namespace)+"\n"), true)
			}
		}
		f.Add([]byte(head+"mergetag object "+tree+"\n type commit\nencoding ISO-8859-1\n\n"+body), false)
	}
	f.Fuzz(func(t *testing.T, data []byte, tag bool) {
		parse := parseCommit
		if tag {
			parse = parseTag
		}
		object, err := parse(data)
		if err != nil {
			return
		}
		who, err := signers.verify(object, now)
		if err == nil && (who.Principal != "ann@shop.test" || !slices.Contains(payloads, string(object.payload))) {
			t.Fatalf("counts as signed by %v: %q", who, data)
		}
	})
}

// FuzzAllowedSigners: a list that is read names keys and owners, and reads the
// same behind a comment.
func FuzzAllowedSigners(f *testing.F) {
	key := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(fixedKey(f, "listed").PublicKey())))
	for _, line := range []string{
		"ann " + key, `"ann,*@shop.test" ` + key + " a comment", `ann namespaces="git,f*",valid-after="20250102Z",valid-before="20990101030405Z" ` + key,
		"# nobody\n\nann " + key + "\nbob " + key, "ann cert-authority " + key, "ann", `ann namespaces="` + key,
	} {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		all, err := parseAllowedSigners(data)
		if err != nil {
			return
		}
		for _, s := range all {
			if s.key == nil || s.principals == "" {
				t.Fatalf("a line without a key or an owner: %+v", s)
			}
		}
		again, err := parseAllowedSigners(append([]byte("# a comment\n"), data...))
		if err != nil || len(again) != len(all) {
			t.Fatalf("behind a comment: %d lines instead of %d, %v", len(again), len(all), err)
		}
	})
}

// FuzzLooseObject: whatever a file of an object holds, what is read of it is
// what its name says.
func FuzzLooseObject(f *testing.F) {
	const text = "format: v1\n"
	dir := emptyRepository(f)
	git(f, dir, "add", "-A")
	git(f, dir, "commit", "-q", "-m", "one")
	want, err := fs.ReadFile(mustOpen(f, dir, "").FS(), "meshseal.yaml")
	if err != nil || string(want) != text {
		f.Fatalf("%q %v", want, err)
	}
	name := git(f, dir, "rev-parse", "HEAD:meshseal.yaml")
	at := filepath.Join(dir, ".git", "objects", name[:2], name[2:])
	file, err := os.ReadFile(at)
	if err != nil {
		f.Fatal(err)
	}
	if err := os.Chmod(at, 0o644); err != nil {
		f.Fatal(err)
	}
	f.Add(file, false)
	f.Add(file[:len(file)/2], false)
	for _, object := range []string{"blob 11\x00" + text, "blob 10\x00" + text, "blob 99\x00" + text, "blob -1\x00", "tree 11\x00" + text, "tag 11\x00" + text, "blob 11", ""} {
		f.Add([]byte(object), true)
	}
	f.Fuzz(func(t *testing.T, data []byte, deflate bool) {
		if deflate {
			var b bytes.Buffer
			z := zlib.NewWriter(&b)
			if _, err := z.Write(data); err != nil {
				t.Fatal(err)
			}
			if err := z.Close(); err != nil {
				t.Fatal(err)
			}
			data = b.Bytes()
		}
		if err := os.WriteFile(at, data, 0o644); err != nil {
			t.Fatal(err)
		}
		got, err := fs.ReadFile(mustOpen(t, dir, "").FS(), "meshseal.yaml")
		if err == nil && string(got) != text {
			t.Fatalf("read %q", got)
		}
	})
}

// FuzzPack: whatever a pack and its index hold, what is read of them is what was
// committed.
func FuzzPack(f *testing.F) {
	dir := emptyRepository(f)
	for i := range 3 { // versions, so that the pack has deltas
		write(f, dir, "meshseal.yaml", strings.Repeat("format: v1\n", 200)+strings.Repeat("# more\n", i))
		git(f, dir, "add", "-A")
		git(f, dir, "commit", "-q", "-m", "more")
	}
	git(f, dir, "repack", "-q", "-a", "-d", "-f", "--depth=10")
	git(f, dir, "prune-packed")
	want, err := fs.ReadFile(mustOpen(f, dir, "").FS(), "meshseal.yaml")
	if err != nil {
		f.Fatal(err)
	}
	var paths [2]string
	var files [2][]byte
	for i, ending := range []string{"pack", "idx"} {
		found, err := filepath.Glob(filepath.Join(dir, ".git/objects/pack/*."+ending))
		if err != nil || len(found) != 1 {
			f.Fatalf("%d files end in .%s: %v", len(found), ending, err)
		}
		paths[i] = found[0]
		if files[i], err = os.ReadFile(found[0]); err != nil {
			f.Fatal(err)
		}
		if err := os.Chmod(found[0], 0o644); err != nil {
			f.Fatal(err)
		}
	}
	head := git(f, dir, "rev-parse", "HEAD")
	f.Add(files[0], files[1])
	f.Add(files[0][:len(files[0])/2], files[1])
	f.Add(files[0], files[1][:len(files[1])/2])
	f.Fuzz(func(t *testing.T, pack, index []byte) {
		for i, data := range [][]byte{pack, index} {
			if err := os.WriteFile(paths[i], data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		s, err := Open(dir, head)
		if err != nil {
			return
		}
		if got, err := fs.ReadFile(s.FS(), "meshseal.yaml"); err == nil && !bytes.Equal(got, want) {
			t.Fatalf("read %q", got)
		}
	})
}
