package snapshot

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"testing"
)

func TestTrustThatCannotBe(t *testing.T) {
	a, b := newKey(t, Ed25519).Public(), newKey(t, ECDSAP256).Public()
	for name, test := range map[string]struct {
		keys      []PublicKey
		threshold int
	}{
		"no keys":               {nil, 1},
		"threshold 0":           {[]PublicKey{a, b}, 0},
		"threshold below 0":     {[]PublicKey{a, b}, -1},
		"threshold above":       {[]PublicKey{a, b}, 3},
		"one key twice":         {[]PublicKey{a, b, a}, 2},
		"an empty key":          {[]PublicKey{a, {}}, 1},
		"two keys with one id":  {[]PublicKey{a, {id: a.id, der: b.der, key: b.key}}, 2},
		"nothing and threshold": {nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := NewTrust(test.keys, test.threshold)
			wantCode(t, err, "TRUST_INVALID")
		})
	}
}

func TestZeroValuesVerifyNothing(t *testing.T) {
	k := newKey(t, Ed25519)
	d := signed(t, build(t, shop(t), testCommit), k)
	_, err := d.Verify(Trust{}, now)
	wantCode(t, err, "TRUST_INVALID")
	_, err = Open(d.Bytes(), Trust{}, now)
	wantCode(t, err, "TRUST_INVALID")
	_, err = (&Draft{}).Verify(trust(t, 1, k), now)
	wantCode(t, err, "SIGNATURE_MISSING")
	wantCode(t, (&Snapshot{}).ValidAt(now), "SIGNATURE_MISSING")
	wantCode(t, (*Snapshot)(nil).ValidAt(now), "SIGNATURE_MISSING")
	for _, nothing := range []Verified{nil, &Snapshot{}, (*Snapshot)(nil), &Sealed{}, (*Sealed)(nil)} {
		_, err = NewRecord(trust(t, 1, k)).Next(nothing, nil)
		wantCode(t, err, "SIGNATURE_MISSING")
	}
	_, err = Record{}.Next(shopAt(t, k, 7, "", now), nil)
	wantCode(t, err, "TRUST_INVALID")
	if _, err = (Record{}).Bytes(); Code(err) != "STORE_MALFORMED" {
		t.Error("the zero record is written", err)
	}
	wantCode(t, (&Sealed{}).ValidAt(now), "SIGNATURE_MISSING")
	if _, ok := (&Snapshot{}).Proxy("web"); ok {
		t.Error("the zero snapshot has a proxy")
	}
	if _, ok := (&Sealed{}).Hash(ClusterType, "orders"); ok {
		t.Error("the zero seal holds a cluster")
	}
	_, err = VerifySeal(Seal{}, trust(t, 1, k), "web", "shop", now)
	wantCode(t, err, "SEAL_MALFORMED")
}

// faulty is a signer whose hardware lies.
type faulty struct {
	Signer
	sig []byte
	err error
}

func (f faulty) Sign([]byte) ([]byte, error) { return f.sig, f.err }

func TestFaultySigner(t *testing.T) {
	d, k := build(t, shop(t), testCommit), newKey(t, Ed25519)
	_, err := d.Sign(faulty{Signer: k, sig: make([]byte, 64)}, SignOptions{Now: now})
	wantCode(t, err, "SIGNATURE_INVALID")
	gone := errors.New("the KMS is gone")
	if _, err := d.Sign(faulty{Signer: k, err: gone}, SignOptions{Now: now}); !errors.Is(err, gone) {
		t.Error(err)
	}
}

