package policies

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"meshseal/request"
)

// conditions are what a generated rule may ask; X is another rule, V a value.
var conditions = strings.Split(strings.TrimSpace(`
input.attributes.request.http.method == "V"
input.attributes.request.http.path == "/V/V"
input.attributes.request.http.host != "V"
input.attributes.request.http.headers["x-v"] == "V"
input.attributes.request.http.headers["x-w"]
web.headers["x-v"] == "V"
web.method in {"GET", "V"}
not web
not web.headers
not input.attributes.request.http.scheme
http := input.attributes.request.http; http.headers["x-v"] == "V"
http := input.attributes.request.http; startswith(http.path, "/V")
h := input.attributes.request.http.headers; object.get(h, "x-w", "V") == "V"
object.get(input.attributes.request.http.headers, "x-v", "V") == "V"
object.get(input, ["attributes", "request", "http", "headers", "x-v"], "V") == "V"
object.get(input.attributes.request, "http", "V") == "V"
object.get(input.parsed_query, "V", ["V"])[0] == "V"
input.parsed_path[0] == "V"
input.parsed_path[1] == "V"
not input.parsed_path[2]
count(input.parsed_path) == 2
input.parsed_path == ["V", x]
some s in input.parsed_path; s == "V"
input.parsed_query.V[0] == "V"
not input.parsed_query.V
count(input.parsed_query.V) == 2
input.parsed_query == {}
input.attributes.source.address.socketAddress.address == "V"
input.attributes.source.address.socketAddress.portValue > 1
input.attributes.destination.address
not input.attributes.source
input.attributes.source.principal == "V"
input.source_principal == "V"
contains(input.attributes.source.certificate, "V")
input.attributes.tlsSession.sni == "V"
not input.attributes.tlsSession
input.version.ext_authz == "v3"
input.meshseal.workload in data.callers[input.meshseal.route]
data.callers[input.meshseal.route][_] == input.meshseal.workload
data.workloads[input.meshseal.workload].team == "V"
startswith(input.meshseal.spiffe_id, "spiffe://V")
facts.route == "V"
count(facts) == 14
input.meshseal.evidence_agreed[_] == "V"
count(input.meshseal.evidence_agreed) > 0
every e in input.meshseal.evidence_agreed { e != "V" }
{k | some k in input.meshseal.evidence_agreed; k != "V"} == set()
[r | r := input.meshseal.route; r == "V"] == ["V"]
{k: 1 | k := input.attributes.request.http.method} == {"V": 1}
is(input.meshseal.route, "V")
is(input.attributes.request.http, "V")
named(input.attributes.request.http) == "V"
input.meshseal.route == "V" with input.meshseal.route as "V"
X with input as {"meshseal": {"route": "V", "workload": "V"}, "attributes": {"request": {"http": {"method": "V"}}}}
X with input.attributes.request.http.method as input.attributes.request.http.host
not X with input.parsed_path as ["V"]
X with input.attributes.request.http.headers as {"x-v": "V"}
not X
X
data.gen[input.meshseal.route]
groups["V"]
groups[input.meshseal.workload]
contradicted
contradicted == "V"
table.V == "V"
made({"V"})
some g in groups; g == "V"
to_number(input.attributes.request.http.headers["x-v"]) > 1
to_number(input.parsed_path[1]) > 1
glob.match("/V/*", ["/"], input.attributes.request.http.path)
regex.match("^/V", input.attributes.request.http.path)
input.truncated_body == false
input.nothing.at.all
not input.attributes.nothing
time.now_ns() > 0
input.attributes.request.http.headers[_] == "V"
count(input.attributes.request.http.headers) > 1
input.parsed_body.v == "V"
input.parsed_body == null
input.attributes.contextExtensions.V == "V"
input.attributes.request.http.size > 0
count(input) > 1
walk(input, [_, "V"])
io.jwt.decode_verify(input.attributes.request.http.headers["x-v"], {"secret": "V"})[0]
json.marshal(input.meshseal) != "V"
sprintf("%v", [input.attributes.request.http.headers]) != "V"
`), "\n")

const generatedData = `{"callers": {"a": ["a", "b"], "b": ["c"]}, "workloads": {"a": {"team": "a"}, "b": {"team": "b"}}}`

var words = []string{"a", "b", "c", "GET", "1", ""}

func word(r *rand.Rand) string { return words[r.IntN(len(words))] }

// aCall finds what calls a built-in function.
var aCall = regexp.MustCompile(`[a-z_]+\(`)

