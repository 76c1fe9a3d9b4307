package gitsource

import (
	"bytes"
	"compress/zlib"
	"crypto/rand"
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"meshseal/snapshot"
)

// hostile is a server that says what a test wants: refs, then an answer.
type hostile struct {
	refs   func(io.Writer)
	answer func(io.Writer)
}

const wanted = "1111111111111111111111111111111111111111"

func pkt(w io.Writer, text string) { fmt.Fprintf(w, "%04x%s", len(text)+4, text) }

// oneRef advertises the branch main at a hash.
func oneRef(hash string) func(io.Writer) {
	return func(w io.Writer) {
		pkt(w, "# service=git-upload-pack\n")
		fmt.Fprint(w, "0000")
		pkt(w, hash+" refs/heads/main\x00ofs-delta\n")
		fmt.Fprint(w, "0000")
	}
}

func (h hostile) before(w http.ResponseWriter, q *http.Request) bool {
	if q.Method == http.MethodGet {
		w.Header().Set("Content-Type", "application/x-git-upload-pack-advertisement")
		h.refs(w)
		return true
	}
	_, _ = io.Copy(io.Discard, q.Body)
	w.Header().Set("Content-Type", "application/x-git-upload-pack-result")
	pkt(w, "NAK\n")
	h.answer(w)
	return true
}

// rawPack is a pack of objects that are made by hand, with a right checksum.
func rawPack(count uint32, objects ...[]byte) []byte {
	pack := append([]byte("PACK"), 0, 0, 0, 2)
	pack = binary.BigEndian.AppendUint32(pack, count)
	pack = append(pack, bytes.Join(objects, nil)...)
	sum := sha1.Sum(pack)
	return append(pack, sum[:]...)
}

const (
	typeBlob     = 3
	typeOFSDelta = 6
	typeREFDelta = 7
)

// entryOf is one object of a pack that states a size.
func entryOf(kind byte, size int64, base, content []byte) []byte {
	head := []byte{kind<<4 | byte(size&0x0f)}
	for size >>= 4; size > 0; size >>= 7 {
		head[len(head)-1] |= 0x80
		head = append(head, byte(size&0x7f))
	}
	var deflated bytes.Buffer
	z := zlib.NewWriter(&deflated)
	_, _ = z.Write(content)
	_ = z.Close()
	return append(append(head, base...), deflated.Bytes()...)
}

// rawDelta states the size of what it is made from and of what it makes.
func rawDelta(from, to uint64, rest ...byte) []byte {
	return append(binary.AppendUvarint(binary.AppendUvarint(nil, from), to), rest...)
}

