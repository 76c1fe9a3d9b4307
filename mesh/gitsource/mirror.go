package gitsource

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"

	"meshseal/snapshot"
)

// maxPacks is how many packs a mirror gathers before it fetches everything
// anew, in one.
const maxPacks = 50

// Mirror is a bare repository in a folder that holds one ref of a remote, as
// it was when it was last accepted. It is a cache: it may be removed at any
// time and is fetched again. One goroutine uses it at a time.
type Mirror struct {
	dir    string
	remote Remote
	url    *url.URL
	// waiting was fetched and is not accepted; it stays aside, so that it need
	// not be fetched again.
	waiting struct {
		ref  string
		hash plumbing.Hash
	}
}

// OpenMirror opens the mirror in the folder dir, which it makes if need be.
// Nothing is fetched yet. It refuses a remote that cannot be meant and
// credentials that cannot be read.
func OpenMirror(dir string, r Remote) (*Mirror, error) {
	u, err := r.check()
	if err != nil {
		return nil, err
	}
	m := &Mirror{dir: dir, remote: r, url: u}
	if err := m.tryCredentials(); err != nil {
		return nil, err
	}
	if err := makeBare(dir); err != nil {
		return nil, err
	}
	// Nothing of this is ever written here, and it could lend what nobody
	// checked.
	for _, name := range []string{"objects/info/alternates", "shallow", "info/grafts"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%s holds %s, which is not this program's; remove the folder, it is fetched again", dir, name)
		}
	}
	return m, os.RemoveAll(m.aside())
}

func (m *Mirror) tryCredentials() error {
	if m.url.Scheme == "ssh" {
		_, err := m.remote.sshConfig(m.url.User.Username(), m.url.Host)
		return err
	}
	s, err := m.remote.openWeb(m.url)
	if err == nil {
		s.close()
	}
	return err
}

// makeBare makes the least that is a bare repository:
// https://git-scm.com/docs/gitrepository-layout
func makeBare(dir string) error {
	for _, sub := range []string{"refs", "objects/pack", "objects/info"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return err
		}
	}
	if err := writeDurably(filepath.Join(dir, "config"), []byte("[core]\n\trepositoryformatversion = 0\n\tbare = true\n")); err != nil {
		return err
	}
	return writeDurably(filepath.Join(dir, "HEAD"), []byte("ref: refs/heads/none\n"))
}

// Dir is the folder of the mirror: a repository for Open and Resolve.
func (m *Mirror) Dir() string { return m.dir }

// aside is the repository of what is not accepted yet. It borrows the objects
// of the mirror.
func (m *Mirror) aside() string { return filepath.Join(m.dir, "incoming") }

func packs(dir string) string { return filepath.Join(dir, "objects", "pack") }

// Fetch brings the mirror to what rev, a branch, a tag, a full ref name or the
// hash of a commit, is at the remote. What is new is first kept aside: accept
// is asked about it, and only what it returns nil for is kept. The error of
// accept is returned as it is; every other error is snapshot.ErrSource or
// ErrSourceLimit, or one of this machine.
func (m *Mirror) Fetch(ctx context.Context, rev string, accept func(*Source) error) error {
	if err := checkRevision(rev); err != nil {
		return err
	}
	if isCommitHash(rev) {
		if _, err := Resolve(m.dir, rev); err == nil {
			return nil // a commit does not change
		}
	}
	ref, hash, err := m.download(ctx, rev)
	if err != nil || hash.IsZero() {
		return err
	}
	if ref == "" {
		ref = "refs/heads/" + rev
	}
	source, err := Open(m.aside(), ref)
	if err != nil {
		m.waiting.hash = plumbing.ZeroHash
		return fmt.Errorf("%w: what it sent is not all there: %w", snapshot.ErrSource, err)
	}
	if err := accept(source); err != nil {
		return err
	}
	return m.keep(ref, hash)
}

// download has what rev is at the remote in the repository aside, and names
// it; a zero hash stands for nothing new.
func (m *Mirror) download(ctx context.Context, rev string) (string, plumbing.Hash, error) {
	ctx, cancel := context.WithTimeout(ctx, m.remote.Limits.Time)
	defer cancel()
	s, err := m.connect(ctx)
	if err != nil {
		return "", plumbing.ZeroHash, err
	}
	defer s.close()
	refs, err := readRefs(ctx, s)
	if err != nil {
		return "", plumbing.ZeroHash, err
	}
	ref, hash, err := refs.find(rev)
	if err != nil {
		return "", plumbing.ZeroHash, err
	}
	at, have, err := m.kept()
	if err != nil {
		return "", plumbing.ZeroHash, err
	}
	if ref == at && hash == have {
		return "", plumbing.ZeroHash, nil
	}
	if m.waiting.ref == ref && m.waiting.hash == hash {
		return ref, hash, nil
	}
	m.waiting.hash = plumbing.ZeroHash
	haves, err := m.prepare(ref, rev, hash)
	if err != nil {
		return "", plumbing.ZeroHash, err
	}
	if err := m.transfer(ctx, s, refs, hash, haves); err != nil {
		return "", plumbing.ZeroHash, errors.Join(err, os.RemoveAll(m.aside()))
	}
	m.waiting.ref, m.waiting.hash = ref, hash
	return ref, hash, nil
}

