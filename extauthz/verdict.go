package extauthz

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"slices"

	"meshseal/internal/memo"
	"meshseal/policies"
	"meshseal/request"
)

// verdict is what the policy step came to, for every request that is equal in
// what the policy reads: it holds nothing of the one that it was made for. It is
// never changed.
type verdict struct {
	allowed bool
	fault   *denial // why not; nil where it is allowed
	// document is what the policy said, as JSON; nil where it said nothing.
	document json.RawMessage
	// answer is the policy's own; nil for that of the fault.
	answer *answer
	shared bool // by many keys
}

// How many verdicts a plan remembers, by what one takes in bytes with its key. So
// a caller who makes keys long, or a policy with long answers, takes no more than
// some 140 MiB; what is larger is not remembered.
const (
	maxSmallVerdicts = 1 << 17
	smallVerdict     = 768
	maxLargeVerdicts = 1 << 12
	largeVerdict     = 8 << 10
)

// verdicts are those that a plan remembers.
type verdicts struct{ small, large *memo.Table[*verdict] }

func newVerdicts() verdicts {
	return verdicts{memo.New[*verdict](maxSmallVerdicts), memo.New[*verdict](maxLargeVerdicts)}
}

func (vs verdicts) get(key []byte) (*verdict, bool) {
	if v, ok := vs.small.Get(key); ok {
		return v, true
	}
	return vs.large.Get(key)
}

func (vs verdicts) put(key []byte, v *verdict) {
	switch size := len(key) + v.size(); {
	case size <= smallVerdict:
		vs.small.Put(key, v)
	case size <= largeVerdict:
		vs.large.Put(key, v)
	}
}

// size is what the verdict takes for itself, in bytes.
func (v *verdict) size() int {
	if v.shared {
		return 0
	}
	n := len(v.document)
	if v.answer != nil {
		n += len(v.answer.bytes)
	}
	if v.fault != nil {
		n += len(v.fault.detail)
	}
	return n
}

// policy is a program of a plan and what is the same for all of its verdicts.
type policy struct {
	*policies.Program
	number    int    // of the program in the plan
	entry     string // as OPA writes it: envoy/authz/allow
	cacheable bool
	// plain are the verdicts of a policy that says true or false and no more, of
	// the first by whether Envoy forwards the caller's certificates.
	plain struct {
		allow [2]*verdict
		deny  *verdict
	}
}

func newPolicy(p *policies.Program, entry string, number int) *policy {
	out := &policy{Program: p, entry: entry, number: number, cacheable: p.Cacheable() == nil}
	yes, no := policies.Result{Allowed: true, Document: true}, policies.Result{HTTPStatus: 403, Document: false}
	out.plain.allow = [2]*verdict{out.made(yes, false), out.made(yes, true)}
	out.plain.deny = out.made(no, false)
	for _, v := range []*verdict{out.plain.allow[0], out.plain.allow[1], out.plain.deny} {
		v.shared = true
	}
	return out
}

// key tells apart what the policy may answer differently; it is false where a
// verdict must not be remembered.
func (p *policy) key(dst []byte, r *request.Request, told *policies.Facts, certificate uint64, forwards bool) ([]byte, bool) {
	if !p.cacheable {
		return dst, false
	}
	dst = binary.BigEndian.AppendUint32(dst, uint32(p.number)<<1)
	if forwards {
		dst[3] |= 1
	}
	return p.AppendKey(dst, r, told, certificate)
}

// failed is the verdict of a policy that gives no decision.
func (p *policy) failed(d *denial) *verdict { return &verdict{fault: d} }

// verdict is that of a decision of the policy. With forwards, the header in which
// Envoy hands over the caller's certificates is taken off.
func (p *policy) verdict(r policies.Result, forwards bool) *verdict {
	switch r.Document {
	case true:
		if forwards {
			return p.plain.allow[1]
		}
		return p.plain.allow[0]
	case false:
		return p.plain.deny
	}
	return p.made(r, forwards)
}

func (p *policy) made(r policies.Result, forwards bool) *verdict {
	v := &verdict{allowed: r.Allowed}
	var err error
	if v.document, err = encodeDocument(r.Document); err != nil {
		return p.failed(deny(PolicyResult, "%v", err))
	}
	if err := checkEdits(r); err != nil {
		return &verdict{fault: deny(PolicyResult, "%v", err), document: v.document}
	}
	if r.Allowed {
		if forwards {
			r.RequestHeadersToRemove = append(slices.Clip(r.RequestHeadersToRemove), forwardedHeader)
		}
		v.answer, err = newAnswer(allowed(placeholder, r))
	} else {
		v.fault = deny(PolicyDenied, "%s", p.Entrypoint())
		v.answer, err = newAnswer(denied(placeholder, PolicyDenied, &r))
	}
	if err != nil {
		return &verdict{fault: deny(Internal, "%v", err), document: v.document}
	}
	return v
}

var errNoID = errors.New("the answer does not name its decision")

func encodeDocument(d any) (json.RawMessage, error) {
	data, err := json.Marshal(d)
	return escapeControls(data), err
}
