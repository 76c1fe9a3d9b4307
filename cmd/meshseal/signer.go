package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"meshseal/snapshot"
)

// signingConfig is the key that a server with a git source signs with: Key, or
// Signer with Public.
type signingConfig struct {
	Key string `yaml:"key"` // file with a private key
	// Signer is a program and its arguments, by the contract of
	// docs/signing.md. No shell is between.
	Signer []string `yaml:"signer"`
	Public string   `yaml:"public"` // file with the public key that the program signs for
	// Timeout is how long one signature may take; 30s if unset.
	Timeout time.Duration `yaml:"timeout"`
	// Retiring is a file with the private key that this one takes the place of;
	// docs/serve.md says how a key is changed.
	Retiring string `yaml:"retiring"`
}

// The time that an external program has for one signature.
const (
	defaultSignTimeout = 30 * time.Second
	maxSignTimeout     = 10 * time.Minute
)

// check says what is wrong with the signing settings of a server that signs.
func (c signingConfig) check() error {
	switch {
	case (c.Key != "") == (len(c.Signer) > 0):
		return errors.New("signing: a git source is signed by this server; name exactly one of signing.key (meshseal keygen makes one) and signing.signer (a program that signs, see docs/signing.md)")
	case (len(c.Signer) > 0) != (c.Public != ""):
		return errors.New("signing: signer and public go together: what the program returns is verified with that public key")
	case c.Key != "" && c.Timeout != 0:
		return errors.New("signing.timeout: only a program that signs, signing.signer, has one; remove timeout")
	case c.Timeout < 0 || c.Timeout > maxSignTimeout:
		return fmt.Errorf("signing.timeout: up to %v", maxSignTimeout)
	}
	return nil
}

// isZero reports whether nothing is said about signing.
func (c signingConfig) isZero() bool {
	return c.Key == "" && len(c.Signer) == 0 && c.Public == "" && c.Timeout == 0 && c.Retiring == ""
}

// openSigner returns the signer of a server. Until ctx ends a program may be
// started for a signature; what it writes to standard error goes to stderr.
func openSigner(ctx context.Context, c signingConfig, stderr io.Writer) (snapshot.Signer, error) {
	if c.Key != "" {
		return snapshot.ReadPrivateKey(c.Key)
	}
	public, err := snapshot.ReadPublicKey(c.Public)
	if err != nil {
		return nil, err
	}
	s, err := newExternalSigner(ctx, c.Signer, public, c.Timeout, stderr)
	if err != nil {
		return nil, err
	}
	s.own = true
	return s, nil
}

// externalSigner signs with a key that only another program can use: a KMS, a
// hardware key. docs/signing.md is the contract with that program.
type externalSigner struct {
	ctx     context.Context // ends what runs
	command []string        // a program's path and its arguments
	public  snapshot.PublicKey
	timeout time.Duration
	stderr  io.Writer
	// own puts the program into a process group of its own, so that all it
	// started ends with it. A program that asks for a PIN cannot read the
	// terminal then.
	own bool
}

func newExternalSigner(ctx context.Context, command []string, public snapshot.PublicKey, timeout time.Duration, stderr io.Writer) (*externalSigner, error) {
	if len(command) == 0 || command[0] == "" {
		return nil, errors.New("the signer has no program")
	}
	path, err := exec.LookPath(command[0])
	if err != nil {
		return nil, fmt.Errorf("the signer: %w", err)
	}
	if timeout == 0 {
		timeout = defaultSignTimeout
	}
	return &externalSigner{
		ctx: ctx, command: append([]string{path}, command[1:]...), public: public, timeout: timeout, stderr: stderr,
	}, nil
}

// Public is the key that the program's signatures have to verify with.
func (s *externalSigner) Public() snapshot.PublicKey { return s.public }

// Sign runs the program once. What it returns is not verified here; the caller
// does that before it uses it.
func (s *externalSigner) Sign(message []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(s.ctx, s.timeout)
	defer cancel()
	out := &bounded{limit: maxSignatureOutput, full: cancel}
	cmd := exec.CommandContext(ctx, s.command[0], s.command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(message), out, s.stderr
	sum := sha256.Sum256(message)
	cmd.Env = append(os.Environ(),
		"MESHSEAL_SIGN_VERSION=1",
		"MESHSEAL_SIGN_ALGORITHM="+string(s.public.Algorithm()),
		"MESHSEAL_SIGN_KEYID="+s.public.ID(),
		"MESHSEAL_SIGN_SHA256="+hex.EncodeToString(sum[:]),
	)
	// A child of the program that holds its output open is not waited for.
	cmd.WaitDelay = time.Second
	if s.own {
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	}
	err := cmd.Run()
	switch {
	case out.over:
		return nil, fmt.Errorf("the signer %s wrote more than %d bytes; a signature and nothing else is what it writes", s.command[0], maxSignatureOutput)
	case s.ctx.Err() != nil:
		return nil, fmt.Errorf("the signer %s was ended: %w", s.command[0], s.ctx.Err())
	case ctx.Err() != nil:
		return nil, fmt.Errorf("the signer %s did not sign within %v and was ended", s.command[0], s.timeout)
	case err != nil:
		return nil, fmt.Errorf("the signer %s: %w", s.command[0], err)
	}
	return out.data, checkForm(s.public.Algorithm(), out.data)
}

// checkForm finds the usual mistakes of a signer and names them; whether the
// signature is good is for the verifier.
func checkForm(a snapshot.Algorithm, sig []byte) error {
	const ed25519Size, derSequence = 64, 0x30
	switch {
	case len(sig) == 0:
		return errors.New("the signer wrote no signature")
	case a == snapshot.Ed25519 && len(sig) != ed25519Size:
		return fmt.Errorf("the signer wrote %d bytes, and an Ed25519 signature has %d; it is written raw, not in base64 and with no newline behind it", len(sig), ed25519Size)
	case a == snapshot.ECDSAP256 && sig[0] != derSequence:
		return errors.New("the signer wrote no ASN.1 DER; an ECDSA signature is written as DER, not as r||s, not in base64")
	}
	return nil
}

// maxSignatureOutput is far above a signature of any algorithm known here, in
// bytes.
const maxSignatureOutput = 512

// bounded keeps what is written to it up to a limit, and calls full when there
// is more.
type bounded struct {
	data  []byte
	limit int
	over  bool
	full  func()
}

func (b *bounded) Write(p []byte) (int, error) {
	if len(b.data)+len(p) > b.limit {
		b.over = true
		b.full()
		return 0, errors.New("too much output")
	}
	b.data = append(b.data, p...)
	return len(p), nil
}
