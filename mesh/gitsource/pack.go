package gitsource

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/idxfile"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
	"github.com/go-git/go-git/v5/storage/filesystem"
	"github.com/go-git/go-git/v5/storage/filesystem/dotgit"
)

// maxChain bounds the deltas that an object is made by; git makes 50, and 4095
// at the very most.
const maxChain = 4096

// maxStep bounds, in bytes, what an object is made from: every step, and the
// deltas and what they begin with together.
const maxStep = 4 * maxObject

// store is where objects are kept, with the indexes of its packs.
type store struct {
	*filesystem.Storage
	dir   *dotgit.DotGit
	packs map[plumbing.Hash]*idxfile.MemoryIndex // nil: not read yet
}

func newStore(s *filesystem.Storage) *store {
	return &store{Storage: s, dir: dotgit.New(s.Filesystem())}
}

// indexes reads the index of every pack.
func (s *store) indexes() (map[plumbing.Hash]*idxfile.MemoryIndex, error) {
	if s.packs != nil {
		return s.packs, nil
	}
	names, err := s.dir.ObjectPacks()
	if err != nil {
		return nil, err
	}
	packs := map[plumbing.Hash]*idxfile.MemoryIndex{}
	for _, name := range names {
		f, err := s.dir.ObjectPackIdx(name)
		if err != nil {
			return nil, err
		}
		index := idxfile.NewMemoryIndex()
		err = idxfile.NewDecoder(bufio.NewReader(f)).Decode(index)
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, fmt.Errorf("index of pack %s: %w", name, err)
		}
		packs[name] = index
	}
	s.packs = packs
	return packs, nil
}

// packedSize is the size of a packed object. It refuses one that is made from
// much more than it is: git takes such a pack from anyone who may push, and
// go-git holds every step in memory.
func (s *store) packedSize(hash plumbing.Hash) (int64, error) {
	if err := s.bounded(hash); err != nil {
		return 0, err
	}
	return s.EncodedObjectSize(hash)
}

// bounded looks at what a packed object is made from. It reads headers only.
func (s *store) bounded(hash plumbing.Hash) error {
	packs, err := s.indexes()
	if err != nil {
		return err
	}
	for name, index := range packs {
		at, err := index.FindOffset(hash)
		if errors.Is(err, plumbing.ErrObjectNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		f, err := s.dir.ObjectPack(name)
		if err != nil {
			return err
		}
		err = boundedChain(packfile.NewScanner(f), index, at)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}

func boundedChain(pack *packfile.Scanner, index *idxfile.MemoryIndex, at int64) error {
	sum := int64(0) // of the deltas, which are held together
	for range maxChain {
		h, err := pack.SeekObjectHeader(at)
		if err != nil {
			return err
		}
		if sum += h.Length; sum > maxStep {
			return tooBig(sum, maxStep)
		}
		switch h.Type {
		case plumbing.OFSDeltaObject:
			at = h.OffsetReference
		case plumbing.REFDeltaObject:
			if at, err = index.FindOffset(h.Reference); err != nil {
				return err
			}
		default:
			return nil
		}
		size, err := deltaSize(pack)
		if err != nil {
			return err
		}
		if size > maxStep {
			return tooBig(size, maxStep)
		}
	}
	return fmt.Errorf("is made by more than %d deltas", maxChain)
}

// deltaSize is the size of what the delta at the scanner's place makes: the
// second number in it, behind the size of what it is made from.
func deltaSize(pack *packfile.Scanner) (int64, error) {
	rd, err := pack.ReadObject()
	if err != nil {
		return 0, err
	}
	head := bufio.NewReader(io.LimitReader(rd, 2*binary.MaxVarintLen64))
	var size uint64
	for range 2 {
		if size, err = binary.ReadUvarint(head); err != nil {
			break
		}
	}
	if err == nil && size > 1<<62 {
		err = fmt.Errorf("states the size %d", size)
	}
	return int64(size), errors.Join(err, rd.Close())
}
