package policies

import (
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"meshseal/request"
)

// part is one part of the input document that a program can read, and that is
// not taken apart any further.
type part struct {
	kind partKind
	path []string // in the document, from input: attributes, request, http, method
	// text is the value, for textPart, certificatePart and factPart.
	text func(*request.Request, *Facts) string
	port func(*request.Request) uint32 // for portPart
	// there is for presencePart; known is false where the request does not say.
	there func(*request.Request) (is, known bool)
	index int // for segmentPart
}

// partKind says how a part is read from a request.
type partKind uint8

const (
	// messagePart is anything that only the decoded message has.
	messagePart     partKind = iota
	textPart                 // a string, absent where it is empty
	factPart                 // a string that is always there
	agreedPart               // input.meshseal.evidence_agreed
	certificatePart          // as textPart, and in the key as a number
	portPart                 // a number; of 0 the request does not say whether it is there
	sizePart
	headersPart  // all of them
	headerPart   // one, by the last name of the path
	bodyPart     // what is null or absent where no body was sent
	constantPart // input.version
	pathPart     // parsed_path
	segmentPart  // parsed_path[index]
	queryPart    // parsed_query
	valuesPart   // parsed_query[the last name of the path]
	presencePart // whether an object is there
	wholePart    // all of input
)

// String is the part as Rego names it.
func (p *part) String() string {
	var b strings.Builder
	b.WriteString("input")
	for _, name := range p.path {
		if n, err := strconv.Unquote(`"` + name + `"`); err == nil && ast.IsVarCompatibleString(n) {
			b.WriteString("." + name)
		} else {
			b.WriteString("[" + strconv.Quote(name) + "]")
		}
	}
	if p.kind == segmentPart {
		b.WriteString("[" + strconv.Itoa(p.index) + "]")
	}
	return b.String()
}

// unbounded says why the part is in no key; empty if it is.
func (p *part) unbounded() string {
	switch p.kind {
	case wholePart:
		return "reads all of the input"
	case headersPart:
		return "reads the headers as a whole; name those that matter, as in headers[\"x-tenant\"]"
	case bodyPart:
		if p.path[len(p.path)-1] != "truncated_body" {
			return "reads " + p.String() + ", which has no bound"
		}
	case sizePart:
		return "reads " + p.String() + ", which is another for every request"
	case textPart:
		if p.path[len(p.path)-1] == "id" {
			return "reads " + p.String() + ", which is another for every request"
		}
	case messagePart:
		return "reads " + p.String() + ", which is not among the parts of a request that decisions are remembered by"
	}
	return ""
}

// spot is a place of the input document: an object of known names, or a part.
type spot struct {
	names map[string]*spot
	part  *part
	// there reads whether the object is there.
	there *part
	// complete: names are all that can be in the object.
	complete bool
}

// document is where the parts of the input document are.
var document = inputSpots()

func inputSpots() *spot {
	source, destination := peerSpots(sourceOf), peerSpots(destinationOf)
	source.names["certificate"] = &spot{part: &part{kind: certificatePart, text: func(r *reqOf, _ *Facts) string { return r.Source.Certificate }}}
	request := objectSpot(func(r *reqOf) (bool, bool) { return true, r.HTTP }, map[string]*spot{"http": httpSpots()})
	tls := objectSpot(func(r *reqOf) (bool, bool) { return true, r.SNI != "" }, map[string]*spot{
		"sni": textSpot(func(r *reqOf) string { return r.SNI }),
	})
	root := objectSpot(always, map[string]*spot{
		"attributes": objectSpot(always, map[string]*spot{
			"request": request, "source": source, "destination": destination, "tlsSession": tls,
		}),
		"version":          {part: &part{kind: constantPart}},
		"parsed_path":      {part: &part{kind: pathPart}},
		"parsed_query":     {part: &part{kind: queryPart}, there: &part{kind: presencePart, there: always}},
		"parsed_body":      {part: &part{kind: bodyPart}},
		"truncated_body":   {part: &part{kind: bodyPart}},
		"source_principal": textSpot(func(r *reqOf) string { return r.Source.Principal }),
		"meshseal":         factSpots(),
	})
	root.name(nil)
	return root
}

