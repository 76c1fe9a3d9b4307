package gitsource

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"

	"meshseal/snapshot"
)

// keyring are the OpenPGP keys whose signatures count.
type keyring openpgp.EntityList

// parseKeyring reads armored public keys: one block or several.
func parseKeyring(text []byte) (keyring, error) {
	if len(text) > maxSigners {
		return nil, fmt.Errorf("%d bytes; at most %d are read", len(text), maxSigners)
	}
	const begin = "-----BEGIN PGP "
	var all keyring
	parts := bytes.Split(text, []byte(begin))
	for _, part := range parts[1:] {
		block, err := armor.Decode(bytes.NewReader(append([]byte(begin), part...)))
		if err != nil {
			return nil, err
		}
		if block.Type != "PGP PUBLIC KEY BLOCK" {
			return nil, fmt.Errorf("a block %.40q; only public keys belong here: gpg --armor --export", block.Type)
		}
		keys, err := openpgp.ReadKeyRing(block.Body)
		if err != nil {
			return nil, err
		}
		all = append(all, keys...)
	}
	if len(all) == 0 {
		return nil, errors.New("no armored public key; write one: gpg --armor --export")
	}
	return all, nil
}

// strict is what is asked of keys and signatures: today's hashes for both.
// https://www.rfc-editor.org/rfc/rfc9580#name-security-considerations
func strict(now time.Time) *packet.Config {
	weak := map[crypto.Hash]bool{crypto.MD5: true, crypto.SHA1: true, crypto.RIPEMD160: true, crypto.SHA224: true}
	return &packet.Config{
		Time:                        func() time.Time { return now },
		RejectHashAlgorithms:        weak,
		RejectMessageHashAlgorithms: weak,
		MinRSABits:                  minRSA,
	}
}

// verify holds an OpenPGP signature against the keys. The library judges a key
// at the time that the signature states; the key has to be good now as well.
func (k keyring) verify(payload, armored []byte, now time.Time) (Signer, error) {
	raw, signature, err := parseOpenPGP(armored)
	if err != nil {
		return Signer{}, fmt.Errorf("%w: %w", snapshot.ErrCommitSignature, err)
	}
	id := *signature.IssuerKeyId
	entities := openpgp.EntityList(k).EntitiesById(id)
	if len(entities) == 0 {
		return Signer{}, fmt.Errorf("%w: OpenPGP key %016X is not in the keyring", snapshot.ErrCommitSigner, id)
	}
	entity := entities[0]
	// Of entities with one key ID only the first would be looked at.
	if made := signature.CreationTime; made.After(now) && !made.After(now.Add(snapshot.ClockSkew)) {
		now = made // by a clock that is a little ahead
	} else if made.After(now) {
		return Signer{}, fmt.Errorf("%w: it states that it was made at %s, and it is %s; compare the clocks", snapshot.ErrCommitSignature, made.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	config := strict(now)
	_, _, err = openpgp.VerifyDetachedSignature(openpgp.EntityList{entity}, bytes.NewReader(payload), bytes.NewReader(raw), config)
	if keyFault(err) {
		return Signer{}, fmt.Errorf("%w: OpenPGP key %016X: %w", snapshot.ErrCommitSigner, id, err)
	}
	if err != nil {
		return Signer{}, fmt.Errorf("%w: OpenPGP key %016X: %w", snapshot.ErrCommitSignature, id, err)
	}
	if _, err := entity.VerifyPrimaryKey(now, config); err != nil {
		return Signer{}, fmt.Errorf("%w: OpenPGP key %016X: its primary key: %w", snapshot.ErrCommitSigner, id, err)
	}
	key, ok := entity.SigningKeyById(now, id, config)
	if !ok {
		return Signer{}, fmt.Errorf("%w: OpenPGP key %016X is no valid signing key now: expired, revoked, too weak, or not made for signing", snapshot.ErrCommitSigner, id)
	}
	return Signer{Principal: userID(entity, now, config), Fingerprint: fmt.Sprintf("%X", key.PublicKey.Fingerprint)}, nil
}

// keyFault reports whether it is the key that does not count, and not the
// signature.
func keyFault(err error) bool {
	return errors.Is(err, pgperrors.ErrKeyRevoked) || errors.Is(err, pgperrors.ErrKeyExpired)
}

// parseOpenPGP reads one armored signature packet over bytes, and nothing else.
func parseOpenPGP(armored []byte) ([]byte, *packet.Signature, error) {
	if bytes.Count(armored, []byte("-----BEGIN ")) != 1 || !bytes.HasSuffix(armored, []byte("-----END PGP SIGNATURE-----")) {
		return nil, nil, errors.New("not one armored OpenPGP signature")
	}
	block, err := armor.Decode(bytes.NewReader(armored))
	if err != nil {
		return nil, nil, err
	}
	raw, err := io.ReadAll(block.Body)
	if err != nil {
		return nil, nil, err
	}
	rest := bytes.NewReader(raw)
	p, err := packet.Read(rest)
	if err != nil {
		return nil, nil, err
	}
	s, ok := p.(*packet.Signature)
	switch {
	case !ok || rest.Len() > 0:
		return nil, nil, errors.New("not one OpenPGP signature")
	case s.SigType != packet.SigTypeBinary:
		return nil, nil, fmt.Errorf("an OpenPGP signature of type %#x; only those over a document's bytes count", uint8(s.SigType))
	case s.IssuerKeyId == nil:
		return nil, nil, errors.New("an OpenPGP signature that names no key")
	}
	return raw, s, nil
}

// userID is how the key names its owner: its primary user ID, else its first.
func userID(e *openpgp.Entity, now time.Time, config *packet.Config) string {
	if _, identity := e.PrimaryIdentity(now, config); identity != nil {
		return printable(identity.Name)
	}
	for _, name := range slices.Sorted(maps.Keys(e.Identities)) {
		return printable(name)
	}
	return "unnamed"
}

// printable keeps what a key's owner has written from steering a terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, text)
}
