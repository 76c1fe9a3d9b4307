package snapshot

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"

	"meshseal/identity"
)

// Algorithm is a signature algorithm. It belongs to a key; an envelope does
// not name it.
type Algorithm string

// The signature algorithms.
const (
	Ed25519   Algorithm = "ed25519"    // RFC 8032, over the message itself
	ECDSAP256 Algorithm = "ecdsa-p256" // SHA-256, signature in ASN.1 DER
)

const (
	publicPEM  = "PUBLIC KEY"  // PKIX
	privatePEM = "PRIVATE KEY" // PKCS #8
	// maxKeyFile bounds the PEM of a key, in bytes.
	maxKeyFile = 4 << 10
)

// PublicKey is a key that signatures are checked with. The zero PublicKey
// verifies nothing and is refused by NewTrust.
type PublicKey struct {
	id  string
	der []byte
	key crypto.PublicKey
}

// ID is the lower-case hexadecimal SHA-256 of the key's PKIX DER, 64
// characters. It is the keyid of a signature in an envelope.
func (k PublicKey) ID() string { return k.id }

// Algorithm is the one algorithm that the key is used with.
func (k PublicKey) Algorithm() Algorithm {
	switch k.key.(type) {
	case ed25519.PublicKey:
		return Ed25519
	case *ecdsa.PublicKey:
		return ECDSAP256
	}
	return ""
}

// PEM is the form that ParsePublicKey reads.
func (k PublicKey) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: publicPEM, Bytes: k.der})
}

// DER is the key in PKIX form, which ParsePublicKeyDER reads.
func (k PublicKey) DER() []byte { return bytes.Clone(k.der) }

// Base64 is the standard base64 of DER: the form of a key in a statement, in a
// record and in the configuration of the guard.
func (k PublicKey) Base64() string { return strictBase64.EncodeToString(k.der) }

// verify reports whether signature is k's for message.
func (k PublicKey) verify(message, signature []byte) bool {
	switch key := k.key.(type) {
	case ed25519.PublicKey:
		return ed25519.Verify(key, message, signature)
	case *ecdsa.PublicKey:
		sum := sha256.Sum256(message)
		return ecdsa.VerifyASN1(key, sum[:], signature)
	}
	return false
}

// ParsePublicKey reads one PEM block "PUBLIC KEY" that holds a PKIX key,
// Ed25519 or ECDSA on P-256. Points of small order and encodings that are not
// the canonical ones are refused: with such a key, one signature can fit many
// messages, or one key can have many IDs.
func ParsePublicKey(text []byte) (PublicKey, error) {
	der, err := onePEM(text, publicPEM)
	if err != nil {
		return PublicKey{}, err
	}
	return ParsePublicKeyDER(der)
}

// ParsePublicKeyBase64 reads what Base64 writes, by the rules of
// ParsePublicKey.
func ParsePublicKeyBase64(text string) (PublicKey, error) {
	if len(text) > maxKeyFile {
		return PublicKey{}, fmt.Errorf("%w: longer than %d bytes", ErrKey, maxKeyFile)
	}
	der, err := strictBase64.DecodeString(text)
	if err != nil || strictBase64.EncodeToString(der) != text {
		return PublicKey{}, fmt.Errorf("%w: %q is not base64 in its one form", ErrKey, clip(text))
	}
	return ParsePublicKeyDER(der)
}

// ParsePublicKeyDER reads a PKIX key in DER, by the rules of ParsePublicKey.
func ParsePublicKeyDER(der []byte) (PublicKey, error) {
	if len(der) > maxKeyFile {
		return PublicKey{}, fmt.Errorf("%w: longer than %d bytes", ErrKey, maxKeyFile)
	}
	key, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return PublicKey{}, fmt.Errorf("%w: %w", ErrKey, err)
	}
	k, err := newPublicKey(key)
	if err != nil {
		return PublicKey{}, err
	}
	if !bytes.Equal(k.der, der) {
		return PublicKey{}, fmt.Errorf("%w: its DER is not in canonical form", ErrKey)
	}
	return k, nil
}

func newPublicKey(key crypto.PublicKey) (PublicKey, error) {
	switch k := key.(type) {
	case ed25519.PublicKey:
		if err := checkPoint(k); err != nil {
			return PublicKey{}, err
		}
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() {
			return PublicKey{}, fmt.Errorf("%w: ECDSA on %s; only P-256 is accepted", ErrKey, k.Curve.Params().Name)
		}
	default:
		return PublicKey{}, fmt.Errorf("%w: a %T; only Ed25519 and ECDSA P-256 are accepted", ErrKey, key)
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return PublicKey{}, fmt.Errorf("%w: %w", ErrKey, err)
	}
	return PublicKey{id: identity.SumDigest(der).Hex(), der: der, key: key}, nil
}

