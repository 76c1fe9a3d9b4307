package extauthz

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
)

// Lines writes each record as one line of JSON.
type Lines struct {
	w io.Writer

	mu   sync.Mutex
	open *batch // that lines are added to; nil if none is

	writing sync.Mutex
	torn    bool // the last write ended inside a line
}

// NewLines writes to w, which nobody else may write to meanwhile.
func NewLines(w io.Writer) *Lines { return &Lines{w: w} }

// batch is the lines of checks that end while others are written: they are written
// with one call. Who adds the first line writes them; the others wait for it.
type batch struct {
	lines   []byte
	members int          // who have to look at the outcome yet; guarded by Lines.mu
	outcome sync.RWMutex // locked until there is one
	written int          // of lines, bytes
	err     error
}

var (
	batches = sync.Pool{New: func() any { return new(batch) }}
	lines   = sync.Pool{New: func() any { return new([]byte) }}
)

// Record returns when its line is written. Control characters are escaped, so
// whatever a path or a header held, it stays one line and drives no terminal.
// After a write that failed half-way the next record begins on a new line.
func (l *Lines) Record(r Record) error {
	room := lines.Get().(*[]byte)
	line, err := r.appendLine((*room)[:0])
	if err != nil {
		return fmt.Errorf("encode the record of decision %s: %w", r.DecisionID, err)
	}
	b, first, end := l.add(line)
	if cap(line) <= maxKept {
		*room = line
		lines.Put(room)
	}
	if first {
		l.write(b)
	}
	b.outcome.RLock()
	written, err := b.written, b.err
	b.outcome.RUnlock()
	l.leave(b)
	if end <= written {
		return nil
	}
	return fmt.Errorf("write the record of decision %s: %w", r.DecisionID, err)
}

// add puts a line into the open batch; it ends at end. The first of a batch has
// to write it.
func (l *Lines) add(line []byte) (b *batch, first bool, end int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if first = l.open == nil; first {
		l.open = batches.Get().(*batch)
		l.open.outcome.Lock()
	}
	b = l.open
	b.lines = append(b.lines, line...)
	b.members++
	return b, first, len(b.lines)
}

// write closes the batch and writes it, after the one before.
func (l *Lines) write(b *batch) {
	b.err = errUnwritten
	defer b.outcome.Unlock()
	l.writing.Lock()
	defer l.writing.Unlock()
	l.mu.Lock()
	l.open = nil
	l.mu.Unlock()
	skip := 0
	if l.torn {
		b.lines = slices.Insert(b.lines, 0, '\n')
		skip = 1
	}
	n, err := l.w.Write(b.lines)
	if err == nil && n < len(b.lines) {
		err = io.ErrShortWrite
	}
	if n > 0 {
		l.torn = b.lines[n-1] != '\n'
	}
	b.written, b.err = n-skip, err
	if err != nil && n == len(b.lines) {
		b.written = 0 // all is there, and yet something failed
	}
}

// leave makes room for another batch when the last has looked at the outcome.
func (l *Lines) leave(b *batch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if b.members--; b.members > 0 || cap(b.lines) > maxLines {
		return
	}
	b.lines, b.written, b.err = b.lines[:0], 0, nil
	batches.Put(b)
}

// maxLines is the size of the largest buffer that is kept, in bytes.
const maxLines = 1 << 20

var (
	errNotOneLine = errors.New("a part of the record is no JSON in one line")
	errUnwritten  = errors.New("it was not written")
)