// TestHostileServers: whatever a server sends, the fetch ends by itself with a
// reason, nothing is kept, and what was there stays.
func TestHostileServers(t *testing.T) {
	limits := Limits{Size: 2 << 20, Objects: 1000, Object: 1 << 20, Time: 20 * time.Second}
	h := newHosted(t)
	server := newWeb(t, h.root)
	remote := server.remote(t)
	remote.Limits = limits
	m := mustMirror(t, remote)
	if err := m.Fetch(t.Context(), "main", anything); err != nil {
		t.Fatal(err)
	}
	before := mustOpen(t, m.Dir(), "main").Commit().Hash
	send := func(data []byte) func(io.Writer) { return func(w io.Writer) { _, _ = w.Write(data) } }
	for name, c := range map[string]struct {
		refs, answer func(io.Writer)
		kind         error
		says         string
	}{
		"endless data": {oneRef(wanted), func(w io.Writer) {
			// Objects without end, each of them small.
			_, _ = w.Write(append([]byte("PACK\x00\x00\x00\x02"), 0, 0, 3, 0xe7))
			for noise := make([]byte, 60_000); ; {
				_, _ = rand.Read(noise)
				if _, err := w.Write(entryOf(typeBlob, int64(len(noise)), nil, noise)); err != nil {
					return
				}
			}
		}, snapshot.ErrSourceLimit, "has more than 2097152 bytes"},
		"endless progress": {func(w io.Writer) {
			pkt(w, "# service=git-upload-pack\n")
			fmt.Fprint(w, "0000")
			pkt(w, wanted+" refs/heads/main\x00side-band-64k\n")
			fmt.Fprint(w, "0000")
		}, func(w io.Writer) {
			for line := "\x02" + strings.Repeat("x", 60_000); ; {
				if _, err := fmt.Fprintf(w, "%04x%s", len(line)+4, line); err != nil {
					return
				}
			}
		}, snapshot.ErrSourceLimit, "has more than 2097152 bytes"},
		"too many objects": {oneRef(wanted), send(rawPack(1_000_000)), snapshot.ErrSourceLimit, "1000000 objects; at most 1000"},
		"a huge blob": {oneRef(wanted), send(rawPack(1, entryOf(typeBlob, 5<<20, nil, bytes.Repeat([]byte{0}, 5<<20)))),
			snapshot.ErrSourceLimit, "object 1, a blob, has 5242880 bytes; at most 1048576"},
		"a blob that states less than it is": {oneRef(wanted), send(rawPack(1, entryOf(typeBlob, 10, nil, bytes.Repeat([]byte{0}, 5<<20)))),
			snapshot.ErrSource, "read what the remote sends"},
		"a delta bomb": {oneRef(wanted), send(rawPack(1, entryOf(typeREFDelta, 7, bytes.Repeat([]byte{1}, 20), rawDelta(1, 1<<40)))),
			snapshot.ErrSourceLimit, "has 1099511627776 bytes"},
		"a delta without sizes": {oneRef(wanted), send(rawPack(1, entryOf(typeREFDelta, 1, bytes.Repeat([]byte{1}, 20), []byte{0x80}))),
			snapshot.ErrSource, "without its sizes"},
		"a delta of nothing there": {oneRef(wanted), send(rawPack(1, entryOf(typeREFDelta, 4, bytes.Repeat([]byte{1}, 20), rawDelta(1, 1, 0x01, 0x78)))),
			snapshot.ErrSource, "reference delta not found"},
		"a delta before the pack": {oneRef(wanted), send(rawPack(1, entryOf(typeOFSDelta, 4, []byte{0xff, 0x7f}, rawDelta(1, 1, 0x01, 0x78)))),
			snapshot.ErrSource, ""},
		"a wrong checksum": {oneRef(wanted), send(append(rawPack(0)[:12], bytes.Repeat([]byte{7}, 20)...)), snapshot.ErrSource, "checksum"},
		"half a pack":      {oneRef(wanted), send(rawPack(1, entryOf(typeBlob, 2, nil, []byte("x\n")))[:20]), snapshot.ErrSource, ""},
		"no pack":          {oneRef(wanted), send(nil), snapshot.ErrSource, ""},
		"not a pack":       {oneRef(wanted), send([]byte("<html>")), snapshot.ErrSource, ""},
		"refs that lie":    {oneRef(wanted), send(rawPack(1, entryOf(typeBlob, 2, nil, []byte("x\n")))), snapshot.ErrSource, "is missing"},
		"a flood of refs": {func(w io.Writer) {
			pkt(w, "# service=git-upload-pack\n")
			fmt.Fprint(w, "0000")
			pkt(w, wanted+" refs/heads/main\x00ofs-delta\n")
			line := fmt.Sprintf("%s refs/heads/%s\n", wanted, strings.Repeat("x", 60_000))
			for {
				if _, err := fmt.Fprintf(w, "%04x%s", len(line)+4, line); err != nil {
					return
				}
			}
		}, nil, snapshot.ErrSourceLimit, "the list of refs has more than"},
		"a shallow repository": {func(w io.Writer) {
			pkt(w, wanted+" refs/heads/main\x00ofs-delta shallow\n")
			pkt(w, "shallow "+wanted)
			fmt.Fprint(w, "0000")
		}, nil, snapshot.ErrSource, "is shallow"},
		"an empty repository": {func(w io.Writer) {
			pkt(w, "# service=git-upload-pack\n")
			fmt.Fprint(w, "0000")
			pkt(w, strings.Repeat("0", 40)+" capabilities^{}\x00ofs-delta\n")
			fmt.Fprint(w, "0000")
		}, nil, snapshot.ErrSource, "no commit yet"},
		"nothing":              {send(nil), nil, snapshot.ErrSource, ""},
		"nonsense":             {send([]byte("zzzz")), nil, snapshot.ErrSource, "pkt-len"},
		"SHA-256 names":        {oneRef(strings.Repeat("1", 64)), nil, snapshot.ErrSource, ""},
		"an error with tricks": {func(w io.Writer) { pkt(w, "ERR \x1b[31mred\n") }, nil, snapshot.ErrSource, `\x1b[31mred`},
	} {
		t.Run(name, func(t *testing.T) {
			server.before = hostile{c.refs, c.answer}.before
			err := m.Fetch(t.Context(), "main", func(*Source) error { t.Error("it was to be accepted"); return nil })
			wantIs(t, err, c.kind, c.says)
			if strings.Contains(err.Error(), "\x1b") {
				t.Errorf("control characters come through: %q", err)
			}
			if s := mustOpen(t, m.Dir(), "main"); s.Commit().Hash != before {
				t.Errorf("the mirror is at %s", s.Commit().Hash)
			}
		})
	}
	server.before = nil
	head := h.commit("honest again")
	if err := m.Fetch(t.Context(), "main", anything); err != nil {
		t.Fatal(err)
	}
	wantAt(t, m, "main", head)
}

