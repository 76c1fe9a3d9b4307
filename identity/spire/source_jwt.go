package spire

import (
	"crypto"
	"fmt"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"meshseal/identity"
)

// JWTBundles is the newest keys of JWT-SVIDs, of the own trust domain and of all
// federated ones. It is nil, which trusts nobody, until the Workload API has sent
// some; Open does not wait for them. The pointer changes only with the content.
func (s *Source) JWTBundles() *identity.JWTBundles { return s.jwt.Load() }

// jwtWatcher is what go-spiffe calls, from one goroutine.
type jwtWatcher struct {
	*Source
	// told is the last problem that was reported. An agent that is gone is told
	// of once here, and at every attempt by the stream of the SVID.
	told string
}

// OnJWTBundlesUpdate takes a message of the Workload API.
func (s *jwtWatcher) OnJWTBundlesUpdate(set *jwtbundle.Set) {
	next, problems := readJWT(set)
	s.told = ""
	for _, p := range problems {
		s.OnJWTBundlesWatchError(p)
	}
	if next == nil {
		return
	}
	if !next.Equal(s.jwt.Load()) {
		s.jwt.Store(next)
	}
	s.updated()
}

// OnJWTBundlesWatchError keeps what there is. A Workload API without JWT-SVIDs
// is no problem until somebody has to show one.
func (s *jwtWatcher) OnJWTBundlesWatchError(err error) {
	if status.Code(err) == codes.Unimplemented || err.Error() == s.told {
		return
	}
	s.told = err.Error()
	s.report(fmt.Errorf("JWT bundles: %w", err))
}

// readJWT makes a set of a message. A bundle that cannot be used leaves its
// trust domain out, and does not keep the others from being renewed; one without
// keys is of a domain that issues no JWT-SVIDs (JWT-SVID section 6.2). A message
// without a usable bundle is not taken.
func readJWT(set *jwtbundle.Set) (*identity.JWTBundles, []error) {
	var problems []error
	usable := map[spiffeid.TrustDomain]map[string]crypto.PublicKey{}
	for _, b := range set.Bundles() {
		one := map[spiffeid.TrustDomain]map[string]crypto.PublicKey{b.TrustDomain(): b.JWTAuthorities()}
		if _, err := identity.NewJWTBundles(one); err != nil {
			problems = append(problems, fmt.Errorf("left out: %w", err))
			continue
		}
		usable[b.TrustDomain()] = b.JWTAuthorities()
	}
	slices.SortFunc(problems, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	if len(usable) == 0 {
		return nil, append(problems, fmt.Errorf("%w: the workload API sent none that can be used", identity.ErrBundle))
	}
	next, err := identity.NewJWTBundles(usable)
	if err != nil {
		return nil, append(problems, err)
	}
	return next, problems
}