// checkPoint refuses an Ed25519 public key whose y is not below the field's
// prime (RFC 8032 section 5.1.3) and one whose point has an order of 1, 2, 4
// or 8. On the curve -x²+y²=1+dx²y² these are the points with y in {1, -1, 0},
// and those of order 8: doubled they have y=0, which is y²=-x², which put into
// the curve's equation is dy⁴+2y²-1=0.
func checkPoint(key ed25519.PublicKey) error {
	if len(key) != ed25519.PublicKeySize {
		return fmt.Errorf("%w: an Ed25519 key of %d bytes", ErrKey, len(key))
	}
	one := big.NewInt(1)
	p := new(big.Int).Sub(new(big.Int).Lsh(one, 255), big.NewInt(19))
	d := new(big.Int).ModInverse(big.NewInt(121666), p)
	d.Mul(d, big.NewInt(-121665)).Mod(d, p)

	y := make([]byte, len(key)) // big endian, the sign of x cut off
	for i, b := range key {
		y[len(y)-1-i] = b
	}
	y[0] &= 0x7f
	v := new(big.Int).SetBytes(y)
	if v.Cmp(p) >= 0 {
		return fmt.Errorf("%w: the Ed25519 point is not in canonical form", ErrKey)
	}
	square := new(big.Int).Mul(v, v)
	square.Mod(square, p)
	eighth := new(big.Int).Mul(d, square)
	eighth.Add(eighth, big.NewInt(2)).Mul(eighth, square).Sub(eighth, one).Mod(eighth, p)
	if v.Sign() == 0 || square.Cmp(one) == 0 || eighth.Sign() == 0 {
		return fmt.Errorf("%w: the Ed25519 point has a small order", ErrKey)
	}
	return nil
}

// Signer signs with a key that may live elsewhere, in a KMS for one.
type Signer interface {
	// Sign returns the signature of message by the algorithm of the key.
	Sign(message []byte) ([]byte, error)
	// Public is the key that the signature verifies with.
	Public() PublicKey
}

// PrivateKey is a Signer whose key is in memory.
type PrivateKey struct {
	public PublicKey
	key    crypto.Signer
}

// GenerateKey makes a new key.
func GenerateKey(a Algorithm) (*PrivateKey, error) {
	switch a {
	case Ed25519:
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, err
		}
		return newPrivateKey(key)
	case ECDSAP256:
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		return newPrivateKey(key)
	}
	return nil, fmt.Errorf("%w: algorithm %q; known are %s and %s", ErrKey, a, Ed25519, ECDSAP256)
}

// ParsePrivateKey reads one PEM block "PRIVATE KEY" that holds a PKCS #8 key,
// Ed25519 or ECDSA on P-256, not encrypted.
func ParsePrivateKey(text []byte) (*PrivateKey, error) {
	der, err := onePEM(text, privatePEM)
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%w: a %T cannot sign", ErrKey, key)
	}
	return newPrivateKey(signer)
}

func newPrivateKey(key crypto.Signer) (*PrivateKey, error) {
	public, err := newPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	return &PrivateKey{public: public, key: key}, nil
}

// Public is the key that k's signatures verify with.
func (k *PrivateKey) Public() PublicKey { return k.public }

// Sign signs message: Ed25519 by itself, ECDSA its SHA-256.
func (k *PrivateKey) Sign(message []byte) ([]byte, error) {
	if k.public.Algorithm() == Ed25519 {
		return k.key.Sign(nil, message, crypto.Hash(0))
	}
	sum := sha256.Sum256(message)
	return k.key.Sign(rand.Reader, sum[:], crypto.SHA256)
}

// PEM is the form that ParsePrivateKey reads.
func (k *PrivateKey) PEM() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k.key)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: privatePEM, Bytes: der}), nil
}

// onePEM returns what the only block of text holds. White space around the
// block is allowed, nothing else is.
func onePEM(text []byte, kind string) ([]byte, error) {
	if len(text) > maxKeyFile {
		return nil, fmt.Errorf("%w: longer than %d bytes", ErrKey, maxKeyFile)
	}
	text = bytes.TrimSpace(text)
	block, rest := pem.Decode(text)
	switch {
	case block == nil || !bytes.HasPrefix(text, []byte("-----BEGIN ")):
		return nil, fmt.Errorf("%w: no PEM block %q", ErrKey, kind)
	case block.Type != kind:
		return nil, fmt.Errorf("%w: a PEM block %q where %q is needed", ErrKey, clip(block.Type), kind)
	case len(block.Headers) > 0:
		return nil, fmt.Errorf("%w: the PEM block has headers; encrypted keys are not read", ErrKey)
	case len(bytes.TrimSpace(rest)) > 0:
		return nil, fmt.Errorf("%w: something follows the PEM block", ErrKey)
	}
	return block.Bytes, nil
}
