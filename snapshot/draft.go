package snapshot

import (
	"fmt"
	"time"
)

// Draft is a snapshot that nobody has verified: one that was just built, or
// bytes that were parsed. Its content is consistent in itself and with its
// statement, which may carry signatures; whether they are worth anything only
// Verify tells.
type Draft struct{ file }

// New checks the content that a build made from a commit, and hashes it. The
// order in which lists stand in c does not matter. Nothing of c is kept.
func New(c Content, at Commit) (*Draft, error) {
	c = c.sorted()
	if err := checkContent(c); err != nil {
		return nil, err
	}
	leaves, _ := encodeLeaves(c)
	t, err := growTree(leaves)
	if err != nil {
		return nil, err
	}
	payload, err := Statement{
		Root: t.root, TreeSize: t.size, Format: c.Mesh.Format, Mesh: c.Mesh.Name,
		Repository: at.Repository, Commit: at.Hash, CommitTime: seconds(at.Time), Sequence: at.Sequence,
	}.encode()
	if err != nil {
		return nil, err
	}
	env, err := envelope{payload: payload}.seal()
	if err != nil {
		return nil, err
	}
	body := encodeBody(leaves, c.Resources)
	if len(leaves) > maxLeaves || len(c.Resources) > maxResources {
		return nil, fmt.Errorf("%w: %d leaves and %d resources, at most %d and %d", ErrTooLarge, len(leaves), len(c.Resources), maxLeaves, maxResources)
	}
	if size := len(magic) + u32Size + maxEnvelope + len(body); size > MaxFile {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, size, MaxFile)
	}
	f, err := decode(env, body)
	if err != nil {
		return nil, err
	}
	return &Draft{file: f}, nil
}

// Parse reads a snapshot file. It accepts only what Bytes writes, to the byte.
// Signatures are not looked at; Open does that before it decodes anything
// else.
func Parse(data []byte) (*Draft, error) {
	raw, body, err := frame(data)
	if err != nil {
		return nil, err
	}
	env, err := parseEnvelope(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	f, err := decode(env, body)
	if err != nil {
		return nil, err
	}
	return &Draft{file: f}, nil
}

// SignedBy lists the IDs of the keys that the signatures name, sorted. It is
// what the file claims and no proof.
func (d *Draft) SignedBy() []string { return d.envelope.keyIDs() }

// SignOptions says how Sign makes a statement.
type SignOptions struct {
	Now time.Time
	// Previous is the root of the snapshot that this one follows, if known.
	Previous Digest
	// Keys is the set that the statement declares, so that whoever adopts it
	// trusts these keys from then on. Zero: a new statement declares none, a
	// renewed one what the statement before it declared. Enough of these keys,
	// and enough of those that were trusted before, must sign the same
	// statement: the first with Keys, the others after it without Renew.
	//
	// An adopter that was away while the keys changed knows only the old ones.
	// So every statement, renewed or new, declares the new keys and is signed
	// by both sets until nobody is left behind; then the old keys go.
	Keys Trust
	// Renew makes a new statement with a new expiry, without the signatures
	// that were there.
	Renew bool
}

// Sign returns a draft that carries a signature by s as well. An unsigned
// draft, and any with Renew, gets a new statement: issued now, expiring after
// the mesh's statement lifetime. Otherwise the statement that others signed is
// signed once more, as a threshold above one and a change of keys need it.
func (d *Draft) Sign(s Signer, opts SignOptions) (*Draft, error) {
	env, err := d.toSign(opts)
	if err != nil {
		return nil, err
	}
	signed, err := sign(env, s)
	if err != nil {
		return nil, err
	}
	f, err := decode(signed, d.body)
	if err != nil {
		return nil, err
	}
	return &Draft{file: f}, nil
}

// toSign is the envelope that a signature is added to.
func (d *Draft) toSign(opts SignOptions) (envelope, error) {
	if !opts.Renew && len(d.envelope.signatures) > 0 {
		return d.envelope, d.checkCosign(opts)
	}
	st := d.statement
	st.Issued = seconds(opts.Now)
	st.Expires = st.Issued.Add(d.content.Mesh.StatementLifetime)
	st.Previous = opts.Previous
	if !opts.Keys.IsZero() {
		st.Keys = opts.Keys
	}
	if err := st.check(); err != nil {
		return envelope{}, err
	}
	payload, err := st.encode()
	return envelope{payload: payload}, err
}

// checkCosign keeps a signer from vouching for times that no verifier accepts,
// and for a predecessor or keys that it did not mean.
func (d *Draft) checkCosign(opts SignOptions) error {
	if err := d.statement.validAt(opts.Now); err != nil {
		return fmt.Errorf("%w; sign with renewal", err)
	}
	if !opts.Previous.IsZero() && opts.Previous != d.statement.Previous {
		return fmt.Errorf("%w: the statement that others signed follows %s, not %s; sign with renewal", ErrStatement, d.statement.Previous, opts.Previous)
	}
	if !opts.Keys.IsZero() && !opts.Keys.Equal(d.statement.Keys) {
		return fmt.Errorf("%w: the statement that others signed declares the keys %v, not %v; sign with renewal", ErrStatement, d.statement.Keys.KeyIDs(), opts.Keys.KeyIDs())
	}
	return nil
}

// sign adds a signature to e and checks it, so that a faulty signer is found
// by the one who runs it.
func sign(e envelope, s Signer) (envelope, error) {
	key := s.Public()
	sig, err := s.Sign(e.message())
	if err != nil {
		return envelope{}, fmt.Errorf("sign with key %s: %w", key.ID(), err)
	}
	if !key.verify(e.message(), sig) {
		return envelope{}, fmt.Errorf("%w: what the signer of key %s returned", ErrSignature, key.ID())
	}
	return e.with(signature{keyID: key.ID(), sig: sig})
}
