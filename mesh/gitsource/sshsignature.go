package gitsource

import (
	"bytes"
	"crypto/rsa"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"

	"meshseal/snapshot"
)

// minRSA is the shortest RSA key whose signatures count, bits.
const minRSA = 2048

// checkSSHKey refuses keys that are too weak, or no keys of a signer.
func checkSSHKey(key ssh.PublicKey) error {
	switch key.Type() {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521,
		ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256:
		return nil
	case ssh.KeyAlgoRSA:
		if k, ok := key.(ssh.CryptoPublicKey); ok {
			if r, ok := k.CryptoPublicKey().(*rsa.PublicKey); ok && r.N.BitLen() >= minRSA {
				return nil
			}
		}
		return fmt.Errorf("an RSA key of less than %d bits", minRSA)
	}
	if strings.Contains(key.Type(), "-cert-v01@") {
		return errors.New("a certificate is not supported; list and use the key itself")
	}
	return fmt.Errorf("keys of the type %q do not count", key.Type())
}

// verifySSH holds an SSH signature against the lines of the list:
// https://github.com/openssh/openssh-portable/blob/master/PROTOCOL.sshsig
func verifySSH(allowed []allowedSigner, payload, armored []byte, now time.Time) (Signer, error) {
	signature, err := parseSSHSignature(armored)
	if err != nil {
		return Signer{}, fmt.Errorf("%w: %w", snapshot.ErrCommitSignature, err)
	}
	fingerprint := ssh.FingerprintSHA256(signature.PublicKey)
	var line *allowedSigner
	var why error
	for i := range allowed {
		if !bytes.Equal(allowed[i].key.Marshal(), signature.PublicKey.Marshal()) {
			continue
		}
		if why = allowed[i].validFor(now); why == nil {
			line = &allowed[i]
			break
		}
	}
	switch {
	case line == nil && why != nil:
		return Signer{}, fmt.Errorf("%w: SSH key %s: %w", snapshot.ErrCommitSigner, fingerprint, why)
	case line == nil:
		return Signer{}, fmt.Errorf("%w: SSH key %s is in no line of the allowed signers", snapshot.ErrCommitSigner, fingerprint)
	}
	if err := sshsig.Verify(bytes.NewReader(payload), signature, line.key, signature.HashAlgorithm, gitNamespace); err != nil {
		return Signer{}, fmt.Errorf("%w: SSH key %s: %w", snapshot.ErrCommitSignature, fingerprint, err)
	}
	return Signer{Principal: line.principals, Fingerprint: fingerprint}, nil
}

// parseSSHSignature reads one armored signature and nothing else.
func parseSSHSignature(armored []byte) (*sshsig.Signature, error) {
	block, rest := pem.Decode(armored)
	if block == nil || len(bytes.TrimSpace(rest)) > 0 || len(block.Headers) > 0 || bytes.Count(armored, []byte("-----BEGIN ")) != 1 {
		return nil, errors.New("not one armored SSH signature")
	}
	if err := checkArmor(armored); err != nil {
		return nil, err
	}
	s, err := sshsig.Unarmor(armored)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(s.Marshal(), block.Bytes) {
		return nil, errors.New("the SSH signature is not in canonical form")
	}
	// sshsig refuses RSA with SHA-1.
	return s, checkSSHKey(s.PublicKey)
}

// checkArmor refuses what PEM's decoder looks over: white space in lines, lines
// of several lengths, and bits that base64 has to spare at the end. With them
// one signature would fit several commits.
func checkArmor(armored []byte) error {
	lines := strings.Split(strings.TrimSuffix(string(armored), "\n"), "\n")
	if len(lines) < 3 || bytes.ContainsAny(armored, "\t\r") {
		return errors.New("the armor of the SSH signature is empty, or has tabs or carriage returns")
	}
	body := lines[1 : len(lines)-1]
	for i, line := range body {
		if last := i == len(body)-1; line == "" || len(line) > len(body[0]) || !last && len(line) != len(body[0]) {
			return errors.New("the lines of the SSH signature's armor have several lengths")
		}
	}
	if _, err := base64.StdEncoding.Strict().DecodeString(strings.Join(body, "")); err != nil {
		return fmt.Errorf("the armor of the SSH signature: %w", err)
	}
	return nil
}
