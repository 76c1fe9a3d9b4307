package devspiffe

import (
	"context"
	"fmt"
	"time"

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
	l := &lease{server: s, caller: c, unit: u, digest: d}
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
	id, err := identity.WithDigest(l.unit.base, l.digest)
	if err != nil {
		return svid{}, status.Error(codes.Internal, err.Error())
	}
	issued, err := l.server.ca.issue(id, l.server.config.Now(), l.server.config.Lifetime)
	if err != nil {
		return svid{}, status.Error(codes.Internal, err.Error())
	}
	l.server.config.Log(fmt.Sprintf("dev spiffe: issued %s to process %d", id, l.caller.pid))
	return issued, nil
}

// renew measures again before it issues again.
func (l *lease) renew() (svid, error) {
	u, d, err := l.server.units.attest(l.caller)
	switch {
	case err != nil:
		return svid{}, status.Errorf(codes.PermissionDenied, "not renewed: %v", err)
	case u != l.unit || d != l.digest:
		return svid{}, status.Errorf(codes.Aborted, "not renewed: the unit %s runs other programs than when this stream began", l.unit.base)
	}
	if err := l.watch(); err != nil {
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
