package devspiffe

import (
	"context"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"meshseal/identity"
)

// lease is what one stream was attested as. It is renewed as long as the same
// process in the same unit has the same digest; it never changes.
type lease struct {
	server  *Server
	caller  *caller
	unit    *unit
	digest  identity.Digest
	id      spiffeid.ID // of the SVID: the unit's with the digest
	changed <-chan struct{}
}

// attest measures the unit of the process behind a call. What it returns as an
// error is for the peer.
func (s *Server) attest(ctx context.Context) (*lease, error) {
	c, err := callerFrom(ctx)
	if err != nil {
		return nil, status.Error(codes.PermissionDenied, err.Error())
	}
	u, d, err := s.units.attest(c)
	if err != nil {
		s.config.Log("dev spiffe: no identity issued: " + err.Error())
		return nil, status.Errorf(codes.PermissionDenied, "no identity issued: %v", err)
	}
	id, err := identity.WithDigest(u.base, d)
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	l := &lease{server: s, caller: c, unit: u, digest: d, id: id}
	if err := l.watch(); err != nil {
		return nil, err
	}
	return l, nil
}

// watch fails if the unit is not what was attested any more, and else has
// changed close as soon as it is not.
func (l *lease) watch() error {
	m, changed := l.unit.last()
	if m.err != nil || m.digest != l.digest {
		return status.Errorf(codes.Aborted, "the unit %s runs other programs than when this stream began; ask again to be measured again", l.unit.base)
	}
	l.changed = changed
	return nil
}

// issue makes an SVID of what was attested.
func (l *lease) issue() (svid, error) {
	issued, err := l.server.ca.issue(l.id, l.server.config.Now(), l.server.config.Lifetime)
	if err != nil {
		return svid{}, status.Error(codes.Internal, err.Error())
	}
	l.server.config.Log(fmt.Sprintf("dev spiffe: issued %s to process %d", l.id, l.caller.pid))
	return issued, nil
}

// remeasure fails unless the same process in the same unit has the same digest.
func (l *lease) remeasure() error {
	u, d, err := l.server.units.attest(l.caller)
	switch {
	case err != nil:
		return status.Errorf(codes.PermissionDenied, "not renewed: %v", err)
	case u != l.unit || d != l.digest:
		return status.Errorf(codes.Aborted, "not renewed: the unit %s runs other programs than when this stream began", l.unit.base)
	}
	return l.watch()
}

// renew measures again before it issues again.
func (l *lease) renew() (svid, error) {
	if err := l.remeasure(); err != nil {
		return svid{}, err
	}
	return l.issue()
}

// untilRenewal is the time from one SVID to the next.
func (l *lease) untilRenewal() time.Duration { return l.server.config.Lifetime / 2 }

// wait blocks until it is time to renew. It fails when the call ends or the
// unit changes.
func (l *lease) wait(ctx context.Context) error {
	timer := time.NewTimer(l.untilRenewal())
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		case <-timer.C:
			return nil
		case <-l.changed:
			if err := l.watch(); err != nil {
				return err
			}
		}
	}
}