// A server that sends a byte now and then is left when the time is over, at
// each stage.
func TestSlowDrip(t *testing.T) {
	h := newHosted(t)
	drip := func(w io.Writer) {
		for tick := time.NewTicker(10 * time.Millisecond); ; <-tick.C {
			if _, err := w.Write([]byte("x")); err != nil {
				return
			}
			w.(http.Flusher).Flush()
		}
	}
	for name, s := range map[string]hostile{
		"refs": {func(w io.Writer) { fmt.Fprint(w, "fff0"); drip(w) }, nil},
		"pack": {oneRef(wanted), func(w io.Writer) {
			_, _ = w.Write([]byte("PACK\x00\x00\x00\x02\x00\x00\x00\x01\xb0\x80\x80\x10\x78\x9c\x00\xff\xff\x00\x00")) // a blob that is never there
			drip(w)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			server := newWeb(t, h.root)
			server.before = s.before
			remote := server.remote(t)
			remote.Limits.Time = 300 * time.Millisecond
			begin := time.Now()
			err := mustMirror(t, remote).Fetch(t.Context(), "main", anything)
			wantIs(t, err, snapshot.ErrSourceLimit, "it took too long")
			if took := time.Since(begin); took > 5*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
}

// A redirect could lead a token elsewhere, or to another repository.
func TestRedirect(t *testing.T) {
	h := newHosted(t)
	elsewhere := newWeb(t, h.root)
	asked := false
	elsewhere.before = func(http.ResponseWriter, *http.Request) bool { asked = true; return false }
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		server := newWeb(t, h.root)
		server.before = func(w http.ResponseWriter, q *http.Request) bool {
			if q.Method == method {
				http.Redirect(w, q, elsewhere.URL+q.URL.RequestURI(), http.StatusTemporaryRedirect)
			}
			return q.Method == method
		}
		wantIs(t, mustMirror(t, server.remote(t)).Fetch(t.Context(), "main", anything), snapshot.ErrSource, "it redirects to", elsewhere.URL)
	}
	if asked {
		t.Error("the redirect was followed")
	}
}

// A pack that takes long to put together ends with its time: each object is
// made from the one before.
func TestPackThatTakesLong(t *testing.T) {
	const n, size = 4000, 1 << 20
	content := make([]byte, size)
	objects := [][]byte{entryOf(typeBlob, size, nil, content)}
	for range n {
		previous := len(objects[len(objects)-1])
		d := rawDelta(size, size, 0xf0, 0, 0, size>>16) // copy all of it
		objects = append(objects, entryOf(typeOFSDelta, int64(len(d)), offset(previous), d))
	}
	h := newHosted(t)
	server := newWeb(t, h.root)
	server.before = hostile{oneRef(wanted), func(w io.Writer) { _, _ = w.Write(rawPack(n+1, objects...)) }}.before
	remote := server.remote(t)
	remote.Limits.Time = time.Second
	begin := time.Now()
	err := mustMirror(t, remote).Fetch(t.Context(), "main", anything)
	wantIs(t, err, snapshot.ErrSourceLimit, "it took too long")
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
}

// offset is how an object names its base, so many bytes before it.
func offset(back int) []byte {
	out := []byte{byte(back & 0x7f)}
	for back >>= 7; back > 0; back >>= 7 {
		back--
		out = append([]byte{byte(back&0x7f) | 0x80}, out...)
	}
	return out
}

// A crash between the steps of taking a pack in leaves the old commit or the
// new one.
func TestCrashWhileKeeping(t *testing.T) {
	h := newHosted(t)
	m := mustMirror(t, newWeb(t, h.root).remote(t))
	old := git(t, h.work, "rev-parse", "HEAD")
	if err := m.Fetch(t.Context(), "main", anything); err != nil {
		t.Fatal(err)
	}
	head := h.commit("two")
	// The accept function stands where the process could end: aside is all,
	// and nothing is in the mirror.
	_ = m.Fetch(t.Context(), "main", func(*Source) error { return errors.New("killed") })
	for _, stray := range []string{"objects/pack/pack-" + wanted + ".idx", "packed-refs.new", "incoming/objects/pack/incoming.pack"} {
		if err := os.WriteFile(filepath.Join(m.dir, stray), []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	again, err := OpenMirror(m.dir, m.remote)
	if err != nil {
		t.Fatal(err)
	}
	if s := mustOpen(t, again.Dir(), "main"); s.Commit().Hash != old {
		t.Errorf("the mirror is at %s", s.Commit().Hash)
	}
	if err := again.Fetch(t.Context(), "main", anything); err != nil {
		t.Fatal(err)
	}
	if s := mustOpen(t, again.Dir(), "main"); s.Commit().Hash != head {
		t.Errorf("the mirror is at %s", s.Commit().Hash)
	}
}