type reqOf = request.Request

func objectSpot(there func(*reqOf) (is, known bool), names map[string]*spot) *spot {
	return &spot{names: names, there: &part{kind: presencePart, there: there}}
}

func always(*reqOf) (is, known bool) { return true, true }

func textSpot(of func(*reqOf) string) *spot {
	return &spot{part: &part{kind: textPart, text: func(r *reqOf, _ *Facts) string { return of(r) }}}
}

func httpSpots() *spot {
	headers := &spot{part: &part{kind: headersPart}}
	headers.there = &part{kind: presencePart, there: func(r *reqOf) (bool, bool) { return len(r.Headers) > 0, true }}
	return objectSpot(func(r *reqOf) (bool, bool) { return r.HTTP, true }, map[string]*spot{
		"id":       textSpot(func(r *reqOf) string { return r.ID }),
		"method":   textSpot(func(r *reqOf) string { return r.Method }),
		"path":     textSpot(func(r *reqOf) string { return r.Path }),
		"host":     textSpot(func(r *reqOf) string { return r.Host }),
		"scheme":   textSpot(func(r *reqOf) string { return r.Scheme }),
		"query":    textSpot(func(r *reqOf) string { return r.Query }),
		"fragment": textSpot(func(r *reqOf) string { return r.Fragment }),
		"protocol": textSpot(func(r *reqOf) string { return r.Protocol }),
		"size":     {part: &part{kind: sizePart}},
		"headers":  headers,
		"body":     {part: &part{kind: bodyPart}},
		"rawBody":  {part: &part{kind: bodyPart}},
	})
}

func sourceOf(r *reqOf) *request.Peer      { return &r.Source }
func destinationOf(r *reqOf) *request.Peer { return &r.Destination }

// peerSpots are those of one end of the connection. The request tells of an
// object without anything in it only by decoding.
func peerSpots(of func(*reqOf) *request.Peer) *spot {
	socket := map[string]*spot{
		"address":   textSpot(func(r *reqOf) string { return of(r).Address.IP }),
		"portValue": {part: &part{kind: portPart, port: func(r *reqOf) uint32 { return of(r).Address.Port }}},
	}
	pipe := map[string]*spot{"path": textSpot(func(r *reqOf) string { return of(r).Address.Pipe })}
	address := map[string]*spot{
		"socketAddress": objectSpot(func(r *reqOf) (bool, bool) { return true, of(r).Address.IP != "" || of(r).Address.Port != 0 }, socket),
		"pipe":          objectSpot(func(r *reqOf) (bool, bool) { return true, of(r).Address.Pipe != "" }, pipe),
	}
	return objectSpot(func(r *reqOf) (bool, bool) { return true, *of(r) != request.Peer{} }, map[string]*spot{
		"principal": textSpot(func(r *reqOf) string { return of(r).Principal }),
		"service":   textSpot(func(r *reqOf) string { return of(r).Service }),
		"address":   objectSpot(func(r *reqOf) (bool, bool) { return true, of(r).Address != request.Address{} }, address),
	})
}

func factSpots() *spot {
	names := map[string]*spot{"evidence_agreed": {part: &part{kind: agreedPart}}}
	for name, of := range factTexts {
		names[name] = &spot{part: &part{kind: factPart, text: func(_ *reqOf, f *Facts) string { return of(f) }}}
	}
	facts := objectSpot(always, names)
	facts.complete = true
	return facts
}

// name gives each part the path at which it is.
func (s *spot) name(path []string) {
	for _, p := range []*part{s.part, s.there} {
		if p != nil {
			p.path = path
		}
	}
	for name, below := range s.names {
		below.name(append(path[:len(path):len(path)], name))
	}
}
