package mesh

import (
	"fmt"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	"meshseal/policies"
	"meshseal/snapshot"
)

// direction is which way a listener faces. The zero direction is none, and no
// listener may have it.
type direction int

const (
	// inbound: mTLS from other workloads; the caller is the peer certificate.
	inbound direction = iota + 1
	// outbound: plain requests of the application beside the proxy; the caller
	// is the workload that the proxy fronts.
	outbound
)

// position is a place in a file of the mesh repository. Line and column count
// from 1; 0 means that only the file is known.
type position struct {
	file         string
	line, column int
}

func (p position) String() string {
	switch {
	case p.file == "":
		return "the build"
	case p.line == 0:
		return p.file
	case p.column == 0:
		return fmt.Sprintf("%s:%d", p.file, p.line)
	}
	return fmt.Sprintf("%s:%d:%d", p.file, p.line, p.column)
}

// place is the position as others see it.
func (p position) place() policies.Place {
	return policies.Place{File: p.file, Line: p.line, Column: p.column}
}

// Notice is something that the build did that the author of a file should
// know of. It never stops a build.
type Notice struct {
	File   string
	Line   int // from 1; 0 where only the file is known
	Column int // from 1; 0 where only the line is known
	Code   string
	Text   string
}

// Report is what a build tells besides its result.
type Report struct {
	Notices []Notice
	// Findings are all findings of the guardrails, by proxy, resource and field.
	// Those without a waiver refuse the build.
	Findings []Finding
}

// Finding is a finding of a guardrail, and what sets it aside.
type Finding struct {
	policies.Finding
	Waiver   *snapshot.Waiver // nil: the finding stands
	WaiverAt policies.Place   // where the waiver is written
}

// String is the finding as a compiler writes an error, with what to do in a
// second line.
func (f Finding) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s: %s: %s", f.At, f.Code, f.Where(), f.Text)
	if f.Waiver != nil {
		fmt.Fprintf(&b, "\n  waived until %s: %s", f.Waiver.Until.UTC().Format(time.DateOnly), f.Waiver.Reason)
	} else {
		fmt.Fprintf(&b, "\n  mend: %s", f.Mend)
	}
	return b.String()
}

// proxyConfig is one proxy of the mesh repository while it is built.
type proxyConfig struct {
	name     string
	id       spiffeid.ID
	workload string // empty for a proxy that fronts none
	// allowed are the digests that the Envoy's own SVID may carry.
	allowed      []snapshot.ImageSet
	registration *snapshot.Registration
	// clientChain: inbound listeners hand over the caller's whole chain.
	clientChain bool
	// svidLife is the shortest life of an SVID that a caller is known to hold;
	// zero if none is known.
	svidLife time.Duration
	// file is the proxy.yaml.
	file string
	// directions has every listener of listeners by its name, and no other.
	directions map[string]direction
	// public has the listeners that may be open to the world.
	public map[string]bool
	// reports has the listeners whose denials are not to be enforced.
	reports map[string]bool

	listeners []*listenerv3.Listener
	routes    []*routev3.RouteConfiguration
	clusters  []*clusterv3.Cluster
	endpoints []*endpointv3.ClusterLoadAssignment

	// origin is where a message of the four lists above, or one that unpack
	// returned, was written.
	origin map[proto.Message]position
	// index has the resources by kind and name, to find them fast.
	index index
	// sources are the files, for the lines that errors show.
	sources map[string]*source
	// packed is what an Any was decoded from, for the positions in it.
	packed map[*anypb.Any]proto.Message
}

// at is where m was written: its own place, or the file of the proxy.
func (p *proxyConfig) at(m proto.Message) position {
	if pos, ok := p.origin[m]; ok {
		return pos
	}
	return position{file: p.file}
}

// fail is an error about m: where it was written, what is wrong, and the line.
func (p *proxyConfig) fail(m proto.Message, format string, args ...any) error {
	pos := p.at(m)
	err := &policies.FileError{At: pos.place(), Err: fmt.Errorf(format, args...)}
	if s := p.sources[pos.file]; s != nil {
		err.Detail = s.excerpt(pos.line, pos.column)
	}
	return err
}

// notice is a Notice about the place where m was written.
func (p *proxyConfig) notice(m proto.Message, code, format string, args ...any) Notice {
	pos := p.at(m)
	return Notice{File: pos.file, Line: pos.line, Column: pos.column, Code: code, Text: fmt.Sprintf(format, args...)}
}

// unpack decodes what a holds, and remembers where the messages in it were
// written. Changes to the result change a only by repack.
func (p *proxyConfig) unpack(a *anypb.Any) (proto.Message, error) {
	m, err := a.UnmarshalNew()
	if err != nil {
		return nil, fmt.Errorf("%s: %q: %w", p.at(a), a.GetTypeUrl(), err)
	}
	p.init()
	if pos, ok := p.origin[a]; ok {
		p.origin[m] = pos
	}
	if from := p.packed[a]; from != nil && proto.Equal(from, m) {
		p.carry(from.ProtoReflect(), m.ProtoReflect())
	}
	return m, nil
}

// repack puts m into a, deterministically encoded.
func (p *proxyConfig) repack(a *anypb.Any, m proto.Message) error {
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return fmt.Errorf("%s: %w", p.at(a), err)
	}
	a.TypeUrl, a.Value = anyPrefix+string(m.ProtoReflect().Descriptor().FullName()), data
	p.init()
	p.packed[a] = m
	return nil
}

func (p *proxyConfig) init() {
	if p.origin == nil {
		p.origin = map[proto.Message]position{}
	}
	if p.packed == nil {
		p.packed = map[*anypb.Any]proto.Message{}
	}
}

const anyPrefix = "type.googleapis.com/"

// carry gives to, which equals from, the positions of from.
func (p *proxyConfig) carry(from, to protoreflect.Message) {
	if pos, ok := p.origin[from.Interface()]; ok {
		p.origin[to.Interface()] = pos
	}
	if a, ok := from.Interface().(*anypb.Any); ok {
		if inner := p.packed[a]; inner != nil {
			p.packed[to.Interface().(*anypb.Any)] = inner
		}
		return
	}
	from.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		w := to.Get(f)
		switch {
		case f.IsMap():
			if f.MapValue().Message() != nil {
				v.Map().Range(func(k protoreflect.MapKey, e protoreflect.Value) bool {
					p.carry(e.Message(), w.Map().Get(k).Message())
					return true
				})
			}
		case f.Message() == nil:
		case f.IsList():
			for i := range v.List().Len() {
				p.carry(v.List().Get(i).Message(), w.List().Get(i).Message())
			}
		default:
			p.carry(v.Message(), w.Message())
		}
		return true
	})
}
