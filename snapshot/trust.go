package snapshot

import (
	"fmt"
	"slices"
	"strings"

	"meshseal/identity"
)

// MaxKeys is how many keys a statement may declare: half of the signatures of
// an envelope, so that every key of the set before and every key of the new one
// can sign the change.
const MaxKeys = MaxSignatures / 2

// trustMagic begins what Trust.ID hashes.
const trustMagic = "meshseal trust v1\n"

// Trust is who may sign snapshots: a set of keys, and how many of them are
// needed. It begins as configuration of the one who verifies; a statement that
// enough of its keys have signed may declare the set that follows it. The zero
// Trust verifies nothing.
type Trust struct {
	keys      []PublicKey // by ID
	threshold int
}

// NewTrust refuses a threshold below one or above the number of keys, and a
// key that stands there twice: it would count twice. The order of the keys does
// not matter.
func NewTrust(keys []PublicKey, threshold int) (Trust, error) {
	seen := make(map[string]bool, len(keys))
	for i, k := range keys {
		switch {
		case k.Algorithm() == "":
			return Trust{}, fmt.Errorf("%w: key %d is empty", ErrTrust, i+1)
		case seen[k.ID()]:
			return Trust{}, fmt.Errorf("%w: key %s is listed twice", ErrTrust, k.ID())
		}
		seen[k.ID()] = true
	}
	if threshold < 1 || threshold > len(keys) {
		return Trust{}, fmt.Errorf("%w: a threshold of %d with %d keys; it must be at least 1 and at most the number of keys", ErrTrust, threshold, len(keys))
	}
	sorted := slices.SortedFunc(slices.Values(keys), func(a, b PublicKey) int { return strings.Compare(a.ID(), b.ID()) })
	return Trust{keys: sorted, threshold: threshold}, nil
}

// IsZero reports whether t is the Trust that verifies nothing.
func (t Trust) IsZero() bool { return len(t.keys) == 0 }

// Equal reports whether t and o are the same keys with the same threshold.
func (t Trust) Equal(o Trust) bool { return t.ID() == o.ID() }

// ID names the set and its threshold: the SHA-256 of the encoding in
// docs/snapshot.md. Two Trusts have the same ID if and only if they are equal;
// that of the zero Trust is zero.
func (t Trust) ID() Digest {
	if t.IsZero() {
		return Digest{}
	}
	w := writer{b: []byte(trustMagic)}
	w.count(t.threshold)
	w.count(len(t.keys))
	for _, k := range t.keys {
		w.field(k.der)
	}
	return identity.SumDigest(w.b)
}

// Threshold is how many keys must have signed.
func (t Trust) Threshold() int { return t.threshold }

// Public lists the trusted keys by their IDs.
func (t Trust) Public() []PublicKey { return slices.Clone(t.keys) }

// KeyIDs lists the IDs of the trusted keys, sorted.
func (t Trust) KeyIDs() []string {
	ids := make([]string, len(t.keys))
	for i, k := range t.keys {
		ids[i] = k.ID()
	}
	return ids
}

// trustJSON is the form of a Trust in a statement and in a record.
type trustJSON struct {
	Threshold int      `json:"threshold"`
	Keys      []string `json:"keys"` // base64 of the PKIX DER, by key ID
}

// json is nil for the zero Trust, which is left out.
func (t Trust) json() *trustJSON {
	if t.IsZero() {
		return nil
	}
	j := &trustJSON{Threshold: t.threshold}
	for _, k := range t.keys {
		j.Keys = append(j.Keys, k.Base64())
	}
	return j
}

// trust is the inverse of Trust.json, with the bound of what a statement may
// declare. Who calls it encodes again and compares, which holds the order.
func (j *trustJSON) trust() (Trust, error) {
	if j == nil {
		return Trust{}, nil
	}
	if n := len(j.Keys); n > MaxKeys {
		return Trust{}, fmt.Errorf("%w: %d keys are declared, at most %d", ErrTrust, n, MaxKeys)
	}
	keys := make([]PublicKey, len(j.Keys))
	for i, text := range j.Keys {
		var err error
		if keys[i], err = ParsePublicKeyBase64(text); err != nil {
			return Trust{}, fmt.Errorf("declared key %d: %w", i+1, err)
		}
	}
	return NewTrust(keys, j.Threshold)
}

// verify returns the IDs of the trusted keys whose signatures of e verify,
// sorted, or why they are too few. It goes through the trusted keys, so each
// counts once at most, whatever the envelope says; signatures by other keys,
// and wrong ones beside enough right ones, change nothing. The algorithm is
// that of the trusted key.
func (t Trust) verify(e envelope) ([]string, error) {
	if t.threshold < 1 || t.threshold > len(t.keys) {
		return nil, fmt.Errorf("%w: a threshold of %d with %d keys", ErrTrust, t.threshold, len(t.keys))
	}
	if len(e.signatures) == 0 {
		return nil, fmt.Errorf("%w; run: meshseal sign", ErrUnsigned)
	}
	message := e.message()
	var good, wrong []string
	for _, k := range t.keys {
		i := slices.IndexFunc(e.signatures, func(s signature) bool { return s.keyID == k.ID() })
		switch {
		case i < 0:
		case k.verify(message, e.signatures[i].sig):
			good = append(good, k.ID())
		default:
			wrong = append(wrong, k.ID())
		}
	}
	switch {
	case len(good) >= t.threshold:
		return good, nil
	case len(wrong) > 0:
		return nil, fmt.Errorf("%w: key %s; %d of %d needed signatures are good", ErrSignature, strings.Join(wrong, ", "), len(good), t.threshold)
	case len(good) == 0:
		return nil, fmt.Errorf("%w: signed by %s", ErrUntrusted, strings.Join(e.keyIDs(), ", "))
	}
	return nil, fmt.Errorf("%w: %d, and %d are needed", ErrThreshold, len(good), t.threshold)
}