// condition is one condition of a rule; rules before i may be asked for. A plain
// one calls no built-in function and contradicts nothing.
func condition(r *rand.Rand, i int, plain bool) string {
	for {
		c := conditions[r.IntN(len(conditions))]
		if plain && (strings.Contains(c, "contradicted") || strings.Contains(c, "table") || aCall.MatchString(strings.ReplaceAll(c, "is(", ""))) {
			continue
		}
		if strings.Contains(c, "X") && i == 0 || strings.Contains(c, "data.gen") && i < 6 {
			continue
		}
		if i > 0 {
			c = strings.ReplaceAll(c, "X", "r"+strconv.Itoa(r.IntN(i)))
		}
		for strings.Contains(c, "V") {
			c = strings.Replace(c, "V", word(r), 1)
		}
		return c
	}
}

// writeContradictions adds rules of which two values can contradict each other.
func writeContradictions(r *rand.Rand, b *strings.Builder) {
	if r.IntN(2) == 0 {
		fmt.Fprintf(b, "contradicted := true if input.meshseal.route == %q\ncontradicted := %t if input.meshseal.cluster == %q\n", word(r), r.IntN(2) == 0, word(r))
	} else {
		b.WriteString("contradicted := x if some x in input.meshseal.evidence_agreed\n")
	}
	b.WriteString("table[input.meshseal.route] := input.meshseal.cluster\ntable[\"a\"] := \"b\" if input.meshseal.workload == \"a\"\n")
	b.WriteString("made(x) := count({y: z | some y in x; some z in input.meshseal.evidence_agreed})\n")
	b.WriteString("named(x) := x.method\nnamed(x) := \"none\" if not x.method\n")
}

// generatedPolicy has rules of which each may ask for those before it, and an
// entry point.
func generatedPolicy(r *rand.Rand) string {
	var b strings.Builder
	b.WriteString("package gen.authz\n\nweb := input.attributes.request.http\nfacts := input.meshseal\n\n")
	b.WriteString("is(x, y) if x == y\n")
	n, plain := 1+r.IntN(5), r.IntN(3) == 0
	for i := range n {
		var body []string
		for range 1 + r.IntN(2) {
			body = append(body, condition(r, i, plain))
		}
		fmt.Fprintf(&b, "r%d if {\n\t%s\n}", i, strings.Join(body, "\n\t"))
		if r.IntN(4) == 0 {
			fmt.Fprintf(&b, " else := %t if {\n\t%s\n}", r.IntN(2) == 0, condition(r, i, plain))
		}
		b.WriteString("\n")
		if r.IntN(3) == 0 {
			fmt.Fprintf(&b, "default r%d := false\n", i)
		}
	}
	if !plain {
		writeContradictions(r, &b)
	}
	fmt.Fprintf(&b, "groups contains %q if {\n\t%s\n}\ngroups contains input.meshseal.route\n", word(r), condition(r, 0, plain))
	forms := 4
	if plain {
		forms = 2
	}
	switch r.IntN(forms) {
	case 0:
		b.WriteString("default allow := false\n")
		fallthrough
	case 1:
		fmt.Fprintf(&b, "allow if r%d\nallow if r%d\n", n-1, r.IntN(n))
	case 2:
		fmt.Fprintf(&b, "allow := {\"allowed\": r%d, \"headers\": {\"x-route\": input.meshseal.route}}\n", n-1)
	case 3:
		fmt.Fprintf(&b, "allow := r%d\n", n-1)
	}
	return strings.NewReplacer("parsed_query. ", "parsed_query.a ", "parsed_query.[", "parsed_query.a[", "parsed_query.)", "parsed_query.a)",
		"parsed_query.1", "parsed_query.b", "contextExtensions. ", "contextExtensions.a ", "contextExtensions.1", "contextExtensions.a", "parsed_query.\n", "parsed_query.a\n").Replace(b.String())
}

// compiledPolicies are n generated policies that Rego takes.
func compiledPolicies(t *testing.T, r *rand.Rand, n int) (programs []*Program, texts []string) {
	for tried := 0; len(programs) < n; tried++ {
		if tried > 20*n {
			t.Fatalf("only %d of %d generated policies compile", len(programs), tried)
		}
		text := generatedPolicy(r)
		p, err := Compile([]File{file("policies/gen.rego", text), file(DataPath, generatedData)}, "gen/authz/allow")
		if err != nil {
			continue
		}
		programs, texts = append(programs, p), append(texts, text)
	}
	return programs, texts
}

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