func TestKeysComeBack(t *testing.T) {
	for _, a := range []Algorithm{Ed25519, ECDSAP256} {
		k := newKey(t, a)
		path := filepath.Join(t.TempDir(), "key")
		if err := WriteKeyFiles(path, k); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("mode %v, %v", info.Mode(), err)
		}
		private, err := ReadPrivateKey(path)
		if err != nil {
			t.Fatal(err)
		}
		public, err := ReadPublicKey(path + PublicKeySuffix)
		if err != nil {
			t.Fatal(err)
		}
		if public.ID() != k.Public().ID() || private.Public().ID() != public.ID() || public.Algorithm() != a {
			t.Error("another key came back")
		}
		sig, err := private.Sign([]byte("m"))
		if err != nil || !public.verify([]byte("m"), sig) {
			t.Error("the key that came back signs otherwise", err)
		}
		other := newKey(t, a)
		if err := WriteKeyFiles(path, other); err == nil {
			t.Error("both files were overwritten")
		}
		if err := os.Remove(path + PublicKeySuffix); err != nil {
			t.Fatal(err)
		}
		if err := WriteKeyFiles(path, other); !errors.Is(err, os.ErrExist) {
			t.Errorf("the private key was overwritten: %v", err)
		}
		if still, err := ReadPrivateKey(path); err != nil || still.Public().ID() != k.Public().ID() {
			t.Error("another key stands there", err)
		}
	}
}

func TestKeysReadableByOthersAreRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	if err := WriteKeyFiles(path, newKey(t, Ed25519)); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o620, 0o602, 0o644, 0o610} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		_, err := ReadPrivateKey(path)
		wantCode(t, err, "KEY_MODE")
	}
	if err := os.Chmod(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := ReadPrivateKey(filepath.Dir(path))
	wantCode(t, err, "KEY_MODE")
	_, err = ReadPrivateKey(path + PublicKeySuffix)
	wantCode(t, err, "KEY_INVALID")
	if err := os.Chmod(path, 0o400); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadPrivateKey(path); err != nil {
		t.Error(err)
	}
}

func TestKeysThatAreRefused(t *testing.T) {
	good := newKey(t, Ed25519).Public().PEM()
	private, err := newKey(t, Ed25519).PEM()
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(good)
	withHeader := pem.EncodeToMemory(&pem.Block{Type: publicPEM, Headers: map[string]string{"a": "b"}, Bytes: block.Bytes})
	for name, text := range map[string][]byte{
		"empty":           nil,
		"no PEM":          []byte("key"),
		"private":         private,
		"two blocks":      append(bytes.Clone(good), good...),
		"text before":     append([]byte("text\n"), good...),
		"text after":      append(bytes.Clone(good), "text"...),
		"headers":         withHeader,
		"P-384":           publicPEMOf(t, &p384.PublicKey),
		"RSA":             publicPEMOf(t, &rsaKey.PublicKey),
		"trailing DER":    pem.EncodeToMemory(&pem.Block{Type: publicPEM, Bytes: append(bytes.Clone(block.Bytes), 0)}),
		"too long":        append(bytes.Clone(good), bytes.Repeat([]byte("\n"), maxKeyFile)...),
		"another type":    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: block.Bytes}),
		"y = p+3":         publicPEMOf(t, point(t, "f0ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f")),
		"y = 2^255-1":     publicPEMOf(t, point(t, "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f")),
		"identity":        publicPEMOf(t, point(t, "0100000000000000000000000000000000000000000000000000000000000000")),
		"identity, sign":  publicPEMOf(t, point(t, "0100000000000000000000000000000000000000000000000000000000000080")),
		"order 2":         publicPEMOf(t, point(t, "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f")),
		"order 4":         publicPEMOf(t, point(t, "0000000000000000000000000000000000000000000000000000000000000000")),
		"order 4, sign":   publicPEMOf(t, point(t, "0000000000000000000000000000000000000000000000000000000000000080")),
		"PKIX of nothing": pem.EncodeToMemory(&pem.Block{Type: publicPEM}),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParsePublicKey(text)
			wantCode(t, err, "KEY_INVALID")
		})
	}
	if _, err := ParsePublicKey(append([]byte("\n"), good...)); err != nil {
		t.Error(err)
	}
	_, err = ParsePrivateKey(good)
	wantCode(t, err, "KEY_INVALID")
	_, err = GenerateKey("rsa")
	wantCode(t, err, "KEY_INVALID")
}

