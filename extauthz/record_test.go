package extauthz_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/google/go-cmp/cmp"

	"meshseal/extauthz"
)

// line is a record as it is written.
func line(t testing.TB, r extauthz.Record) string {
	t.Helper()
	var b bytes.Buffer
	if err := extauthz.NewLines(&b).Record(r); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// erased are the pointers to what a record leaves out.
func erased(t testing.TB, r extauthz.Record) (pointers []string) {
	t.Helper()
	if err := json.Unmarshal(r.Erased, &pointers); err != nil {
		t.Fatalf("erased: %v: %s", err, r.Erased)
	}
	return pointers
}

// TestRecord holds every field of a record of an allowed request.
func TestRecord(t *testing.T) {
	w := newWorld(t)
	w.wants(t, w.honest(), extauthz.OK)
	r := w.records.last(t)
	st := w.server.InForce().Snapshot().Statement()
	want := extauthz.Account{Decision: "allow", Reason: extauthz.OK, Step: extauthz.StepPolicy, Facts: extauthz.Facts{
		Snapshot: st.Root.String(), Commit: st.Commit, Sequence: 7, Proxy: "orders", Direction: "inbound",
		SPIFFEID: webID, TrustDomain: "shop.test", Digest: image("web-1").String(), Evidence: "peer-x509-svid", Workload: "web",
		Listener: "in", Chain: "http", Route: "api", Cluster: "app",
	}}
	if diff := cmp.Diff(want, r.Meshseal); diff != "" {
		t.Errorf("meshseal (-want +got):\n%s", diff)
	}
	if len(r.DecisionID) != 32 || r.Path != "envoy/authz/allow" || string(r.Result) != "true" || !r.Timestamp.Equal(w.clock.Now()) || r.Labels["id"] != "test" {
		t.Errorf("record: %+v", r)
	}
	if want := "spiffe://shop.test/ns/shop/orders/sha256/" + image("orders-1").Hex(); r.RequestedBy != want {
		t.Errorf("requested by %q, wanted %q", r.RequestedBy, want)
	}
	var got map[string]any
	if err := json.Unmarshal([]byte(line(t, r)), &got); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"labels", "decision_id", "path", "input", "result", "erased", "requested_by", "timestamp", "metrics", "meshseal"} {
		if _, ok := got[key]; !ok {
			t.Errorf("the line has no %q", key)
		}
	}
	if got["input"].(map[string]any)["attributes"].(map[string]any)["request"].(map[string]any)["http"].(map[string]any)["path"] != "/api?x=1" {
		t.Errorf("input: %v", got["input"])
	}
}

// TestRecordIDsDiffer: a decision is named once.
func TestRecordIDsDiffer(t *testing.T) {
	w := newWorld(t)
	seen := map[string]bool{}
	for range 100 {
		w.ask(w.honest())
		if id := w.records.last(t).DecisionID; seen[id] {
			t.Fatalf("%s twice", id)
		} else {
			seen[id] = true
		}
	}
}

// TestRecordLeaksNothing: no secret of the request is in the record, whether
// it was allowed, denied or unreadable, and what is left out is named.
func TestRecordLeaksNothing(t *testing.T) {
	const secret = "s3cr3t"
	headers := []string{"authorization", "cookie", "proxy-authorization", "x-amz-security-token", "x-api-key", "x-auth-token", "x-csrf-token", "x-forwarded-client-cert"}
	w := newWorld(t)
	for i, path := range []string{"/api", "/%zz", "/raw"} {
		q := w.honest()
		h := q.req.Attributes.Request.Http
		h.Path, h.Body, h.RawBody = path, secret, []byte(secret)
		q.req.Attributes.Destination.Certificate = secret
		raw := &corev3.HeaderMap{Headers: []*corev3.HeaderValue{{Key: "x-kept", RawValue: []byte("kept")}}}
		h.Headers["x-kept"] = "kept"
		for _, name := range headers {
			h.Headers[name] = secret
			raw.Headers = append(raw.Headers, &corev3.HeaderValue{Key: strings.ToUpper(name), RawValue: []byte(secret)})
		}
		if i == 2 { // as raw headers, one of them not UTF-8
			raw.Headers = append(raw.Headers, &corev3.HeaderValue{Key: "cookie", RawValue: []byte(secret + "\xff")})
			h.Headers, h.HeaderMap = nil, raw
		}
		w.ask(q)
		r := w.records.last(t)
		got := line(t, r)
		for _, leak := range []string{secret, "czNjcjN0", "BEGIN", "CERTIFICATE"} { // as text and as base64
			if strings.Contains(got, leak) {
				t.Errorf("path %s: %q is in the record: %s", path, leak, got)
			}
		}
		if !strings.Contains(got, "x-kept") || !strings.Contains(got, `"path":"`+path) {
			t.Errorf("path %s: more is gone than has to: %s", path, got)
		}
		want := []string{"/input/attributes/source/certificate", "/input/attributes/destination/certificate",
			"/input/attributes/request/http/body", "/input/attributes/request/http/rawBody", "/input/parsed_body"}
		for _, name := range headers {
			want = append(want, "/input/attributes/request/http/headers/"+name)
		}
		slices.Sort(want)
		if diff := cmp.Diff(want, slices.Sorted(slices.Values(erased(t, r)))); diff != "" {
			t.Errorf("path %s: erased (-want +got):\n%s", path, diff)
		}
		if i != 2 && q.req.Attributes.Request.Http.Headers["cookie"] != secret {
			t.Error("the request itself was changed")
		}
	}
}

