package extauthz

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"

	"meshseal/identity"
	"meshseal/internal/grpcpeer"
	"meshseal/snapshot"
)

// Explainer decides about questions as a server would in which one snapshot is
// in force, by the same code, and tells how each decision came about. It trusts
// nobody and is trusted by nobody: what it says about who asked and who called
// is what the question says. It is for one goroutine.
type Explainer struct {
	server *Server
	plan   *Plan
	issuer *issuer
	now    Question // of the moment
	asked  map[identity.EvidenceKind]bool
}

// ExplainConfig is what an Explainer may know beside the snapshot.
type ExplainConfig struct {
	// Authorities are trust bundles, for questions that come with a certificate;
	// they are told apart from the SPIFFE IDs that are taken as stated.
	Authorities map[spiffeid.TrustDomain][]*x509.Certificate
	// AnyTime does not look at when the statement of the snapshot ends. That of
	// an unsigned snapshot never does.
	AnyTime bool
}

// NewExplainer prepares a snapshot. Nothing about its signatures is judged: that
// is for the caller. An error means that nothing could be decided by it.
func NewExplainer(d *snapshot.Draft, c ExplainConfig) (*Explainer, error) {
	x := &Explainer{asked: map[identity.EvidenceKind]bool{}}
	var err error
	if x.issuer, err = newIssuer(c.Authorities); err != nil {
		return nil, err
	}
	x.server, err = New(Config{
		Bundles: func() *identity.TrustBundles { return x.issuer.bundles },
		Now:     func() time.Time { return x.now.At },
		Records: NewLines(io.Discard),
	})
	if err != nil {
		return nil, err
	}
	snap, err := sealed(d)
	if err != nil {
		return nil, err
	}
	if x.plan, err = x.server.Prepare(snap); err != nil {
		return nil, err
	}
	x.plan.standIns(&x.now, x.asked)
	x.plan.statement = d.Statement()
	if c.AnyTime || x.plan.statement.Expires.IsZero() {
		x.plan.statement.Expires = issuedUntil
	}
	x.server.Adopt(x.plan)
	return x, nil
}

// Explain decides about one question. An error means that the question makes no
// sense: a SPIFFE ID that is none, no request.
func (x *Explainer) Explain(ctx context.Context, q Question) (Explanation, error) {
	return x.explain(ctx, q, true)
}

// explain names the rules only if it is asked to: following an evaluation costs
// many times the evaluation.
func (x *Explainer) explain(ctx context.Context, q Question, rules bool) (Explanation, error) {
	if q.Request.GetAttributes() == nil {
		return Explanation{}, errors.New("there is no request")
	}
	q.Request = proto.CloneOf(q.Request)
	x.now = q
	clear(x.asked)
	ctx, index, err := x.connection(ctx, &q)
	if err != nil {
		return Explanation{}, err
	}
	if err := x.caller(&q); err != nil {
		return Explanation{}, err
	}
	by := carry(index, &q)
	if q.Caller == "" && q.isUnknown(sourceCertificate) {
		by.lacks[PeerCertificateMissing] = "who called is not known"
	}
	r := x.run(ctx, &q, by)
	if r.decision.Step() == StepPolicy {
		r.alternatives(ctx, x, by)
		r.ask(ctx, rules)
	}
	return r.explanation(), nil
}

// connection is a context as that of a gRPC call of the proxy, and the proxy.
func (x *Explainer) connection(ctx context.Context, q *Question) (context.Context, *index, error) {
	known := x.plan.proxies[q.Proxy]
	if q.ProxySVID == "" {
		if q.Proxy == "" {
			return ctx, nil, nil
		}
		_, info, err := grpcpeer.SocketCredentials(q.Proxy).ServerHandshake(unixConn{})
		return peer.NewContext(ctx, &peer.Peer{AuthInfo: info}), known, err
	}
	id, err := idOf("the proxy's SVID", q.ProxySVID)
	if err != nil {
		return ctx, nil, err
	}
	leaf, err := x.issuer.leaf(id)
	if err != nil {
		return ctx, nil, err
	}
	base, _, err := identity.Split(id)
	if errors.Is(err, identity.ErrNoDigest) {
		base = id
	}
	if p, ok := x.plan.snapshot.ProxyByID(base); ok {
		known = x.plan.proxies[p.Name]
	}
	info := credentials.TLSInfo{
		State:          tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}},
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
	}
	return peer.NewContext(ctx, &peer.Peer{AuthInfo: info}), known, nil
}

// caller hands over a certificate of the caller: that of the question, or one
// that stands in for it. A policy that reads it reads what is not known.
func (x *Explainer) caller(q *Question) error {
	a := q.Request.GetAttributes()
	if q.CallerCertificate != "" {
		a.Source = orNew(a.Source)
		a.Source.Certificate = q.CallerCertificate
		return nil
	}
	if q.Caller == "" {
		return nil
	}
	id, err := idOf("the caller", q.Caller)
	if err != nil {
		return err
	}
	leaf, err := x.issuer.leaf(id)
	if err != nil {
		return err
	}
	// A record that does not name it as left out is of a connection without one.
	if q.recorded != nil && !q.isUnknown(sourceCertificate) {
		return nil
	}
	a.Source = orNew(a.Source)
	a.Source.Certificate = handedOver(leaf)
	if !q.isUnknown(sourceCertificate) {
		q.Unknown = append(slices.Clip(q.Unknown), sourceCertificate)
	}
	return nil
}

func orNew[T any](p *T) *T {
	if p == nil {
		return new(T)
	}
	return p
}
