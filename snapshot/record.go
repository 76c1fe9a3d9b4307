package snapshot

import (
	"bytes"
	"fmt"
	"time"

	"meshseal/identity"
)

// maxRecord bounds a record, in bytes.
const maxRecord = 64 << 10

// High is the highest that was ever adopted: what a candidate has to reach.
// The zero High is that of somebody who has adopted nothing yet.
type High struct {
	Mesh     string
	Sequence uint64
	Root     Digest
	// Statement is the SHA-256 of the signed bytes of the statement. It is zero,
	// and Commit empty, only in what an earlier release has written.
	Statement Digest
	Commit    string
	// Issued is the time of issue of the statement.
	Issued time.Time
}

func (s Statement) high(payload []byte) High {
	return High{Mesh: s.Mesh, Sequence: s.Sequence, Root: s.Root, Statement: identity.SumDigest(payload), Commit: s.Commit, Issued: s.Issued}
}

// IsZero reports whether nothing was adopted yet.
func (h High) IsZero() bool { return h.Sequence == 0 }

// Record is what somebody who adopts snapshots remembers: the highest ever
// adopted, and whose signatures count since. It is an immutable value; the zero
// Record adopts nothing.
//
// Configuration says whose signatures count at the beginning. A statement that
// declares other keys changes that, and the record keeps it, together with the
// ID of the configured Trust: as long as the configuration stays the same, the
// record's keys count. Where the operator has configured other keys since, those
// count. The highest adopted stays either way.
type Record struct {
	configured Digest // ID of the configured Trust that trust began with
	trust      Trust
	high       High
	from       Digest // ID of the Trust by which Next let it follow; zero if read
	replaced   bool   // the configuration is another than when it was written
}

// NewRecord is the record of somebody who has adopted nothing yet.
func NewRecord(configured Trust) Record {
	return Record{configured: configured.ID(), trust: configured}
}

// Trust is whose signatures count: verify the next candidate with it.
func (r Record) Trust() Trust { return r.trust }

// High is the highest that was ever adopted.
func (r Record) High() High { return r.high }

type recordJSON struct {
	Mesh       string `json:"mesh"`
	Sequence   uint64 `json:"sequence"`
	Root       Digest `json:"root"`
	Statement  Digest `json:"statement"`
	Commit     string `json:"commit"`
	Issued     string `json:"issued"`
	Configured Digest `json:"configured"`
	// Keys is there if a statement has declared others than were configured.
	Keys *trustJSON `json:"keys,omitempty"`
}

// Bytes is the one encoding of a record; docs/snapshot.md specifies it. Where
// nothing was adopted there is nothing to remember, and none (ErrStore).
func (r Record) Bytes() ([]byte, error) {
	if r.high.Statement.IsZero() || r.trust.IsZero() {
		return nil, fmt.Errorf("%w: nothing was adopted that it could hold", ErrStore)
	}
	j := recordJSON{
		Mesh: r.high.Mesh, Sequence: r.high.Sequence, Root: r.high.Root, Statement: r.high.Statement, Commit: r.high.Commit,
		Issued: formatTime(r.high.Issued), Configured: r.configured,
	}
	if r.trust.ID() != r.configured {
		j.Keys = r.trust.json()
	}
	return encodeJSON(j)
}

// ParseRecord accepts exactly what Bytes writes, and the form of earlier
// releases, which knew neither commits nor declared keys. configured is whose
// signatures count by the configuration of today. What else it finds is
// ErrStore; to go on without the record would be to forget it.
func ParseRecord(data []byte, configured Trust) (Record, error) {
	if configured.IsZero() {
		return Record{}, fmt.Errorf("%w: no keys are configured", ErrTrust)
	}
	k, err := parseKept(data)
	if err != nil {
		return Record{}, err
	}
	r := Record{configured: configured.ID(), trust: configured, high: k.High}
	switch {
	case k.Configured.IsZero(): // the former form
	case k.Configured != r.configured:
		r.replaced = true
	case !k.Keys.IsZero():
		r.trust = k.Keys
	}
	return r, nil
}

// Kept is what a record on disk holds, whatever is configured. Nobody has
// verified it again.
type Kept struct {
	High High
	// Configured is the ID of the Trust that was configured. It is zero in what
	// an earlier release has written.
	Configured Digest
	// Keys is whose signatures count since, where a statement has declared
	// others than were configured; else zero.
	Keys Trust
}

// parseKept reads both forms of a record.
func parseKept(data []byte) (Kept, error) {
	if len(data) > maxRecord {
		return Kept{}, fmt.Errorf("%w: %d bytes, at most %d", ErrStore, len(data), maxRecord)
	}
	if former, ok := parseFormer(data); ok {
		return Kept{High: former}, nil
	}
	var j recordJSON
	if err := decodeJSON(data, &j); err != nil {
		return Kept{}, fmt.Errorf("%w: %w", ErrStore, err)
	}
	issued, err := time.Parse(time.RFC3339, j.Issued)
	if err != nil {
		return Kept{}, fmt.Errorf("%w: %w", ErrStore, err)
	}
	k := Kept{Configured: j.Configured, High: High{Mesh: j.Mesh, Sequence: j.Sequence, Root: j.Root, Statement: j.Statement, Commit: j.Commit, Issued: issued}}
	if k.Keys, err = j.Keys.trust(); err != nil {
		return Kept{}, fmt.Errorf("%w: %w", ErrStore, err)
	}
	j.Keys = k.Keys.json()
	again, err := encodeJSON(j)
	if err != nil || !bytes.Equal(again, data) || !k.High.sound() || k.Configured.IsZero() || k.Keys.ID() == k.Configured ||
		j.Statement.IsZero() || !isCommit(j.Commit) {
		return Kept{}, fmt.Errorf("%w: restore it from a backup; to remove it is to forget what was adopted", ErrStore)
	}
	return k, nil
}

// sound reports whether h can have been adopted.
func (h High) sound() bool {
	return !h.IsZero() && h.Sequence <= MaxSequence && !h.Root.IsZero() && writable(h.Issued)
}

// parseFormer reads the form of earlier releases.
func parseFormer(data []byte) (High, bool) {
	var j struct {
		Mesh     string   `json:"mesh"`
		Sequence uint64   `json:"sequence"`
		Root     Digest   `json:"root"`
		Issued   string   `json:"issued"`
		Keys     []string `json:"keys"` // the IDs of those that had signed
	}
	if decodeJSON(data, &j) != nil {
		return High{}, false
	}
	issued, err := time.Parse(time.RFC3339, j.Issued)
	if err != nil {
		return High{}, false
	}
	again, err := encodeJSON(j)
	h := High{Mesh: j.Mesh, Sequence: j.Sequence, Root: j.Root, Issued: issued}
	return h, err == nil && bytes.Equal(again, data) && h.sound()
}
