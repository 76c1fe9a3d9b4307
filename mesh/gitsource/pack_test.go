package gitsource

import (
	"bytes"
	"compress/zlib"
	"crypto/sha1"
	"encoding/binary"
	"fmt"
	"io/fs"
	"runtime"
	"testing"

	"github.com/go-git/go-git/v5/plumbing"
)

// packed is one object of a pack that packOf writes.
type packed struct {
	kind byte // 1 commit, 2 tree, 3 blob, 7 delta
	base plumbing.Hash
	data []byte
}

// packOf is a pack, as git-index-pack takes it.
func packOf(t *testing.T, objects ...packed) []byte {
	t.Helper()
	var out bytes.Buffer
	out.WriteString("PACK")
	out.Write(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, 2), uint32(len(objects))))
	for _, o := range objects {
		n := uint64(len(o.data))
		head := o.kind<<4 | byte(n&15)
		if n >>= 4; n > 0 {
			out.WriteByte(head | 0x80)
			out.Write(binary.AppendUvarint(nil, n))
		} else {
			out.WriteByte(head)
		}
		if o.kind == 7 {
			out.Write(o.base[:])
		}
		z := zlib.NewWriter(&out)
		if _, err := z.Write(o.data); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
	}
	sum := sha1.Sum(out.Bytes())
	out.Write(sum[:])
	return out.Bytes()
}

// delta makes to from something of size bytes: copies of its first 64 KiB, and
// then a text.
func delta(size, copies int, text string) []byte {
	d := binary.AppendUvarint(binary.AppendUvarint(nil, uint64(size)), uint64(copies<<16+len(text)))
	d = append(d, bytes.Repeat([]byte{0x80}, copies)...) // copy 64 KiB from offset 0
	if text != "" {
		d = append(append(d, byte(len(text))), text...)
	}
	return d
}

// TestEndlessPack: a pack that git takes, in which a small file is made from
// something huge, is refused before that is read.
func TestEndlessPack(t *testing.T) {
	const huge = 128 << 20
	const text = "format: v1\n"
	blob := func(b []byte) plumbing.Hash { return plumbing.ComputeHash(plumbing.BlobObject, b) }
	little := make([]byte, 64<<10)
	for name, c := range map[string]struct {
		want    string
		objects []packed
	}{
		"honest":      {"", []packed{{3, plumbing.ZeroHash, little}, {7, blob(little), delta(len(little), 0, text)}}},
		"huge base":   {"at most 67108864", []packed{{3, plumbing.ZeroHash, make([]byte, huge)}, {7, blob(make([]byte, huge)), delta(huge, 0, text)}}},
		"huge middle": {"at most 67108864", []packed{{3, plumbing.ZeroHash, little}, {7, blob(little), delta(len(little), huge>>16, "")}, {7, blob(make([]byte, huge)), delta(huge, 0, text)}}},
	} {
		t.Run(name, func(t *testing.T) {
			tree := append([]byte("100644 meshseal.yaml\x00"), hashOf(plumbing.BlobObject, text)...)
			commit := fmt.Appendf(nil, "tree %x\nauthor a <a@shop.test> 1700000000 +0000\ncommitter a <a@shop.test> 1700000000 +0000\n\nx\n", hashOf(plumbing.TreeObject, string(tree)))
			pack := packOf(t, append(c.objects, packed{2, plumbing.ZeroHash, tree}, packed{1, plumbing.ZeroHash, commit})...)
			dir := t.TempDir()
			git(t, dir, "init", "-q", "-b", "main")
			gitIn(t, dir, pack, "index-pack", "--stdin")
			git(t, dir, "update-ref", "refs/heads/main", fmt.Sprintf("%x", hashOf(plumbing.CommitObject, string(commit))))
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			fsys := mustOpen(t, dir, "").FS()
			_, statErr := fs.Stat(fsys, "meshseal.yaml")
			data, err := fs.ReadFile(fsys, "meshseal.yaml")
			runtime.ReadMemStats(&after)
			if c.want == "" {
				if err != nil || statErr != nil || string(data) != text {
					t.Fatalf("read %q, %v, %v", data, err, statErr)
				}
				return
			}
			wantError(t, err, "meshseal.yaml", c.want)
			wantError(t, statErr, c.want)
			if used := after.TotalAlloc - before.TotalAlloc; used > huge/4 {
				t.Errorf("%d bytes were allocated for a pack of %d", used, len(pack))
			}
		})
	}
}

func hashOf(t plumbing.ObjectType, data string) []byte {
	h := plumbing.ComputeHash(t, []byte(data))
	return h[:]
}
