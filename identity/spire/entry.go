package spire

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"

	"meshseal/identity"
)

// Selector is one property of a process or pod, as SPIRE's attestors state it:
// type "unix" and value "uid:1000" for "unix:uid:1000".
type Selector struct{ Type, Value string }

// String is the form of SPIRE's own command line.
func (s Selector) String() string { return s.Type + ":" + s.Value }

// Compare orders selectors by type, then value.
func (s Selector) Compare(o Selector) int {
	return cmp.Or(cmp.Compare(s.Type, o.Type), cmp.Compare(s.Value, o.Value))
}

// Entry is a registration entry of a SPIRE server: whoever has all the
// selectors, on a node with the parent's ID, gets an SVID for the SPIFFE ID.
// The field names are those of SPIRE's API, spire.api.types.Entry.
type Entry struct {
	// ID names the entry. Whoever creates it may choose it: 1 to 255 of A-Z, a-z,
	// 0-9, '.', '-', '_'.
	ID            string
	SPIFFEID      spiffeid.ID
	ParentID      spiffeid.ID
	Selectors     []Selector             // sorted
	FederatesWith []spiffeid.TrustDomain // sorted
	// X509TTL and JWTTTL are whole seconds; 0 leaves them to the server.
	X509TTL, JWTTTL time.Duration
	Expires         time.Time // the zero time: never
	Admin           bool      // its holder may use the server's API
	Downstream      bool      // its holder is a SPIRE server below this one
	StoreSVID       bool
	NoPrefetch      bool // disable_x509_svid_prefetch
	JTI             bool // jwt_svid_include_jti
	DNSNames        []string
	Hint            string
}

// Digest is the SHA-256 of all that the entry says, its own ID aside: two
// entries have the same one exactly if they do the same. Each text and each
// list is written with its length, so that no two entries share their bytes.
func (e Entry) Digest() identity.Digest {
	var b strings.Builder
	text := func(s string) { fmt.Fprintf(&b, "%d:%s", len(s), s) }
	text("meshseal registration entry v1")
	text(e.SPIFFEID.String())
	text(e.ParentID.String())
	fmt.Fprintf(&b, "%d;", len(e.Selectors))
	for _, s := range e.Selectors {
		text(s.Type)
		text(s.Value)
	}
	fmt.Fprintf(&b, "%d;", len(e.FederatesWith))
	for _, td := range e.FederatesWith {
		text(td.Name())
	}
	expires := int64(0)
	if !e.Expires.IsZero() {
		expires = e.Expires.Unix()
	}
	fmt.Fprintf(&b, "%d;%d;%d;%t;%t;%t;%t;%t;", seconds(e.X509TTL), seconds(e.JWTTTL), expires,
		e.Admin, e.Downstream, e.StoreSVID, e.NoPrefetch, e.JTI)
	fmt.Fprintf(&b, "%d;", len(e.DNSNames))
	for _, n := range e.DNSNames {
		text(n)
	}
	text(e.Hint)
	return identity.SumDigest([]byte(b.String()))
}

// Place is what a SPIRE server holds once only: it answers ALREADY_EXISTS for a
// second entry with the same parent, SPIFFE ID and selectors, whatever else it
// says.
func (e Entry) Place() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%q %q", e.ParentID, e.SPIFFEID)
	for i, s := range e.Selectors {
		if i == 0 || s != e.Selectors[i-1] { // the server compares sets
			fmt.Fprintf(&b, " %q", s)
		}
	}
	return b.String()
}

// ExpiredAt reports whether the server issues nothing on the entry any more.
func (e Entry) ExpiredAt(now time.Time) bool {
	return !e.Expires.IsZero() && !now.Before(e.Expires)
}

func seconds(d time.Duration) int64 { return int64(d / time.Second) }

