package xds

import (
	"time"

	"google.golang.org/grpc/codes"

	"meshseal/snapshot"
)

// maxStreams is how many streams one proxy may have at once: many Envoys can
// share an identity. One more is refused, so that those that work go on; what
// is dead among them ends by the keepalive.
const maxStreams = 1000

// proxyState is what the server remembers of one proxy beyond its streams. It
// is guarded by Server.mu.
type proxyState struct {
	streams map[uint64]StreamStatus
	left    time.Time // when its last stream ended
	// rejections are the versions that the proxy rejected, while they are the
	// newest: they are not sent to it again, on no stream.
	rejections map[rejectionKey]Rejection
}

type rejectionKey struct {
	typ  snapshot.TypeURL
	name string
}

// Rejection is a version of a resource that a proxy rejected and that is not
// sent to it again.
type Rejection struct {
	Type     snapshot.TypeURL `json:"type"`
	Resource string           `json:"resource"`
	Version  string           `json:"version"`
	Time     time.Time        `json:"time"`
	Text     string           `json:"text"`

	before *resource // what the client had, if it is known
}

// register makes the stream one of its proxy's.
func (s *Server) register(ss *session) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := ss.caller.proxy.name
	p := s.proxies[name]
	if p == nil {
		p = &proxyState{streams: map[uint64]StreamStatus{}, rejections: map[rejectionKey]Rejection{}}
		s.proxies[name] = p
	}
	if len(p.streams) >= maxStreams {
		return refusal(codes.ResourceExhausted, "proxy %q has %d streams already: end some of its Envoys", name, maxStreams)
	}
	s.streams++
	ss.id, ss.state = s.streams, p
	p.streams[ss.id] = ss.describe()
	return nil
}

func (s *Server) unregister(ss *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(ss.state.streams, ss.id)
	ss.state.left = s.now()
	name := ss.caller.proxy.name
	if len(ss.state.streams) == 0 && s.view.Load().proxies[name] == nil && s.proxies[name] == ss.state {
		delete(s.proxies, name)
	}
}

// publish makes the stream's state visible in the status.
func (ss *session) publish() {
	status := ss.describe()
	ss.server.mu.Lock()
	defer ss.server.mu.Unlock()
	ss.state.streams[ss.id] = status
}

// remember keeps the versions that a NACK blames from being sent again, unless
// a newer snapshot has replaced them meanwhile.
func (ss *session) remember(updates []*resource, n *Nack) {
	s := ss.server
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.view.Load().proxies[ss.caller.proxy.name]
	if p == nil {
		return
	}
	blamed := map[string]struct{}{}
	for _, name := range n.Blamed {
		blamed[name] = struct{}{}
	}
	for _, r := range updates {
		now := p.set(r.typ).get(r.name)
		if _, ok := blamed[r.name]; !ok || now == nil || now.version != r.version {
			continue
		}
		ss.state.rejections[rejectionKey{r.typ, r.name}] = Rejection{
			Type: r.typ, Resource: r.name, Version: r.version, Time: n.Time, Text: n.Text,
		}
	}
}

// rejected reports whether the proxy has rejected this version of a resource,
// on this stream or another.
func (ss *session) rejected(r *resource) bool {
	ss.server.mu.Lock()
	defer ss.server.mu.Unlock()
	rejection, ok := ss.state.rejections[rejectionKey{r.typ, r.name}]
	return ok && rejection.Version == r.version
}

// forget drops the rejections of what is not the newest version any more.
func (p *proxyState) forget(now *proxyView) {
	for key, rejection := range p.rejections {
		if now != nil {
			if r := now.set(key.typ).get(key.name); r != nil && r.version == rejection.Version {
				continue
			}
		}
		delete(p.rejections, key)
	}
}