func generatedPath(r *rand.Rand) string {
	path := pick(r, "/", "//", "", "/a", "/a/b", "/a/1", "/b/a/c", "/a%2Fb", "/%61/b", "/a/", "/ü", "/%c3%bc", "/%zz", "/%ff", "a/b", "/a/%2")
	return path + pick(r, "", "", "?", "?a=a", "?a=b&a=a", "?b=a", "?a=%61", "?%61=b", "?a=a;b", "?a", "?&&", "?a=+", "?a=%ff", "?a=b&c=%zz", "?a=a?b")
}

func generatedRequest(r *rand.Rand) *authv3.CheckRequest {
	a := &authv3.AttributeContext{}
	m := &authv3.CheckRequest{Attributes: a}
	if r.IntN(50) == 0 {
		m.Attributes = nil
	}
	peer := func() *authv3.AttributeContext_Peer {
		if r.IntN(3) == 0 {
			return nil
		}
		p := &authv3.AttributeContext_Peer{Principal: word(r), Certificate: pick(r, "", "a", "xbx")}
		switch r.IntN(5) {
		case 0:
			p.Address = &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: word(r)}}}
		case 1, 2:
			p.Address = &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
				Address: word(r), PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(r.IntN(3))},
			}}}
		case 3:
			p.Address = &corev3.Address{}
		}
		return p
	}
	a.Source, a.Destination = peer(), peer()
	if r.IntN(2) == 0 {
		a.TlsSession = &authv3.AttributeContext_TLSSession{Sni: word(r)}
	}
	if r.IntN(4) == 0 {
		a.ContextExtensions = map[string]string{"a": word(r)}
	}
	if r.IntN(10) > 0 {
		a.Request = &authv3.AttributeContext_Request{}
	}
	if a.Request != nil && r.IntN(10) > 0 {
		a.Request.Http = generatedHTTP(r)
	}
	return m
}

func generatedHTTP(r *rand.Rand) *authv3.AttributeContext_HttpRequest {
	h := &authv3.AttributeContext_HttpRequest{
		Id: word(r), Method: pick(r, "GET", "a", ""), Path: generatedPath(r), Host: word(r), Scheme: pick(r, "", "http"), Size: int64(r.IntN(3) - 1),
	}
	if r.IntN(12) == 0 {
		h.Body = pick(r, `{"v": "a"}`, `{`, `a=b`)
	}
	headers := [][2]string{}
	for range r.IntN(4) {
		headers = append(headers, [2]string{pick(r, "x-v", "x-w", "x-v", "content-type", "x"), pick(r, "a", "b", "1", "2", "", "application/json", "application/json; charset=utf-8", "application/json; x", "text/plain")})
	}
	if r.IntN(4) == 0 {
		h.Headers = map[string]string{}
		for _, n := range headers {
			h.Headers[n[0]] = n[1]
		}
		return h
	}
	h.HeaderMap = &corev3.HeaderMap{}
	for _, n := range headers {
		h.HeaderMap.Headers = append(h.HeaderMap.Headers, &corev3.HeaderValue{Key: n[0], RawValue: []byte(n[1])})
	}
	return h
}

func generatedFacts(r *rand.Rand) *Facts {
	f := &Facts{SPIFFEID: "spiffe://" + word(r), Workload: word(r), Route: word(r), Cluster: word(r), Digest: word(r), Direction: pick(r, "inbound", "outbound")}
	for range r.IntN(3) {
		f.EvidenceAgreed = append(f.EvidenceAgreed, word(r))
	}
	return f
}

// decision is what became of one request, for comparison.
type decision struct {
	Result Result
	Err    string
}

func decisionOf(p *Program, input any, err error) decision {
	if err != nil {
		return decision{Err: err.Error()}
	}
	r, err := p.Eval(context.Background(), input)
	if err != nil {
		return decision{r, err.Error()}
	}
	return decision{Result: r}
}

// What a policy decides about the whole input document, about the parts of it
// that it reads, and what was remembered under the key of an earlier request is
// the same. MESHSEAL_REQUESTS is how many requests; every 20,000 are asked of 50
// other policies.
func TestRememberedDecisionsAreTheDecisions(t *testing.T) {
	count := 20_000
	if n, err := strconv.Atoi(os.Getenv("MESHSEAL_REQUESTS")); err == nil {
		count = n
	}
	var sum tally
	for batch := range (count + 19_999) / 20_000 {
		r := rand.New(rand.NewPCG(1, uint64(batch)))
		g := &generated{r: r, certificates: map[string]uint64{}}
		g.programs, g.texts = compiledPolicies(t, r, 50)
		for _, p := range g.programs {
			g.seen = append(g.seen, map[string]decision{})
			if p.Cacheable() == nil {
				g.cacheable++
			}
		}
		for n := range min(count-20_000*batch, 20_000) {
			g.ask(t, n%len(g.programs))
		}
		sum.indexed += g.indexed
		sum.programs, sum.cacheable, sum.keys, sum.hits = sum.programs+len(g.programs), sum.cacheable+g.cacheable, sum.keys+g.keys, sum.hits+g.hits
	}
	t.Logf("%d requests, %+v", count, sum)
	if sum.cacheable < sum.programs/5 || sum.cacheable == sum.programs || sum.hits < count/20 || sum.indexed < count/20 {
		t.Errorf("that shows too little")
	}
}

