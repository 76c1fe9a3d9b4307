package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"meshseal/snapshot"
)

// signing is what the flags of sign say.
type signing struct {
	key, signer, public, attach, export string // one of key, signer, attach and export
	signerArgs                          []string
	timeout                             time.Duration
	previous                            string
	declare                             []string // files with public keys
	threshold                           int
	renew                               bool
}

func signCommand() *cobra.Command {
	s := &signing{}
	c := &cobra.Command{
		Use:   "sign (--key KEY | --signer PROGRAM --public PUB | --export PAYLOAD | --attach ENVELOPE --public PUB) FILE",
		Short: "Sign a snapshot in place, with a key in a file or elsewhere",
		Long: `Sign the snapshot FILE in place. The first signature issues the statement and
starts its lifetime; further signers add theirs to the same statement. --renew
issues a new statement for the same root, with only this signature.

The key is in a file (--key), or a program signs (--signer), or another in-toto
tool does: --export writes the statement for it, --attach takes the DSSE
envelope that it made. docs/signing.md is the contract with both, and says how
keys are replaced (--declare-key).`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return s.run(c, args[0]) },
	}
	f := c.Flags()
	f.StringVar(&s.key, "key", "", "file with the private key (meshseal keygen)")
	f.StringVar(&s.signer, "signer", "", "program that signs: the bytes on its standard input, the raw signature on its standard output")
	f.StringArrayVar(&s.signerArgs, "signer-arg", nil, "argument of the program; may be given several times")
	f.DurationVar(&s.timeout, "signer-timeout", defaultSignTimeout, "how long the program may take")
	f.StringVar(&s.public, "public", "", "file with the public key that the signature is verified with (--signer, --attach)")
	f.StringVar(&s.export, "export", "", "write the statement to this file, for another tool to sign; FILE stays as it is")
	f.StringVar(&s.attach, "attach", "", "DSSE envelope around the exported statement, made by another tool")
	f.BoolVar(&s.renew, "renew", false, "issue a new statement for the same root")
	f.StringVar(&s.previous, "previous", "", "the snapshot file that this one follows; its root is named in the statement")
	f.StringArrayVar(&s.declare, "declare-key", nil, "public key of the set that counts from this statement on; may be given several times")
	f.IntVar(&s.threshold, "declare-threshold", 0, "how many keys of that set must sign")
	c.MarkFlagsOneRequired("key", "signer", "export", "attach")
	c.MarkFlagsMutuallyExclusive("key", "signer", "export", "attach")
	c.MarkFlagsRequiredTogether("declare-key", "declare-threshold")
	return c
}

// check refuses flags that do not go together.
func (s *signing) check() error {
	switch {
	case (s.signer != "" || s.attach != "") != (s.public != ""):
		return errors.New("--public goes with --signer and with --attach, and they with it: a signature that comes from elsewhere is verified before it is written")
	case s.signer == "" && len(s.signerArgs) > 0:
		return errors.New("--signer-arg goes with --signer")
	case s.signer == "" && s.timeout != defaultSignTimeout:
		return errors.New("--signer-timeout goes with --signer")
	case s.timeout <= 0 || s.timeout > maxSignTimeout:
		return fmt.Errorf("--signer-timeout: above 0, up to %v", maxSignTimeout)
	}
	return nil
}

func (s *signing) run(c *cobra.Command, file string) error {
	if err := s.check(); err != nil {
		return err
	}
	draft, err := readDraft(file)
	if err != nil {
		return err
	}
	opts, err := s.options(time.Now())
	if err != nil {
		return err
	}
	if s.export != "" {
		return s.writePayload(c, draft, opts)
	}
	signed, by, err := s.sign(c, draft, opts)
	if err != nil {
		return err
	}
	if err := replace(file, draft.Bytes(), signed.Bytes()); err != nil {
		return err
	}
	fmt.Fprintf(c.ErrOrStderr(), "signed %s by key %s; valid until %s\n", signed.Root(), by.ID(), signed.Statement().Expires.Format(time.RFC3339))
	return nil
}

func (s *signing) options(now time.Time) (snapshot.SignOptions, error) {
	opts := snapshot.SignOptions{Now: now, Renew: s.renew}
	if s.previous != "" {
		before, err := readDraft(s.previous)
		if err != nil {
			return opts, err
		}
		opts.Previous = before.Root()
	}
	if len(s.declare) > 0 {
		keys, err := readTrust(s.declare, s.threshold)
		if err != nil {
			return opts, fmt.Errorf("--declare-key: %w", err)
		}
		opts.Keys = keys
	}
	return opts, nil
}

// sign returns the draft with one more signature, and the key that it is by.
func (s *signing) sign(c *cobra.Command, draft *snapshot.Draft, opts snapshot.SignOptions) (*snapshot.Draft, snapshot.PublicKey, error) {
	if s.key != "" {
		key, err := snapshot.ReadPrivateKey(s.key)
		if err != nil {
			return nil, snapshot.PublicKey{}, err
		}
		signed, err := draft.Sign(key, opts)
		return signed, key.Public(), err
	}
	public, err := snapshot.ReadPublicKey(s.public)
	if err != nil {
		return nil, public, err
	}
	if s.attach != "" {
		envelope, err := readBounded(s.attach, maxEnvelopeFile)
		if err != nil {
			return nil, public, err
		}
		signed, err := draft.Attach(envelope, public, opts)
		if err != nil {
			return nil, public, finding(fmt.Errorf("%s: %s: %w", s.attach, snapshot.Code(err), err))
		}
		return signed, public, nil
	}
	signer, err := newExternalSigner(c.Context(), append([]string{s.signer}, s.signerArgs...), public, s.timeout, c.ErrOrStderr())
	if err != nil {
		return nil, public, err
	}
	signed, err := draft.Sign(signer, opts)
	return signed, public, err
}

// maxEnvelopeFile is above any envelope that is accepted.
const maxEnvelopeFile = 1 << 20

// writePayload writes the statement's bytes for another tool.
func (s *signing) writePayload(c *cobra.Command, draft *snapshot.Draft, opts snapshot.SignOptions) error {
	payload, err := draft.Payload(opts)
	if err != nil {
		return err
	}
	if err := writeFile(s.export, payload, 0o644); err != nil {
		return err
	}
	fmt.Fprintf(c.ErrOrStderr(), "wrote the statement of %s to %s; sign it as DSSE payload of type %s and give the envelope to --attach\n", draft.Root(), s.export, snapshot.PayloadType)
	return nil
}

// replace writes a file that still is what it was when it was read: a signer
// may have taken minutes, and another signature may have been added meanwhile.
func replace(file string, before, after []byte) error {
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	now, err := snapshot.ReadFile(file)
	if err != nil {
		return err
	}
	if !bytes.Equal(before, now) {
		return fmt.Errorf("%s changed while it was being signed; nothing was written, sign again", filepath.Base(file))
	}
	return writeFile(file, after, info.Mode().Perm())
}
