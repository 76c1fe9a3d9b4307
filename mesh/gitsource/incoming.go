package gitsource

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/idxfile"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"

	"meshseal/snapshot"
)

// receive writes a pack that comes in to the folder dir, with its index, and
// returns its name without an ending. It looks at each object as it comes, so
// that what is too much ends at the first byte that is.
func receive(ctx context.Context, from io.Reader, dir string, l Limits) (name string, err error) {
	f, err := os.OpenFile(filepath.Join(dir, "incoming.pack"), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := scan(io.TeeReader(from, f), l); err != nil {
		return "", incomingError(ctx, err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	index := &idxfile.Writer{}
	parser, err := packfile.NewParser(packfile.NewScanner(&patient{ctx, f}), index)
	if err != nil {
		return "", err
	}
	sum, err := parser.Parse()
	if err != nil {
		return "", incomingError(ctx, err)
	}
	name = "pack-" + sum.String()
	if err := writeIndex(filepath.Join(dir, name+".idx"), index); err != nil {
		return "", err
	}
	if err := f.Sync(); err != nil {
		return "", err
	}
	return name, os.Rename(f.Name(), filepath.Join(dir, name+".pack"))
}

func incomingError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return remoteError("read what the remote sends", err)
}

// scan reads a pack to its end and holds the limits:
// https://git-scm.com/docs/pack-format
func scan(from io.Reader, l Limits) error {
	scanner := packfile.NewScanner(from)
	_, count, err := scanner.Header()
	if err != nil {
		return err
	}
	if int64(count) > l.Objects {
		return fmt.Errorf("%w: %d objects; at most %d are taken", snapshot.ErrSourceLimit, count, l.Objects)
	}
	for n := range count {
		h, err := scanner.NextObjectHeader()
		if err != nil {
			return err
		}
		if h.Length > l.Object {
			return bigObject(n, h.Type, h.Length, l)
		}
		head := &deltaHead{}
		if _, _, err := scanner.NextObject(head); err != nil {
			return err
		}
		if !h.Type.IsDelta() {
			continue
		}
		// What a small delta makes can be large.
		size, err := head.target()
		if err != nil {
			return err
		}
		if size > uint64(l.Object) {
			return bigObject(n, h.Type, int64(min(size, 1<<62)), l)
		}
	}
	_, err = scanner.Checksum()
	return err
}

func bigObject(n uint32, t plumbing.ObjectType, size int64, l Limits) error {
	return fmt.Errorf("%w: object %d, a %s, has %d bytes; at most %d are taken", snapshot.ErrSourceLimit, n+1, t, size, l.Object)
}

// deltaHead keeps the beginning of an object.
type deltaHead struct{ bytes []byte }

func (d *deltaHead) Write(p []byte) (int, error) {
	const most = 2 * binary.MaxVarintLen64
	if room := most - len(d.bytes); room > 0 {
		d.bytes = append(d.bytes, p[:min(room, len(p))]...)
	}
	return len(p), nil
}

// target is the second number of a delta: the size of what it makes.
func (d *deltaHead) target() (size uint64, err error) {
	rest := bufio.NewReader(bytes.NewReader(d.bytes))
	for range 2 {
		if size, err = binary.ReadUvarint(rest); err != nil {
			return 0, fmt.Errorf("a delta without its sizes: %w", err)
		}
	}
	return size, nil
}

// patient is a file that ends with its context: to put deltas together again
// can take much longer than to read them.
type patient struct {
	ctx context.Context
	*os.File
}

func (p *patient) Read(b []byte) (int, error) {
	if err := p.ctx.Err(); err != nil {
		return 0, err
	}
	return p.File.Read(b)
}

func writeIndex(name string, from *idxfile.Writer) error {
	index, err := from.Index()
	if err != nil {
		return err
	}
	var data bytes.Buffer
	if _, err := idxfile.NewEncoder(&data).Encode(index); err != nil {
		return err
	}
	return writeDurably(name, data.Bytes())
}

// writeDurably writes a file beside its place, then puts it there.
func writeDurably(name string, data []byte) error {
	f, err := os.OpenFile(name+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(name+".new", name); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(name))
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