// x509 reads a BIT STRING with unused bits as the number shifted to the right,
// so every second key has another DER, and would have a second ID.
func TestOneKeyHasOneID(t *testing.T) {
	k := newKey(t, Ed25519)
	for k.public.key.(ed25519.PublicKey)[0] >= 0x80 {
		k = newKey(t, Ed25519)
	}
	shifted := new(big.Int).Lsh(new(big.Int).SetBytes(k.public.key.(ed25519.PublicKey)), 1)
	der := bytes.Clone(k.public.der)
	at := len(der) - ed25519.PublicKeySize
	der[at-1] = 1 // unused bits
	shifted.FillBytes(der[at:])
	same, err := x509.ParsePKIXPublicKey(der)
	if err != nil || !k.public.key.(ed25519.PublicKey).Equal(same) {
		t.Fatalf("this is not another DER of the key: %v", err)
	}
	_, err = ParsePublicKey(pem.EncodeToMemory(&pem.Block{Type: publicPEM, Bytes: der}))
	wantCode(t, err, "KEY_INVALID")
}

func publicPEMOf(t *testing.T, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: publicPEM, Bytes: der})
}

func point(t *testing.T, hexText string) ed25519.PublicKey {
	t.Helper()
	b, err := hex.DecodeString(hexText)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The points of order 8 are found here by their definition: solve dy⁴+2y²-1=0
// for y, then add each to itself by the curve's own law and see that it needs
// eight steps to come back to the identity.
func TestPointsOfOrderEightAreRefused(t *testing.T) {
	one := big.NewInt(1)
	p := new(big.Int).Sub(new(big.Int).Lsh(one, 255), big.NewInt(19))
	mod := func(v *big.Int) *big.Int { return v.Mod(v, p) }
	mul := func(a, b *big.Int) *big.Int { return mod(new(big.Int).Mul(a, b)) }
	inv := func(a *big.Int) *big.Int { return new(big.Int).ModInverse(a, p) }
	d := mul(big.NewInt(-121665), inv(big.NewInt(121666)))
	type xy struct{ x, y *big.Int }
	add := func(a, b xy) xy {
		m := mul(d, mul(mul(a.x, b.x), mul(a.y, b.y)))
		x := new(big.Int).Add(mul(a.x, b.y), mul(a.y, b.x))
		y := new(big.Int).Add(mul(a.y, b.y), mul(a.x, b.x))
		return xy{mul(x, inv(mod(new(big.Int).Add(one, m)))), mul(y, inv(mod(new(big.Int).Sub(one, m))))}
	}
	found := 0
	// y² = (-1 ± sqrt(1+d)) / d, and x² = -y².
	root := new(big.Int).ModSqrt(mod(new(big.Int).Add(one, d)), p)
	for _, r := range []*big.Int{root, new(big.Int).Sub(p, root)} {
		y := new(big.Int).ModSqrt(mul(mod(new(big.Int).Sub(r, one)), inv(d)), p)
		if y == nil {
			continue
		}
		x := new(big.Int).ModSqrt(mod(new(big.Int).Neg(mul(y, y))), p)
		for _, at := range []xy{{x, y}, {x, new(big.Int).Sub(p, y)}} {
			four := add(add(at, at), add(at, at))
			eight := add(four, four)
			if four.x.Sign() == 0 && four.y.Cmp(one) == 0 || eight.x.Sign() != 0 || eight.y.Cmp(one) != 0 {
				t.Fatalf("y=%x has not the order 8", at.y)
			}
			for _, sign := range []byte{0, 0x80} {
				key := make(ed25519.PublicKey, 32)
				for i, b := range at.y.FillBytes(make([]byte, 32)) {
					key[31-i] = b
				}
				key[31] |= sign
				_, err := newPublicKey(key)
				wantCode(t, err, "KEY_INVALID")
				found++
			}
		}
	}
	if found != 4 {
		t.Errorf("%d points of order 8, there are 4", found)
	}
}
