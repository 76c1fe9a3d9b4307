package snapshot

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// Payload returns the bytes of the statement that Sign with these options
// signs, for a tool that makes DSSE envelopes by itself. The type of the
// payload is PayloadType. The draft stays as it is: Attach takes the envelope.
func (d *Draft) Payload(opts SignOptions) ([]byte, error) {
	env, err := d.toSign(opts)
	if err != nil {
		return nil, err
	}
	return bytes.Clone(env.payload), nil
}

// Attach returns a draft that carries the signature of key out of a DSSE
// envelope that another tool made, in any form that DSSE v1 allows:
// https://github.com/secure-systems-lab/dsse/blob/master/envelope.md
//
// What was signed has to be what Payload returned: the statement that others
// signed already, or else, with opts.Renew too, the one that Sign would have
// issued at the time of issue that it names. It returns ErrEnvelope where the
// envelope is malformed or around something else, and ErrSignature where no
// signature in it is key's. The key IDs in the envelope are hints that decide
// nothing, so they are not looked at.
func (d *Draft) Attach(dsseEnvelope []byte, key PublicKey, opts SignOptions) (*Draft, error) {
	foreign, err := parseForeign(dsseEnvelope)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrEnvelope, err)
	}
	if key.Algorithm() == "" {
		return nil, fmt.Errorf("%w: it is empty", ErrKey)
	}
	message := envelope{payload: foreign.payload}.message()
	i := slices.IndexFunc(foreign.signatures, func(sig []byte) bool {
		return len(sig) <= maxSignature && key.verify(message, sig)
	})
	if i < 0 {
		return nil, fmt.Errorf("%w: none of the %d in the envelope is that of key %s", ErrSignature, len(foreign.signatures), key.ID())
	}
	env, err := d.around(foreign.payload, opts)
	if err != nil {
		return nil, err
	}
	if env, err = env.with(signature{keyID: key.ID(), sig: foreign.signatures[i]}); err != nil {
		return nil, err
	}
	f, err := decode(env, d.body)
	if err != nil {
		return nil, err
	}
	return &Draft{file: f}, nil
}

// around is the envelope that a signature of payload is added to.
func (d *Draft) around(payload []byte, opts SignOptions) (envelope, error) {
	if !opts.Renew && len(d.envelope.signatures) > 0 {
		if !bytes.Equal(payload, d.envelope.payload) {
			return envelope{}, fmt.Errorf("%w: it is around another statement than the one that others signed; export once and have everybody sign that, or begin anew with renewal", ErrEnvelope)
		}
		return d.envelope, d.checkCosign(opts)
	}
	st, err := parseStatement(payload)
	if err != nil {
		return envelope{}, err
	}
	if err := st.validAt(opts.Now); err != nil {
		return envelope{}, fmt.Errorf("%w; export again", err)
	}
	switch {
	case st.Issued.Before(d.statement.Issued):
		return envelope{}, fmt.Errorf("%w: its statement was issued at %s, before the one in the file of %s", ErrEnvelope, formatTime(st.Issued), formatTime(d.statement.Issued))
	case !opts.Previous.IsZero() && opts.Previous != st.Previous:
		return envelope{}, fmt.Errorf("%w: its statement follows %s, not %s", ErrEnvelope, st.Previous, opts.Previous)
	case !opts.Keys.IsZero() && !opts.Keys.Equal(st.Keys):
		return envelope{}, fmt.Errorf("%w: its statement declares the keys %v, not %v", ErrEnvelope, st.Keys.KeyIDs(), opts.Keys.KeyIDs())
	}
	opts.Renew, opts.Now, opts.Previous, opts.Keys = true, st.Issued, st.Previous, st.Keys
	env, err := d.toSign(opts)
	if err != nil {
		return envelope{}, err
	}
	if !bytes.Equal(payload, env.payload) {
		return envelope{}, fmt.Errorf("%w: it is not around the statement of this snapshot, %s", ErrEnvelope, d.Root())
	}
	return env, nil
}

// foreignEnvelope is an envelope that another tool wrote.
type foreignEnvelope struct {
	payload    []byte
	signatures [][]byte
}

// parseForeign reads the JSON of a DSSE v1 envelope: keys in any order, fields
// that it does not know, white space. Where two readers could read two things,
// it refuses.
func parseForeign(data []byte) (foreignEnvelope, error) {
	if len(data) > maxEnvelope {
		return foreignEnvelope{}, fmt.Errorf("%d bytes, at most %d", len(data), maxEnvelope)
	}
	if !utf8.Valid(data) || !json.Valid(data) {
		return foreignEnvelope{}, errors.New("it is not JSON")
	}
	fields, err := members(data)
	if err != nil {
		return foreignEnvelope{}, err
	}
	kind, err := textOf(fields, "payloadType")
	if err != nil {
		return foreignEnvelope{}, err
	}
	if kind != PayloadType {
		return foreignEnvelope{}, fmt.Errorf("payloadType is %q; a statement has %q", clip(kind), PayloadType)
	}
	var e foreignEnvelope
	if e.payload, err = bytesOf(fields, "payload"); err != nil {
		return foreignEnvelope{}, err
	}
	var list []json.RawMessage
	if err := json.Unmarshal(fields["signatures"], &list); err != nil {
		return foreignEnvelope{}, errors.New("signatures is not a list")
	}
	if len(list) == 0 || len(list) > MaxSignatures {
		return foreignEnvelope{}, fmt.Errorf("%d signatures, at least 1 and at most %d", len(list), MaxSignatures)
	}
	for i, raw := range list {
		fields, err := members(raw)
		if err != nil {
			return foreignEnvelope{}, fmt.Errorf("signature %d: %w", i+1, err)
		}
		sig, err := bytesOf(fields, "sig")
		if err != nil {
			return foreignEnvelope{}, fmt.Errorf("signature %d: %w", i+1, err)
		}
		e.signatures = append(e.signatures, sig)
	}
	return e, nil
}

// members reads one JSON object and nothing behind it, with keys exactly as
// they are written, each once.
func members(data []byte) (map[string]json.RawMessage, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	if open, err := d.Token(); err != nil || open != json.Delim('{') {
		return nil, errors.New("it is not a JSON object")
	}
	fields := map[string]json.RawMessage{}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, err
		}
		name, _ := key.(string)
		if _, twice := fields[name]; twice {
			return nil, fmt.Errorf("the key %q is there twice", clip(name))
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, err
		}
		fields[name] = value
	}
	if _, err := d.Token(); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the JSON object")
	}
	return fields, nil
}

func textOf(fields map[string]json.RawMessage, name string) (string, error) {
	var s *string
	if err := json.Unmarshal(fields[name], &s); err != nil || s == nil {
		return "", fmt.Errorf("%s is missing or is not a text", name)
	}
	return *s, nil
}

// bytesOf reads base64 in the standard or the URL-safe alphabet, with or
// without padding, the unused bits zero and no line breaks.
func bytesOf(fields map[string]json.RawMessage, name string) ([]byte, error) {
	s, err := textOf(fields, name)
	if err != nil {
		return nil, err
	}
	if strings.ContainsAny(s, "\r\n") {
		return nil, fmt.Errorf("%s: a line break in base64", name)
	}
	encoding := base64.RawStdEncoding
	if strings.ContainsAny(s, "-_") {
		encoding = base64.RawURLEncoding
	}
	if len(s)%4 == 0 {
		s = strings.TrimSuffix(strings.TrimSuffix(s, "="), "=")
	}
	data, err := encoding.Strict().DecodeString(s)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return data, nil
}
