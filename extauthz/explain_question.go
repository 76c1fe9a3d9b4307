package extauthz

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"meshseal/identity"
	"meshseal/policies"
)

// Question is a request or a connection that is decided away from the Envoy that
// carried it: one of a record, or one described by hand. Who asked and who
// called is taken as it says.
type Question struct {
	At time.Time
	// Proxy is the Envoy that asks, by its name in the mesh repository, or by
	// ProxySVID, the whole SPIFFE ID of its certificate; without that it asks
	// through its Unix socket.
	Proxy, ProxySVID string
	// Caller is the whole SPIFFE ID of who calls; it is not used for an outbound
	// request, whose caller is the unit of the proxy. CallerCertificate, as Envoy
	// hands it over, is verified in its place.
	Caller, CallerCertificate string
	// Agreed are the further kinds of evidence that said what the SPIFFE ID says.
	Agreed []identity.EvidenceKind

	// What carried it, by names. A chain may be empty where the listener has only
	// one, a route where it is the one that takes the request, and a cluster.
	Listener, Chain, Route, Cluster string
	// Local is the address at which the connection came in, as Envoy writes it;
	// empty for one of the listener's.
	Local string

	Request *authv3.CheckRequest
	// Unknown are the parts of the policy's input of which only is known that
	// they were there, as paths: attributes, source, certificate.
	Unknown [][]string

	recorded *Record
}

// ErrNoQuestion: the record has nothing that could be decided again.
var ErrNoQuestion = errors.New("the record has no request: nothing of it was looked at")

// QuestionOf is the question of a record.
func QuestionOf(r Record) (Question, error) {
	if len(r.Input) == 0 {
		return Question{}, ErrNoQuestion
	}
	m, err := policies.Recorded(r.Input)
	if err != nil {
		return Question{}, fmt.Errorf("record of decision %s: %w", r.DecisionID, err)
	}
	f := r.Meshseal.Facts
	q := Question{
		At: r.Timestamp, Proxy: f.Proxy, Caller: f.SPIFFEID,
		Listener: f.Listener, Chain: f.Chain, Cluster: f.Cluster, Request: m, recorded: &r,
	}
	if strings.HasPrefix(r.RequestedBy, "spiffe://") {
		q.ProxySVID = r.RequestedBy
	}
	for _, kind := range f.EvidenceAgreed {
		q.Agreed = append(q.Agreed, identity.EvidenceKind(kind))
	}
	if q.Caller, err = whole(f.SPIFFEID, f.Digest); err != nil {
		return Question{}, fmt.Errorf("record of decision %s: %w", r.DecisionID, err)
	}
	if q.Unknown, err = leftOut(r.Erased); err != nil {
		return Question{}, fmt.Errorf("record of decision %s: %w", r.DecisionID, err)
	}
	return q, nil
}

// whole is the SPIFFE ID with the digest that was proven; unproven ones are not
// in it.
func whole(id, digest string) (string, error) {
	if id == "" || digest == "" || digest == digestUnproven {
		return id, nil
	}
	base, err := identity.ParseBaseID(id)
	if err != nil {
		return "", err
	}
	d, err := identity.ParseDigest(digest)
	if err != nil {
		return "", err
	}
	full, err := identity.WithDigest(base, d)
	return full.String(), err
}

// leftOut are the paths of JSON pointers (RFC 6901) below /input. Whether a body
// was cut off is unknown with the body.
func leftOut(erased json.RawMessage) ([][]string, error) {
	var pointers []string
	if len(erased) > 0 {
		if err := json.Unmarshal(erased, &pointers); err != nil {
			return nil, fmt.Errorf("erased: %w", err)
		}
	}
	var out [][]string
	for _, p := range pointers {
		rest, ok := strings.CutPrefix(p, "/input/")
		if !ok {
			return nil, fmt.Errorf("erased: %q does not point into the input", p)
		}
		path := strings.Split(rest, "/")
		for i := range path {
			path[i] = strings.NewReplacer("~1", "/", "~0", "~").Replace(path[i])
		}
		if out = append(out, path); slices.Equal(path, parsedBody) {
			out = append(out, []string{"truncated_body"})
		}
	}
	return out, nil
}

var (
	parsedBody        = []string{"parsed_body"}
	sourceCertificate = []string{"attributes", "source", "certificate"}
)

func (q *Question) isUnknown(path []string) bool {
	return slices.ContainsFunc(q.Unknown, func(u []string) bool { return slices.Equal(u, path) })
}

func headerPath(name string) []string {
	return []string{"attributes", "request", "http", "headers", name}
}

// repeatable reports whether a recorded reason follows from the snapshot and
// from what a record holds. The others came from what it does not hold: the
// certificates, the marks, the moment.
func (r *Record) repeatable() bool {
	switch r.Meshseal.Reason {
	case DigestRevoked:
		return r.Meshseal.Digest != "" // else it stood in the certificate's extension
	case ProxyUnknown:
		return strings.HasPrefix(r.RequestedBy, "spiffe://")
	case OK, ProxyDigestMissing, ProxyDigestNotAllowed,
		EvidenceMissing, EvidenceUnprovenEnded, WorkloadUnknown, DigestNotAllowed,
		PolicyDenied, PolicyUndefined, PolicyResult, PolicyError:
		return true
	}
	return false
}

// idOf reads a SPIFFE ID of a question.
func idOf(what, text string) (spiffeid.ID, error) {
	id, err := identity.ParseID(text)
	if err != nil {
		return spiffeid.ID{}, fmt.Errorf("%s: %w", what, err)
	}
	return id, nil
}
