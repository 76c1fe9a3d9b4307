package extauthz

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"meshseal/internal/grpcpeer"
)

// checksPerCPU is how many checks may be before one CPU. The last of them ends
// within DefaultDeadline as long as each takes less than 7.8 ms of CPU, which is
// a hundred times what a check takes whose policy has to be evaluated. Fewer would make denials
// faster in a flood, and deny a part of what comes at one moment and could be done.
const checksPerCPU = 64

// DefaultMaxChecks is how many checks are in work at once where Config says
// nothing else: 64 for each CPU that Go uses.
func DefaultMaxChecks() int { return checksPerCPU * runtime.GOMAXPROCS(0) }

// maxAskers bounds how many askers are named in one record of shed checks.
const maxAskers = 32

// otherAskers stands for those above maxAskers, and for who proved nothing.
const otherAskers = "others"

// load counts the checks in work.
type load struct {
	limit  int64
	inWork atomic.Int64
}

// enter takes a place, or reports that there is none; it never waits for one. Who
// took one gives it back with leave.
//
// A check runs to its end once it has a CPU. So the queue before a busy server
// would be one of calls that wait for their first moment, which nobody counts.
// Each therefore steps aside after it was counted and before it does what is
// costly, see stepAside: those behind it are counted too, and what is too much is
// denied before any of the admitted work is done.
func (l *load) enter() bool {
	if l.inWork.Add(1) > l.limit {
		l.inWork.Add(-1)
		return false
	}
	return true
}

// stepAside lets those be counted, and answered, that came meanwhile.
func (c *check) stepAside() {
	if c.call != nil {
		c.call.StepAside()
	}
	runtime.Gosched()
}

func (l *load) leave() { l.inWork.Add(-1) }

// full reports whether one more would find no place at this moment.
func (l *load) full() bool { return l.inWork.Load() >= l.limit }

// InWork is how many checks are in work.
func (s *Server) InWork() int { return int(s.load.inWork.Load()) }

// MaxChecks is how many may be.
func (s *Server) MaxChecks() int { return int(s.load.limit) }

// shedding is what was denied for overload and is not recorded yet.
type shedding struct {
	mu   sync.Mutex
	open *shedChecks // nil while there is none
}

// shedChecks are the checks that one record stands for. They have one decision,
// so the ID in each of their answers is that of the record.
type shedChecks struct {
	decision Decision
	answer   []byte // encoded; read only
	since    time.Time
	total    int64
	by       map[string]int64
}

// shed denies a check that found no place. It reads nothing of the request,
// writes nothing and waits for nothing, so a flood buys no work with it. Whatever
// goes wrong on the way, the answer is that denial.
func (s *Server) shed(ctx context.Context) (answer []byte) {
	defer func() {
		if recover() != nil {
			answer = refuse(newID(), Facts{}, deny(Overloaded, ""), nil).appendAnswer(nil)
		}
	}()
	now := s.config.Now()
	decision, answer := s.count(now, shedAsker(ctx))
	s.config.Observe(decision, s.config.Now().Sub(now))
	return answer
}

// count adds one to the checks that the next record stands for.
func (s *Server) count(now time.Time, who string) (Decision, []byte) {
	s.shedding.mu.Lock()
	defer s.shedding.mu.Unlock()
	if s.shedding.open == nil {
		s.shedding.open = s.newShed(now)
	}
	o := s.shedding.open
	o.total++
	if _, known := o.by[who]; !known && len(o.by) >= maxAskers {
		who = otherAskers
	}
	o.by[who]++
	return o.decision, o.answer
}

func (s *Server) newShed(now time.Time) *shedChecks {
	var f Facts
	if in := s.force.Load(); in != nil && in.plan != nil {
		f.inForce(in.plan)
	}
	d := refuse(newID(), f, deny(Overloaded, "%d checks were in work, the most that may be", s.load.limit), nil)
	return &shedChecks{decision: d, answer: d.appendAnswer(nil), since: now, by: map[string]int64{}}
}

// shedAsker names who asks by the connection alone: the proxy of a Unix socket,
// or the SPIFFE ID of the certificate that the connection was opened with.
func shedAsker(ctx context.Context) string {
	p, err := grpcpeer.FromContext(ctx)
	switch {
	case err != nil:
		return otherAskers
	case p.Proxy != "":
		return p.Proxy
	case len(p.Chain[0].URIs) == 1:
		return p.Chain[0].URIs[0].String()
	}
	return otherAskers
}

// RecordShed writes one record for all checks that were denied OVERLOADED since
// the last call, and returns how many those are; none is written where there
// were none. Whoever runs a Server calls it every second and at the end. Where it
// fails, the number goes into the next record.
func (s *Server) RecordShed() (int64, error) {
	s.shedding.mu.Lock()
	o := s.shedding.open
	s.shedding.open = nil
	s.shedding.mu.Unlock()
	if o == nil {
		return 0, nil
	}
	err := s.config.Records.Record(s.shedRecord(o))
	if err == nil {
		return o.total, nil
	}
	s.shedding.mu.Lock()
	defer s.shedding.mu.Unlock()
	if next := s.shedding.open; next != nil {
		next.total += o.total
		for who, n := range o.by {
			if _, known := next.by[who]; !known && len(next.by) >= maxAskers {
				who = otherAskers
			}
			next.by[who] += n
		}
		next.since = o.since
	} else {
		s.shedding.open = o
	}
	return o.total, fmt.Errorf("record of %d checks denied %s: %w", o.total, Overloaded, err)
}

func (s *Server) shedRecord(o *shedChecks) Record {
	d := o.decision
	return Record{
		Labels: s.config.Labels, DecisionID: d.ID(), Timestamp: o.since.UTC(),
		Meshseal: Account{
			Decision: d.Word(), Reason: d.Reason(), Step: d.Step(), Detail: d.Detail(), Facts: d.Facts(),
			Shed: o.total, ShedBy: o.by,
		},
	}
}
