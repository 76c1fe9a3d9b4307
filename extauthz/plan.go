package extauthz

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"meshseal/identity"
	"meshseal/policies"
	"meshseal/snapshot"
)

// Plan is a verified snapshot made ready to decide by: its policy compiled,
// its workloads and the marks of each proxy indexed. Only Server.Prepare makes
// one, and it is never changed.
type Plan struct {
	snapshot  *snapshot.Snapshot
	statement snapshot.Statement
	root      string // of the statement, as text
	mesh      snapshot.Mesh
	verdicts  verdicts
	trusted   map[spiffeid.TrustDomain]bool
	byID      map[spiffeid.ID]*workload
	byName    map[string]*workload
	proxies   map[string]*index
	tables    map[snapshot.Digest]*routeTable // of all proxies, by their bytes
	// sources are those of evidence beside the SPIFFE ID's path; extension is
	// among them, nil where the mesh names no OID.
	sources   map[identity.EvidenceKind]identity.Evidence
	extension *identity.Extension
	unmet     []string
	// tokenNames is the header of JWT-SVIDs, if there is one.
	tokenNames []string
}

// Snapshot is the snapshot that the plan was made of.
func (p *Plan) Snapshot() *snapshot.Snapshot { return p.snapshot }

// Prepare makes a plan of a snapshot. An error means that nothing could be
// decided by it, and that the snapshot in force has to stay.
func (s *Server) Prepare(snap *snapshot.Snapshot) (*Plan, error) {
	p := &Plan{
		snapshot:  snap,
		statement: snap.Statement(),
		root:      snap.Root().String(),
		mesh:      snap.Mesh(),
		trusted:   map[spiffeid.TrustDomain]bool{},
		byID:      map[spiffeid.ID]*workload{},
		byName:    map[string]*workload{},
		proxies:   map[string]*index{},
		tables:    map[snapshot.Digest]*routeTable{},
		verdicts:  newVerdicts(),
	}
	for _, td := range p.mesh.TrustDomains {
		p.trusted[td] = true
	}
	if err := p.prepareSources(s.config); err != nil {
		return nil, err
	}
	waivers := snap.Waivers()
	for _, w := range snap.Workloads() {
		if err := p.addWorkload(w, waivers); err != nil {
			return nil, fmt.Errorf("workload %q: %w", w.Name, err)
		}
	}
	shared := &tableStore{made: p.tables, before: s.force.Load().tables()}
	for _, proxy := range snap.Proxies() {
		x, err := newIndex(proxy, p.mesh, snap.Resource, shared)
		if err != nil {
			return nil, err
		}
		p.proxies[proxy.Name] = x
	}
	if err := p.preparePolicies(); err != nil {
		return nil, err
	}
	return p, nil
}

// preparePolicies compiles the policy once and gives each proxy the rule that
// decides about what it asks: that of the workload it fronts, else the mesh's.
func (p *Plan) preparePolicies() error {
	var files []policies.File
	for _, f := range p.snapshot.Policies() {
		files = append(files, policies.File(f))
	}
	program, err := policies.Compile(files, p.mesh.PolicyPath)
	if err != nil {
		return fmt.Errorf("policy: %w", err)
	}
	known := map[string]*policy{p.mesh.PolicyPath: newPolicy(program, p.mesh.PolicyPath, 0)}
	for _, name := range slices.Sorted(maps.Keys(p.proxies)) {
		x, entry := p.proxies[name], p.mesh.PolicyPath
		if w := p.byName[x.proxy.Workload]; w != nil && w.entry != "" {
			entry = w.entry
		}
		if known[entry] == nil {
			at, err := program.At(entry)
			if err != nil {
				return fmt.Errorf("policy of workload %q: %w", x.proxy.Workload, err)
			}
			known[entry] = newPolicy(at, entry, len(known))
		}
		x.policy = known[entry]
	}
	return nil
}

func (p *Plan) addWorkload(m snapshot.Workload, waivers []snapshot.Waiver) error {
	w := &workload{name: m.Name, id: m.ID, idText: m.ID.String(), trustDomain: m.ID.TrustDomain().Name(), entry: m.Policy, revoked: map[identity.Digest]bool{}}
	var err error
	if w.allowed, err = allowedDigests(m.Allowed); err != nil {
		return err
	}
	for _, d := range m.Revoked {
		w.revoked[d] = true // an image that runs alone
	}
	for _, set := range m.Allowed {
		if slices.ContainsFunc(set, func(i identity.Digest) bool { return slices.Contains(m.Revoked, i) }) {
			d, err := identity.SetDigest(set)
			if err != nil {
				return err
			}
			w.revoked[d] = true
		}
	}
	if m.Unproven {
		w.unproven, _ = snapshot.UnprovenUntil(waivers, m.Name)
	}
	if w.asked, err = p.demands(m); err != nil {
		return err
	}
	p.byID[m.ID], p.byName[m.Name] = w, w
	return nil
}

// force is what decides at one moment: the plan in force, and those it
// superseded. It is never changed but replaced as a whole.
type force struct {
	plan       *Plan
	superseded []superseded // newest first
	// secret reports which headers records leave out.
	secret func(name, value string) bool
}

// superseded is a plan that lends its marks, and nothing else, for the grace.
type superseded struct {
	plan  *Plan
	since time.Time
}

// maxSuperseded bounds how many plans lend their marks: with more commits than
// that within the grace, the oldest stop.
const maxSuperseded = 16

// Adopt puts a plan in force. From the next request on it alone decides about
// identity, digests and policy; the marks of the plan that it supersedes are
// accepted for the new mesh's Grace, so that proxies have the time to follow.
// A renewed statement of the same root supersedes nothing.
func (s *Server) Adopt(p *Plan) {
	s.adopting.Lock()
	defer s.adopting.Unlock()
	next := &force{plan: p}
	if before := s.force.Load(); before != nil && before.plan != nil && p != nil {
		next.superseded = before.followedBy(p, s.config.Now())
	}
	next.secret = secrets(next.tokenHeaders())
	s.force.Store(next)
}

func (f *force) followedBy(p *Plan, now time.Time) []superseded {
	all := f.superseded
	if f.plan.statement.Root != p.statement.Root {
		lends := *f.plan
		lends.verdicts = verdicts{} // nobody asks it for what it remembers
		all = append([]superseded{{&lends, now}}, all...)
	}
	all = slices.DeleteFunc(slices.Clone(all), func(o superseded) bool { return !o.lends(p.mesh.Grace, now) })
	return all[:min(len(all), maxSuperseded)]
}

func (o superseded) lends(grace time.Duration, now time.Time) bool {
	return now.Before(o.since.Add(grace))
}

// marks adds the indexes of one proxy whose marks are accepted at this moment.
// A superseded plan lends its marks only to the proxy that it knew by the same
// name and the same SPIFFE ID.
func (f *force) marks(all indexes, x *index, now time.Time) indexes {
	all = append(all, x)
	for _, old := range f.superseded {
		if !old.lends(f.plan.mesh.Grace, now) {
			continue
		}
		if o, ok := old.plan.proxies[x.proxy.Name]; ok && o.proxy.ID == x.proxy.ID {
			all = append(all, o)
		}
	}
	return all
}
