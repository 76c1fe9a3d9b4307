package extauthz

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"net"
	"net/url"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"meshseal/identity"
	"meshseal/snapshot"
)

// What an Explainer decides goes through the same steps as in a server, and
// those take proofs. A record has none: it says who was proven. So the explainer
// proves to itself what is taken as given, with keys that it makes and that
// nobody else trusts: a snapshot that it signs, and certificates for the SPIFFE
// IDs that are named.

// sealed signs a snapshot with a key that is thrown away. Its statement becomes
// one that does not end; what d said of its end is for the caller to keep.
func sealed(d *snapshot.Draft) (*snapshot.Snapshot, error) {
	key, err := snapshot.GenerateKey(snapshot.Ed25519)
	if err != nil {
		return nil, err
	}
	trust, err := snapshot.NewTrust([]snapshot.PublicKey{key.Public()}, 1)
	if err != nil {
		return nil, err
	}
	// The waivers of a mesh have not ended when its commit was made: the build
	// refuses those.
	at := d.Statement().CommitTime
	signed, err := d.Sign(key, snapshot.SignOptions{Now: at, Keys: trust, Renew: true})
	if err != nil {
		return nil, err
	}
	return signed.Verify(trust, at)
}

// The time for which certificates are made. What they stand for was valid when
// it was recorded.
var (
	issuedFrom  = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	issuedUntil = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)
)

// issuer makes certificates of any SPIFFE ID.
type issuer struct {
	key     crypto.Signer
	roots   map[spiffeid.TrustDomain]*x509.Certificate
	given   map[spiffeid.TrustDomain][]*x509.Certificate // trust bundles for certificates that are given
	leaves  map[spiffeid.ID]*x509.Certificate
	bundles *identity.TrustBundles
	serial  int64
}

// maxLeaves bounds how many certificates an issuer keeps.
const maxLeaves = 10_000

func newIssuer(given map[spiffeid.TrustDomain][]*x509.Certificate) (*issuer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	i := &issuer{key: key, given: given, roots: map[spiffeid.TrustDomain]*x509.Certificate{}, leaves: map[spiffeid.ID]*x509.Certificate{}}
	return i, i.rebundle()
}

// rebundle makes the trust bundles new, of the roots here and of those given.
func (i *issuer) rebundle() (err error) {
	all := map[spiffeid.TrustDomain][]*x509.Certificate{}
	for td, roots := range i.given {
		all[td] = slices.Clone(roots)
	}
	for td, root := range i.roots {
		all[td] = append(all[td], root)
	}
	if len(all) > 0 {
		i.bundles, err = identity.NewTrustBundles(all)
	}
	return err
}

// leaf is a certificate of a SPIFFE ID.
func (i *issuer) leaf(id spiffeid.ID) (*x509.Certificate, error) {
	if known, ok := i.leaves[id]; ok {
		return known, nil
	}
	root, err := i.root(id.TrustDomain())
	if err != nil {
		return nil, err
	}
	leaf, err := i.sign(&x509.Certificate{
		URIs: []*url.URL{id.URL()}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}, root)
	if err != nil {
		return nil, err
	}
	if len(i.leaves) >= maxLeaves {
		clear(i.leaves)
	}
	i.leaves[id] = leaf
	return leaf, nil
}

func (i *issuer) root(td spiffeid.TrustDomain) (*x509.Certificate, error) {
	if known, ok := i.roots[td]; ok {
		return known, nil
	}
	root, err := i.sign(&x509.Certificate{URIs: []*url.URL{td.ID().URL()}, KeyUsage: x509.KeyUsageCertSign, IsCA: true}, nil)
	if err != nil {
		return nil, err
	}
	i.roots[td] = root
	return root, i.rebundle()
}

func (i *issuer) sign(template, parent *x509.Certificate) (*x509.Certificate, error) {
	i.serial++
	template.SerialNumber = big.NewInt(i.serial)
	template.NotBefore, template.NotAfter, template.BasicConstraintsValid = issuedFrom, issuedUntil, true
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, i.key.Public(), i.key)
	if err != nil {
		return nil, fmt.Errorf("a certificate to stand in for what was proven: %w", err)
	}
	return x509.ParseCertificate(der)
}

// handedOver is a certificate as Envoy hands it over.
func handedOver(leaf *x509.Certificate) string {
	return url.PathEscape(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw})))
}

// standIn answers for a source of evidence what the question says that it said.
type standIn struct {
	kind     identity.EvidenceKind
	demanded bool
	now      *Question // the question of the moment
	// asked are the kinds that were asked and about which it says nothing.
	asked map[identity.EvidenceKind]bool
}

var errNotStated = errors.New("nothing is stated about this evidence")

// Kind is that of the source which it stands for.
func (s standIn) Kind() identity.EvidenceKind { return s.kind }

// Digest is that of the SPIFFE ID where the evidence agreed.
func (s standIn) Digest(p identity.Presented, _ time.Time) (identity.Digest, error) {
	if slices.Contains(s.now.Agreed, s.kind) {
		_, digest, err := identity.Split(p.SVID.ID())
		return digest, err
	}
	if !s.demanded {
		return identity.Digest{}, identity.ErrExtensionMissing
	}
	s.asked[s.kind] = true
	return identity.Digest{}, errNotStated
}

// standIns replaces the sources of a plan. One that is not demanded may be
// missing.
func (p *Plan) standIns(now *Question, asked map[identity.EvidenceKind]bool) {
	for _, name := range slices.Sorted(maps.Keys(p.byName)) {
		w := p.byName[name]
		for i, a := range w.asked {
			w.asked[i].Evidence = standIn{kind: a.Evidence.Kind(), demanded: a.Demanded, now: now, asked: asked}
		}
	}
}

// unixConn is the end of a Unix socket that nothing is sent through.
type unixConn struct{ net.Conn }

func (unixConn) LocalAddr() net.Addr { return &net.UnixAddr{Net: "unix"} }