// toProto writes the message of SPIRE's API.
func (e Entry) toProto() (*types.Entry, error) {
	for _, ttl := range []time.Duration{e.X509TTL, e.JWTTTL} {
		if ttl < 0 || ttl%time.Second != 0 || seconds(ttl) > math.MaxInt32 {
			return nil, fmt.Errorf("entry %s: the lifetime %s is not in whole seconds from 0s to %ds", e.ID, ttl, math.MaxInt32)
		}
	}
	p := &types.Entry{
		Id:          e.ID,
		SpiffeId:    &types.SPIFFEID{TrustDomain: e.SPIFFEID.TrustDomain().Name(), Path: e.SPIFFEID.Path()},
		ParentId:    &types.SPIFFEID{TrustDomain: e.ParentID.TrustDomain().Name(), Path: e.ParentID.Path()},
		X509SvidTtl: int32(seconds(e.X509TTL)), JwtSvidTtl: int32(seconds(e.JWTTTL)),
		Admin: e.Admin, Downstream: e.Downstream, StoreSvid: e.StoreSVID, DnsNames: e.DNSNames, Hint: e.Hint,
	}
	if !e.Expires.IsZero() {
		p.ExpiresAt = e.Expires.Unix()
	}
	for _, s := range e.Selectors {
		p.Selectors = append(p.Selectors, &types.Selector{Type: s.Type, Value: s.Value})
	}
	for _, td := range e.FederatesWith {
		p.FederatesWith = append(p.FederatesWith, td.Name())
	}
	if e.NoPrefetch || e.JTI {
		p.AdditionalAttributes = &types.Entry_AdditionalAttributes{DisableX509SvidPrefetch: e.NoPrefetch, JwtSvidIncludeJti: e.JTI}
	}
	return p, nil
}

// fromProto reads what a server sent.
func fromProto(p *types.Entry) (Entry, error) {
	id, err := fromProtoID(p.GetSpiffeId())
	if err != nil {
		return Entry{}, fmt.Errorf("entry %q: its SPIFFE ID: %w", p.GetId(), err)
	}
	parent, err := fromProtoID(p.GetParentId())
	if err != nil {
		return Entry{}, fmt.Errorf("entry %q: its parent: %w", p.GetId(), err)
	}
	e := Entry{
		ID: p.GetId(), SPIFFEID: id, ParentID: parent,
		X509TTL: time.Duration(p.GetX509SvidTtl()) * time.Second, JWTTTL: time.Duration(p.GetJwtSvidTtl()) * time.Second,
		Admin: p.GetAdmin(), Downstream: p.GetDownstream(), StoreSVID: p.GetStoreSvid(),
		NoPrefetch: p.GetAdditionalAttributes().GetDisableX509SvidPrefetch(), JTI: p.GetAdditionalAttributes().GetJwtSvidIncludeJti(),
		DNSNames: slices.Clone(p.GetDnsNames()), Hint: p.GetHint(),
	}
	if at := p.GetExpiresAt(); at != 0 {
		e.Expires = time.Unix(at, 0)
	}
	for _, s := range p.GetSelectors() {
		e.Selectors = append(e.Selectors, Selector{s.GetType(), s.GetValue()})
	}
	slices.SortFunc(e.Selectors, Selector.Compare)
	for _, name := range p.GetFederatesWith() {
		td, err := spiffeid.TrustDomainFromString(name)
		if err != nil {
			return Entry{}, fmt.Errorf("entry %q: a federated trust domain: %w", p.GetId(), err)
		}
		e.FederatesWith = append(e.FederatesWith, td)
	}
	slices.SortFunc(e.FederatesWith, spiffeid.TrustDomain.Compare)
	return e, nil
}

func fromProtoID(p *types.SPIFFEID) (spiffeid.ID, error) {
	td, err := spiffeid.TrustDomainFromString(p.GetTrustDomain())
	if err != nil {
		return spiffeid.ID{}, err
	}
	return spiffeid.FromPath(td, p.GetPath())
}
