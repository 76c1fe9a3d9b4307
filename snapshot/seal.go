package snapshot

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"meshseal/identity"
)

// sealMagic is the first line of the list of a seal.
const sealMagic = "meshseal seal v1\n"

// maxPath is the longest audit path of a seal: a tree of 2^63 leaves.
const maxPath = 63

// Seal is what one proxy gets to check a snapshot by. It comes in two parts,
// so that a renewal of the statement sends only the statement again. Neither
// is to be believed before VerifySeal.
type Seal struct {
	// Statement is the JSON of the DSSE envelope.
	Statement []byte
	// List is what the proxy may hold, and the proof that it is part of the
	// root that the statement names.
	List []byte
}

// Seal returns the seal of a proxy.
func (s *Snapshot) Seal(proxy string) (Seal, error) {
	index, ok := s.leafIndex[proxy]
	if !ok {
		return Seal{}, fmt.Errorf("the snapshot %s has no proxy %q", s.Root(), clip(proxy))
	}
	path, err := s.tree.inclusion(index)
	if err != nil {
		return Seal{}, err
	}
	return Seal{Statement: bytes.Clone(s.envelope.raw), List: encodeList(index, path, s.leaves[index])}, nil
}

func encodeList(index uint64, path [][]byte, leaf []byte) []byte {
	size := len(sealMagic) + 8 + 2*u32Size + len(path)*digestSize + len(leaf)
	w := writer{b: append(make([]byte, 0, size), sealMagic...)}
	w.u64(index)
	w.count(len(path))
	for _, hash := range path {
		w.b = append(w.b, hash...)
	}
	w.field(leaf)
	return w.b
}

func decodeList(list []byte) (index uint64, path [][]byte, leaf []byte, err error) {
	rest, ok := bytes.CutPrefix(list, []byte(sealMagic))
	if !ok {
		return 0, nil, nil, fmt.Errorf("%w: it does not begin with %q", ErrSeal, sealMagic)
	}
	r := reader{b: rest}
	index = r.u64()
	n := r.count(digestSize)
	if n > maxPath {
		r.fail(fmt.Errorf("the audit path has %d hashes, at most %d", n, maxPath))
	}
	for range n {
		path = append(path, r.take(digestSize))
	}
	leaf = r.field()
	if err := r.done(); err != nil {
		return 0, nil, nil, fmt.Errorf("%w: %w", ErrSeal, err)
	}
	return index, path, leaf, nil
}

// Sealed is a verified seal: the list of all that one proxy may hold. Only
// VerifySeal makes one.
type Sealed struct {
	envelope  envelope
	statement Statement
	proxy     Proxy
	keys      []string
}

// VerifySeal verifies the seal of a proxy of a mesh, by the verifier that
// Draft.Verify uses: signatures over the exact bytes first, then the
// statement and the keys that it declares, then its times, then the proof of the
// list.
func VerifySeal(seal Seal, t Trust, proxy, mesh string, now time.Time) (*Sealed, error) {
	if len(seal.List) > MaxFile {
		return nil, fmt.Errorf("%w: a seal of %d bytes, at most %d", ErrTooLarge, len(seal.List), MaxFile)
	}
	env, err := parseEnvelope(seal.Statement)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSeal, err)
	}
	st, keys, err := t.vouch(env)
	if err != nil {
		return nil, err
	}
	if st.Mesh != mesh {
		return nil, fmt.Errorf("%w: %q, and this is %q", ErrMesh, st.Mesh, clip(mesh))
	}
	if err := st.validAt(now); err != nil {
		return nil, err
	}
	p, err := openList(seal.List, st)
	if err != nil {
		return nil, err
	}
	if p.Name != proxy {
		return nil, fmt.Errorf("%w: %q, and this is %q", ErrSealProxy, p.Name, clip(proxy))
	}
	return &Sealed{envelope: env, statement: st, proxy: p, keys: keys}, nil
}

// openList returns the proxy whose leaf the list proves.
func openList(list []byte, st Statement) (Proxy, error) {
	index, path, leaf, err := decodeList(bytes.Clone(list))
	if err != nil {
		return Proxy{}, err
	}
	if err := checkInclusion(leaf, index, st.TreeSize, path, st.Root); err != nil {
		return Proxy{}, fmt.Errorf("%w: %w", ErrSealProof, err)
	}
	var l leafReader
	if err := l.add(leaf); err != nil {
		return Proxy{}, fmt.Errorf("%w: %w", ErrSeal, err)
	}
	if len(l.c.Proxies) != 1 {
		return Proxy{}, fmt.Errorf("%w: the leaf is not a proxy's", ErrSeal)
	}
	p := l.c.Proxies[0]
	if !bytes.Equal(encodeLeaf(proxyLeaf, p.Name, p.encode()), leaf) {
		return Proxy{}, fmt.Errorf("%w: the leaf is not in the one form that is written", ErrSeal)
	}
	if err := checkName("proxy", p.Name); err != nil {
		return Proxy{}, fmt.Errorf("%w: %w", ErrSeal, err)
	}
	if _, err := identity.ParseBaseID(p.ID.String()); err != nil {
		return Proxy{}, fmt.Errorf("%w: %w", ErrSeal, err)
	}
	if err := checkEntries(p); err != nil {
		return Proxy{}, fmt.Errorf("%w: %w", ErrSeal, err)
	}
	return p, nil
}

// Statement is the signed statement.
func (s *Sealed) Statement() Statement { return s.statement }

// Proxy is the proxy and all that it may hold, without what the Envoy has to
// prove of itself: Allowed and Registration stand in another leaf. The caller
// does not change it.
func (s *Sealed) Proxy() Proxy { return s.proxy }

// KeyIDs lists the trusted keys by whose signatures the seal was verified,
// sorted.
func (s *Sealed) KeyIDs() []string { return slices.Clone(s.keys) }

// ValidAt is ErrExpired or ErrNotYetValid where the statement is.
func (s *Sealed) ValidAt(now time.Time) error { return s.statement.validAt(now) }

// Hash returns what a resource must hash to, and false where the proxy may not
// hold it at all.
func (s *Sealed) Hash(url TypeURL, name string) (Digest, bool) {
	i, ok := slices.BinarySearchFunc(s.proxy.Entries, Entry{Type: url, Name: name}, Entry.compare)
	if !ok {
		return Digest{}, false
	}
	return s.proxy.Entries[i].Hash, true
}

// proof is what Record.Next verifies once more.
func (s *Sealed) proof() envelope {
	if s == nil {
		return envelope{}
	}
	return s.envelope
}