// TestRecordLeaksNoToken: a JWT-SVID is left out wherever it comes, by the name
// of its header and by its form: before there is a snapshot, in the header of
// the snapshot before, in upper case, in another header, as raw headers, and
// where a policy makes an error of it.
func TestRecordLeaksNoToken(t *testing.T) {
	key := newIssuer(t, "one")
	token := key.sign(map[string]any{"sub": webSVID()})
	parts := strings.Split(token, ".")
	clean := func(w *world, q *question, header string) {
		t.Helper()
		w.ask(q)
		r := w.records.last(t)
		for _, part := range append(parts[1:], "opaque-secret") {
			if text := line(t, r); strings.Contains(text, part) {
				t.Errorf("%s: %q is in the record: %s", header, part, text)
			}
		}
		if want := "/input/attributes/request/http/headers/" + header; !slices.Contains(erased(t, r), want) {
			t.Errorf("%s: erased %q", header, r.Erased)
		}
	}
	showing := func(w *world, header, value string) *question {
		q := w.honest()
		q.req.Attributes.Request.Http.Headers[header] = value
		return q
	}
	none := empty(t)
	clean(none, showing(none, tokenHeader, token), tokenHeader)
	clean(none, showing(none, "x-any", "Token "+token), "x-any")

	e := demanding(t, demandJWT)
	for _, value := range []string{token, "opaque-secret", token + "," + token} {
		clean(e.world, showing(e.world, tokenHeader, value), tokenHeader)
		clean(e.world, showing(e.world, "X-SPIFFE-JWT-SVID", value), "X-SPIFFE-JWT-SVID")
		q := showing(e.world, tokenHeader, value)
		q.req.Attributes.Request.Http.Path = "/%zz"
		clean(e.world, q, tokenHeader)
		q = showing(e.world, tokenHeader, value)
		q.without("meshseal-listener-mark")
		clean(e.world, q, tokenHeader)
	}
	raw := e.honest()
	h := raw.req.Attributes.Request.Http
	h.Headers, h.HeaderMap = nil, &corev3.HeaderMap{Headers: []*corev3.HeaderValue{{Key: "X-Spiffe-JWT-SVID", RawValue: []byte("opaque-secret\xff")}}}
	clean(e.world, raw, tokenHeader)

	next := shop(t)
	next.content.Mesh.Evidence = everySource
	next.content.Mesh.Evidence.JWT.Header = "x-next"
	e.adopt(next, 8)
	clean(e.world, showing(e.world, "x-next", "opaque-secret"), "x-next")
	clean(e.world, showing(e.world, tokenHeader, "opaque-secret"), tokenHeader)

	for _, rego := range []string{
		`allow if to_number(input.attributes.request.http.headers["x-spiffe-jwt-svid"]) > 1`,
		`allow if io.jwt.verify_es256(input.attributes.request.http.headers["x-spiffe-jwt-svid"], "no key")`,
	} {
		e := demanding(t, nil, policy(rego))
		clean(e.world, showing(e.world, tokenHeader, token), tokenHeader)
	}
}

