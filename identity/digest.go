package identity

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Digest is a SHA-256 digest: of an image, of a program file, of bytes that
// are sealed. The zero Digest stands for "none" and is never the digest of
// anything that was measured.
type Digest [sha256.Size]byte

// ErrDigest is the reason ParseDigest and ParseHex refuse a text.
var ErrDigest = errors.New("not a digest of the form sha256:<64 lower-case hex>")

const digestPrefix = "sha256:"

// SumDigest is the digest of data.
func SumDigest(data []byte) Digest { return sha256.Sum256(data) }

// ReadDigest is the digest of all that r gives.
func ReadDigest(r io.Reader) (Digest, error) {
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		return Digest{}, err
	}
	return Digest(h.Sum(nil)), nil
}

// ParseDigest reads "sha256:" and 64 lower-case hexadecimal digits, the form
// of the OCI image specification, and nothing else.
func ParseDigest(s string) (Digest, error) {
	h, ok := strings.CutPrefix(s, digestPrefix)
	if !ok {
		return Digest{}, fmt.Errorf("%q: %w", clip(s), ErrDigest)
	}
	return ParseHex(h)
}

// ParseHex reads the 64 lower-case hexadecimal digits of a digest, the form in
// which it stands in a SPIFFE ID.
func ParseHex(s string) (Digest, error) {
	var d Digest
	if len(s) != hex.EncodedLen(len(d)) || strings.ToLower(s) != s {
		return Digest{}, fmt.Errorf("%q: %w", clip(s), ErrDigest)
	}
	if _, err := hex.Decode(d[:], []byte(s)); err != nil {
		return Digest{}, fmt.Errorf("%q: %w", clip(s), ErrDigest)
	}
	return d, nil
}

// String is the form that ParseDigest reads.
func (d Digest) String() string { return digestPrefix + d.Hex() }

// Hex is the form that ParseHex reads.
func (d Digest) Hex() string { return hex.EncodeToString(d[:]) }

// IsZero reports whether d stands for "none".
func (d Digest) IsZero() bool { return d == Digest{} }

// Compare orders digests by their bytes, for slices.SortFunc.
func (d Digest) Compare(o Digest) int { return slices.Compare(d[:], o[:]) }

// MarshalText writes the form of String; it makes Digest a JSON string.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what ParseDigest reads.
func (d *Digest) UnmarshalText(b []byte) (err error) {
	*d, err = ParseDigest(string(b))
	return err
}

// SetDigest is the digest of a complete set of images that run together, a pod
// or a unit. For one image it is that image's digest. For several it is the
// SHA-256 of their lower-case hexadecimal digests, sorted and joined by a
// newline. An empty set and a set that names an image twice are refused: with
// duplicates, a count of containers proves nothing.
func SetDigest(images []Digest) (Digest, error) {
	switch len(images) {
	case 0:
		return Digest{}, errors.New("an image set needs at least one image digest")
	case 1:
		return images[0], nil
	}
	hexes := make([]string, len(images))
	for i, d := range images {
		hexes[i] = d.Hex()
	}
	slices.Sort(hexes)
	for i := 1; i < len(hexes); i++ {
		if hexes[i] == hexes[i-1] {
			return Digest{}, fmt.Errorf("an image set names sha256:%s twice", hexes[i])
		}
	}
	return SumDigest([]byte(strings.Join(hexes, "\n"))), nil
}

// clip keeps an error message short whatever a peer sent.
func clip(s string) string {
	if len(s) > 100 {
		return s[:100] + "…"
	}
	return s
}