func (m *Mirror) connect(ctx context.Context) (session, error) {
	if m.url.Scheme == "ssh" {
		return m.remote.openSSH(ctx, m.url)
	}
	return m.remote.openWeb(m.url)
}

// prepare makes the repository aside, with the ref in it, and tells which
// commits need not be sent: none where everything is to be fetched anew.
func (m *Mirror) prepare(ref, rev string, hash plumbing.Hash) ([]plumbing.Hash, error) {
	if err := os.RemoveAll(m.aside()); err != nil {
		return nil, err
	}
	if err := makeBare(m.aside()); err != nil {
		return nil, err
	}
	if ref == "" {
		ref = "refs/heads/" + rev
	}
	if err := writeRef(m.aside(), ref, hash); err != nil {
		return nil, err
	}
	at, have, err := m.kept()
	if err != nil || have.IsZero() || m.full() {
		return nil, err
	}
	tip, err := Resolve(m.dir, at)
	if err != nil {
		return nil, fmt.Errorf("%w; remove the folder %s, it is fetched again", err, m.dir)
	}
	objects, err := filepath.Abs(filepath.Join(m.dir, "objects"))
	if err != nil {
		return nil, err
	}
	lent := filepath.Join(m.aside(), "objects", "info", "alternates")
	return []plumbing.Hash{plumbing.NewHash(tip)}, writeDurably(lent, []byte(objects+"\n"))
}

// full reports whether the mirror has gathered so many packs, or so much, that
// it is better fetched anew.
func (m *Mirror) full() bool {
	entries, err := os.ReadDir(packs(m.dir))
	if err != nil {
		return true
	}
	count, size := 0, int64(0)
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return true
		}
		size += info.Size()
		if strings.HasSuffix(e.Name(), ".pack") {
			count++
		}
	}
	return count >= maxPacks || size > m.remote.Limits.Size
}

func (m *Mirror) transfer(ctx context.Context, s session, refs advertised, want plumbing.Hash, haves []plumbing.Hash) error {
	pack, err := requestPack(ctx, s, refs.capabilities, want, haves, m.remote.Limits.Size)
	if err != nil {
		return incomingError(ctx, err)
	}
	defer pack.Close() // ends the answer, wherever it is
	_, err = receive(ctx, pack, packs(m.aside()), m.remote.Limits)
	return err
}

// keep takes what stands aside into the mirror: objects first, then the ref.
func (m *Mirror) keep(ref string, hash plumbing.Hash) error {
	_, err := os.Stat(filepath.Join(m.aside(), "objects", "info", "alternates"))
	anew := errors.Is(err, fs.ErrNotExist)
	old, err := os.ReadDir(packs(m.dir))
	if err != nil {
		return err
	}
	fresh, err := os.ReadDir(packs(m.aside()))
	if err != nil {
		return err
	}
	kept := map[string]bool{}
	// A pack is looked for by its .pack, and has to have its index then.
	for _, ending := range []string{".idx", ".pack"} {
		for _, e := range fresh {
			if filepath.Ext(e.Name()) != ending {
				continue
			}
			kept[e.Name()] = true
			if err := os.Rename(filepath.Join(packs(m.aside()), e.Name()), filepath.Join(packs(m.dir), e.Name())); err != nil {
				return err
			}
		}
		if err := syncFolder(packs(m.dir)); err != nil {
			return err
		}
	}
	m.waiting.hash = plumbing.ZeroHash
	if err := writeRef(m.dir, ref, hash); err != nil {
		return err
	}
	if anew {
		if err := removePacks(packs(m.dir), old, kept); err != nil {
			return err
		}
	}
	return os.RemoveAll(m.aside())
}

func removePacks(dir string, all []fs.DirEntry, except map[string]bool) error {
	for _, ending := range []string{".pack", ""} {
		for _, e := range all {
			if except[e.Name()] || !strings.HasSuffix(e.Name(), ending) {
				continue
			}
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

// writeRef has the repository hold this one ref and no other.
func writeRef(dir, ref string, hash plumbing.Hash) error {
	if err := plumbing.ReferenceName(ref).Validate(); err != nil {
		return fmt.Errorf("the ref %.200q: %w", ref, err)
	}
	return writeDurably(filepath.Join(dir, "packed-refs"), fmt.Appendf(nil, "%s %s\n", hash, ref))
}

// kept is the ref that the mirror holds; empty before the first.
func (m *Mirror) kept() (string, plumbing.Hash, error) {
	data, err := os.ReadFile(filepath.Join(m.dir, "packed-refs"))
	if errors.Is(err, fs.ErrNotExist) {
		return "", plumbing.ZeroHash, nil
	}
	if err != nil {
		return "", plumbing.ZeroHash, err
	}
	hash, ref, ok := strings.Cut(strings.TrimSuffix(string(data), "\n"), " ")
	if !ok || !plumbing.IsHash(hash) {
		return "", plumbing.ZeroHash, fmt.Errorf("%s is damaged; remove the folder, it is fetched again", m.dir)
	}
	return ref, plumbing.NewHash(hash), nil
}