// TestRecordOfPolicyErrorLeaksNothing: an error of a built-in function quotes
// what it was given.
func TestRecordOfPolicyErrorLeaksNothing(t *testing.T) {
	for _, rego := range []string{
		`allow if to_number(input.attributes.request.http.headers.authorization) > 1`,
		`allow if regex.match(concat("", ["[", input.attributes.request.http.headers.authorization]), "x")`,
		`allow if time.parse_rfc3339_ns(input.attributes.request.http.headers.authorization) > 1`,
	} {
		w := newWorld(t, policy(rego))
		q := w.honest()
		q.req.Attributes.Request.Http.Headers["authorization"] = `s3cr3t "with" quotes\`
		w.wants(t, q, extauthz.PolicyError)
		r := w.records.last(t)
		if got := line(t, r); strings.Contains(got, "s3cr3t") || strings.Contains(got, "quotes") {
			t.Errorf("%s: %s", rego, r.Meshseal.Detail)
		}
		if !strings.Contains(r.Meshseal.Detail, "policies/authz.rego:3") {
			t.Errorf("the detail does not name the place: %s", r.Meshseal.Detail)
		}
	}
}

// TestRecordOfDenial: facts of steps that were not reached are absent.
func TestRecordOfDenial(t *testing.T) {
	w := newWorld(t)
	w.wants(t, w.honest().with(""), extauthz.PeerCertificateMissing)
	got := w.records.last(t).Meshseal
	if got.Proxy != "orders" || got.Listener != "in" || got.SPIFFEID != "" || got.Digest != "" || got.Route != "" || got.Detail == "" {
		t.Errorf("%+v", got)
	}
	w.wants(t, w.honest().with(""), extauthz.PeerCertificateMissing)
	if r := w.records.last(t); r.Result != nil || r.Path != "envoy/authz/allow" {
		t.Errorf("%+v", r)
	}
}

// TestRecordStaysOneLine: nothing in a request ends or forges a line.
func TestRecordStaysOneLine(t *testing.T) {
	w := newWorld(t)
	q := w.honest()
	h := q.req.Attributes.Request.Http
	h.Path = "/a\r\n{\"meshseal\":{\"decision\":\"allow\"}}\n\u2028\x1b[2J\x00\x7f\u009b2J\u0080"
	h.Headers["x-\n"] = "\n"
	w.ask(q)
	got := line(t, w.records.last(t))
	if strings.Count(got, "\n") != 1 || !strings.HasSuffix(got, "\n") || strings.ContainsAny(got, "\r\x1b\x00\u2028\x7f\u009b\u0080") {
		t.Errorf("not one clean line: %q", got)
	}
	var r struct {
		Input struct {
			Attributes struct {
				Request struct {
					HTTP struct{ Path string } `json:"http"`
				}
			}
		}
	}
	if err := json.Unmarshal([]byte(got), &r); err != nil || r.Input.Attributes.Request.HTTP.Path != h.Path {
		t.Errorf("%v: the path reads back as %q", err, r.Input.Attributes.Request.HTTP.Path)
	}
}

// disk is a writer that fails as a disk does.
type disk struct {
	bytes.Buffer
	room int // bytes that still fit; negative for no end
}

func (d *disk) Write(p []byte) (int, error) {
	if d.room >= 0 && len(p) > d.room {
		n, _ := d.Buffer.Write(p[:d.room])
		d.room = 0
		return n, errors.New("no space left on device")
	}
	return d.Buffer.Write(p)
}

// TestLinesAfterAFullDisk: half a record that was written before the disk was
// full does not spoil the next.
func TestLinesAfterAFullDisk(t *testing.T) {
	d := &disk{room: -1}
	l := extauthz.NewLines(d)
	write := func(id string) error { return l.Record(extauthz.Record{DecisionID: id}) }
	if err := write("first"); err != nil {
		t.Fatal(err)
	}
	d.room = 20
	for range 3 {
		if err := write("lost"); err == nil || !strings.Contains(err.Error(), "lost") {
			t.Fatalf("a record that did not fit: %v", err)
		}
	}
	d.room = -1
	for _, id := range []string{"second", "third"} {
		if err := write(id); err != nil {
			t.Fatal(err)
		}
	}
	var whole []string
	for text := range strings.Lines(d.String()) {
		var r extauthz.Record
		if json.Unmarshal([]byte(text), &r) == nil {
			whole = append(whole, r.DecisionID)
		}
	}
	if diff := cmp.Diff([]string{"first", "second", "third"}, whole); diff != "" {
		t.Errorf("whole records (-want +got):\n%s", diff)
	}
}

// short writes less than it was given and says nothing, against io.Writer's
// contract.
type short struct{}

func (short) Write(p []byte) (int, error) { return len(p) / 2, nil }

func TestLinesShortWrite(t *testing.T) {
	if err := extauthz.NewLines(short{}).Record(extauthz.Record{}); err == nil {
		t.Error("half a record counts as written")
	}
}

// unsynced writes everything and fails nevertheless.
type unsynced struct{}

func (unsynced) Write(p []byte) (int, error) { return len(p), errors.New("fsync: input/output error") }

func TestLinesWrittenWithAnError(t *testing.T) {
	if err := extauthz.NewLines(unsynced{}).Record(extauthz.Record{}); err == nil || !strings.Contains(err.Error(), "fsync") {
		t.Errorf("a record whose write failed counts as kept: %v", err)
	}
}

func TestLinesFromManyGoroutines(t *testing.T) {
	var b bytes.Buffer
	l := extauthz.NewLines(&b)
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if err := l.Record(extauthz.Record{DecisionID: strings.Repeat(fmt.Sprint(i%10), 1000)}); err != nil {
				t.Error(err)
			}
		}()
	}
	wg.Wait()
	n := 0
	for text := range strings.Lines(b.String()) {
		n++
		var r extauthz.Record
		if err := json.Unmarshal([]byte(text), &r); err != nil || strings.Trim(r.DecisionID, r.DecisionID[:1]) != "" {
			t.Errorf("%v: %s", err, text)
		}
	}
	if n != 50 {
		t.Errorf("%d lines, wanted 50", n)
	}
}

// TestRecordOfWhatJSONCannotSay: it is an error, not half a record.
func TestRecordOfWhatJSONCannotSay(t *testing.T) {
	var b bytes.Buffer
	if err := extauthz.NewLines(&b).Record(extauthz.Record{Result: []byte("{\n}")}); err == nil || b.Len() > 0 {
		t.Errorf("%v, wrote %q", err, b.String())
	}
}