// tally is what a run came to: policies, those whose decisions are remembered,
// requests with a key, those whose key was there, and those whose policy was
// evaluated by OPA's index.
type tally struct{ programs, cacheable, keys, hits, indexed int }

// generated are policies, and what was remembered of each.
type generated struct {
	r            *rand.Rand
	programs     []*Program
	texts        []string
	seen         []map[string]decision
	certificates map[string]uint64

	cacheable, keys, hits, indexed int
}

func withoutIndex(p *Program) *Program {
	q, c := *p, *p.code
	c.indexed, q.code = false, &c
	return &q
}

// viewOf is a request as it is read from the bytes that Envoy sends, or from the
// message.
func viewOf(t *testing.T, r *rand.Rand, m *authv3.CheckRequest) *request.Request {
	view := &request.Request{}
	if r.IntN(2) == 0 {
		view.From(proto.CloneOf(m))
		return view
	}
	wire, err := proto.Marshal(m)
	if err == nil {
		err = view.Read(wire)
	}
	if err != nil {
		t.Fatal(err)
	}
	return view
}

func (g *generated) ask(t *testing.T, i int) {
	p, message, facts := g.programs[i], generatedRequest(g.r), generatedFacts(g.r)
	view := viewOf(t, g.r, message)
	certificate := view.Source.Certificate
	if certificate != "" && g.certificates[certificate] == 0 {
		g.certificates[certificate] = uint64(len(g.certificates) + 1)
	}
	key, ok := p.AppendKey(nil, view, facts, g.certificates[certificate])
	if ok && p.Cacheable() != nil {
		t.Fatalf("a key for what cannot be remembered: %v\n%s", p.Cacheable(), g.texts[i])
	}
	whole, err := p.Input(view.Message(), *facts)
	if err != nil && ok {
		t.Fatalf("a key for a request that is refused: %v\n%v", err, message)
	}
	want := decisionOf(p, whole, err)
	part, err := p.InputOf(view, facts)
	if diff := cmp.Diff(want, decisionOf(p, part, err), protocmp.Transform()); diff != "" {
		t.Fatalf("with what it reads: %s\n%s\n%v\n%+v\nreads %v", diff, g.texts[i], message, facts, p.Reads())
	}
	if p.code.indexed {
		g.indexed++
		if diff := cmp.Diff(want, decisionOf(withoutIndex(p), whole, nil), protocmp.Transform()); err == nil && diff != "" {
			t.Fatalf("by index: %s\n%s\n%v", diff, g.texts[i], message)
		}
	}
	if !ok {
		return
	}
	g.keys++
	before, known := g.seen[i][string(key)]
	if !known {
		g.seen[i][string(key)] = want
		return
	}
	g.hits++
	if diff := cmp.Diff(before, want, protocmp.Transform()); diff != "" {
		t.Fatalf("remembered: %s\n%s\n%v\n%+v\nreads %v", diff, g.texts[i], message, facts, p.Reads())
	}
}

// The parts of the input that are read are those of the whole document, for any
// request that can be read.
func TestRefusedRequestsAreRefusedWhateverIsRead(t *testing.T) {
	p := mustCompile(t, "package envoy.authz\nallow := true", "")
	r := rand.New(rand.NewPCG(3, 4))
	refused := 0
	for range 5000 {
		message := generatedRequest(r)
		var view request.Request
		view.From(proto.CloneOf(message))
		_, want := p.Input(view.Message(), Facts{})
		_, got := p.InputOf(&view, &Facts{})
		if fmt.Sprint(want) != fmt.Sprint(got) || errors.Is(want, ErrInput) != errors.Is(got, ErrInput) {
			t.Fatalf("%v: %v, want %v", message, got, want)
		}
		if want != nil {
			refused++
			if _, ok := p.AppendKey(nil, &view, &Facts{}, 0); ok {
				t.Fatalf("%v has a key", message)
			}
		}
	}
	if refused < 500 {
		t.Errorf("%d were refused", refused)
	}
}
