package snapshot

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
)

// Bounds of an envelope.
const (
	// MaxSignatures is how many signatures an envelope may carry.
	MaxSignatures = 64
	maxSignature  = 512       // bytes of one signature
	maxEnvelope   = 128 << 10 // bytes of its JSON
)

// envelope is a DSSE envelope around a statement:
// https://github.com/secure-systems-lab/dsse/blob/master/envelope.md
type envelope struct {
	raw        []byte // the JSON
	payload    []byte
	signatures []signature // by key ID, one for each
}

type signature struct {
	keyID string
	sig   []byte
}

var strictBase64 = base64.StdEncoding.Strict()

// message is what is signed: DSSE's pre-authentication encoding.
func (e envelope) message() []byte { return dsse.PAE(PayloadType, e.payload) }

// seal sorts the signatures and writes the JSON.
func (e envelope) seal() (envelope, error) {
	slices.SortFunc(e.signatures, func(a, b signature) int { return strings.Compare(a.keyID, b.keyID) })
	j := dsse.Envelope{
		PayloadType: PayloadType,
		Payload:     strictBase64.EncodeToString(e.payload),
		Signatures:  make([]dsse.Signature, 0, len(e.signatures)),
	}
	for _, s := range e.signatures {
		j.Signatures = append(j.Signatures, dsse.Signature{KeyID: s.keyID, Sig: strictBase64.EncodeToString(s.sig)})
	}
	raw, err := encodeJSON(j)
	e.raw = raw
	return e, err
}

// parseEnvelope accepts exactly what seal writes. It says nothing about who
// signed.
func parseEnvelope(raw []byte) (envelope, error) {
	if len(raw) > maxEnvelope {
		return envelope{}, fmt.Errorf("the envelope has %d bytes, at most %d", len(raw), maxEnvelope)
	}
	var j dsse.Envelope
	if err := decodeJSON(raw, &j); err != nil {
		return envelope{}, fmt.Errorf("the envelope: %w", err)
	}
	if n := len(j.Signatures); n > MaxSignatures {
		return envelope{}, fmt.Errorf("the envelope has %d signatures, at most %d", n, MaxSignatures)
	}
	payload, err := strictBase64.DecodeString(j.Payload)
	if err != nil {
		return envelope{}, fmt.Errorf("the envelope's payload: %w", err)
	}
	e := envelope{payload: payload}
	for i, s := range j.Signatures {
		sig, err := strictBase64.DecodeString(s.Sig)
		switch {
		case err != nil:
			return envelope{}, fmt.Errorf("signature %d of the envelope: %w", i+1, err)
		case len(sig) == 0 || len(sig) > maxSignature:
			return envelope{}, fmt.Errorf("signature %d of the envelope has %d bytes, at least 1 and at most %d", i+1, len(sig), maxSignature)
		case !isKeyID(s.KeyID):
			return envelope{}, fmt.Errorf("signature %d of the envelope: keyid %q is not 64 lower-case hexadecimal digits", i+1, clip(s.KeyID))
		case i > 0 && s.KeyID <= j.Signatures[i-1].KeyID:
			return envelope{}, fmt.Errorf("signature %d of the envelope: keyids must ascend, each once", i+1)
		}
		e.signatures = append(e.signatures, signature{keyID: s.KeyID, sig: sig})
	}
	if e, err = e.seal(); err != nil || !bytes.Equal(e.raw, raw) {
		return envelope{}, fmt.Errorf("the envelope's JSON is not in the one form that is written")
	}
	return e, nil
}

// with returns a copy of e that carries s as well, in place of an earlier
// signature by the same key.
func (e envelope) with(s signature) (envelope, error) {
	kept := slices.DeleteFunc(slices.Clone(e.signatures), func(o signature) bool { return o.keyID == s.keyID })
	if len(kept) >= MaxSignatures {
		return envelope{}, fmt.Errorf("the envelope has %d signatures already, which is the most it may have", len(kept))
	}
	e.signatures = append(kept, s)
	return e.seal()
}

// keyIDs lists who claims to have signed.
func (e envelope) keyIDs() []string {
	ids := make([]string, len(e.signatures))
	for i, s := range e.signatures {
		ids[i] = s.keyID
	}
	return ids
}

func isKeyID(s string) bool {
	return len(s) == 2*digestSize && strings.Trim(s, "0123456789abcdef") == ""
}
