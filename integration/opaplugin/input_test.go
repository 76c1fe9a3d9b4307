package opaplugin_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io"
	"math"
	"mime"
	"mime/multipart"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/proto"
)

// This file says what meshseal's input document has to be, given the plugin's:
// which requests it reads as another one, and which it refuses. It reads
// requests by itself, so that a mistake in the code under test does not excuse
// itself.

var kinds = []string{"application/json", "application/grpc", "application/x-www-form-urlencoded", "multipart/form-data"}

// reading is a request as meshseal reads it, in the plugin's words.
type reading struct {
	req  *authv3.CheckRequest // what the plugin reads as meshseal reads the original
	kind string               // of kinds, or empty
	rows []row                // the differences on the way
	deny bool                 // it is refused
}

func (r *reading) http() *authv3.AttributeContext_HttpRequest {
	return r.req.GetAttributes().GetRequest().GetHttp()
}

func (r *reading) differ(w row) { r.rows = append(r.rows, w) }

func (r *reading) refuse(w row) { r.differ(w); r.deny = true }

// read takes the differences in the order in which meshseal comes to them.
func read(original *authv3.CheckRequest) *reading {
	r := &reading{req: proto.Clone(original).(*authv3.CheckRequest)}
	if r.req.GetAttributes() == nil {
		r.refuse(noAttributes)
		return r
	}
	if r.http() == nil {
		return r
	}
	r.moveHeaders()
	r.readPath()
	r.readType()
	if r.deny || r.kind == "" || len(r.payload()) == 0 {
		return r
	}
	if cut := r.http().GetHeaders()["x-envoy-auth-partial-body"]; cut != "" && cut != "false" {
		r.differ(partialBody)
		r.cut()
		return r
	}
	r.readBody()
	return r
}

// moveHeaders writes headers in raw form as the others.
func (r *reading) moveHeaders() {
	h := r.http()
	if h.GetHeaderMap() == nil {
		return
	}
	r.differ(rawHeaders)
	h.Headers = map[string]string{}
	for _, v := range h.GetHeaderMap().GetHeaders() {
		name := strings.ToLower(v.GetKey())
		if before, ok := h.Headers[name]; ok {
			h.Headers[name] = before + "," + string(v.GetRawValue())
		} else {
			h.Headers[name] = string(v.GetRawValue())
		}
	}
	h.HeaderMap = nil
}

func (r *reading) readPath() {
	path, query, _ := strings.Cut(r.http().GetPath(), "?")
	decoded, err := url.PathUnescape(path)
	values, err2 := url.ParseQuery(query)
	if err == nil && err2 == nil && !(utf8.ValidString(decoded) && validValues(values)) {
		r.refuse(notUTF8)
	}
}

func validValues(v url.Values) bool {
	for name, list := range v {
		if !utf8.ValidString(name + strings.Join(list, "")) {
			return false
		}
	}
	return true
}

// readType finds what the content type begins with, and writes the header so
// that the plugin finds the same.
func (r *reading) readType() {
	header, ok := r.http().GetHeaders()["content-type"]
	if !ok {
		return
	}
	media, params, err := mime.ParseMediaType(header)
	theirs, anywhere := "", ""
	for _, k := range kinds {
		if theirs == "" && strings.Contains(header, k) {
			theirs = k
		}
		if anywhere == "" && strings.Contains(strings.ToLower(header), k) {
			anywhere = k
		}
		if err == nil && r.kind == "" && strings.HasPrefix(media, k) {
			r.kind = k
		}
	}
	if err != nil {
		if anywhere != "" {
			r.refuse(malformedType)
		}
		return
	}
	if r.kind == theirs {
		return
	}
	if strings.HasPrefix(strings.ToLower(strings.TrimSpace(header)), anywhere) && theirs == "" {
		r.differ(capitals)
	} else {
		r.differ(typeElsewhere)
	}
	plain := r.kind
	if plain == "" {
		plain = "text/plain"
	}
	if b, ok := params["boundary"]; ok && r.kind == "multipart/form-data" {
		plain += `; boundary="` + b + `"`
	}
	r.http().Headers["content-type"] = plain
}

func (r *reading) payload() []byte {
	if body := r.http().GetBody(); body != "" && r.kind != "application/grpc" {
		return []byte(body)
	}
	return r.http().GetRawBody()
}

// cut makes the plugin find the body cut off.
func (r *reading) cut() {
	if r.kind == "application/grpc" {
		r.http().RawBody = []byte{0, 255, 255, 255, 255}
		return
	}
	r.http().Headers["content-length"] = strconv.Itoa(len(r.payload()) + 1)
}

// readBody finds what is refused in a body that the plugin reads.
func (r *reading) readBody() {
	payload := r.payload()
	if length, ok := r.http().GetHeaders()["content-length"]; ok && r.kind != "application/grpc" {
		if n, err := strconv.ParseInt(length, 10, 64); err != nil || n > int64(len(payload)) {
			return // both refuse it, or find it cut off
		}
	}
	switch r.kind {
	case "application/json":
		r.readJSON(payload)
	case "application/x-www-form-urlencoded":
		if v, err := url.ParseQuery(string(payload)); err == nil && !validValues(v) {
			r.refuse(notUTF8)
		}
	case "multipart/form-data":
		r.readParts(payload)
	case "application/grpc":
		r.readMessage(payload)
	}
}

// readJSON looks for what makes JSON ambiguous. What is no JSON is refused by
// both.
func (r *reading) readJSON(text []byte) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var whole any
	if d.Decode(&whole) != nil {
		return
	}
	rest, err := io.ReadAll(io.MultiReader(d.Buffered(), bytes.NewReader(nil)))
	if tail := strings.TrimLeft(string(rest), " \t\r\n"); err != nil || tail != "" {
		if strings.HasPrefix(tail, "null") {
			r.refuse(trailingNull)
		}
		return
	}
	if !utf8.Valid(text) {
		r.refuse(notUTF8)
	}
	if depth(whole) > 200 {
		r.refuse(tooDeep)
	}
	if hugeNumber(whole) {
		r.refuse(hugeNumbers)
	}
	if twice(json.NewDecoder(bytes.NewReader(text))) {
		r.refuse(keyTwice)
	}
}

func depth(v any) int {
	most := 0
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			most = max(most, 1+depth(e))
		}
	case map[string]any:
		for _, e := range v {
			most = max(most, 1+depth(e))
		}
	}
	return most
}

func hugeNumber(v any) bool {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			if hugeNumber(e) {
				return true
			}
		}
	case map[string]any:
		for _, e := range v {
			if hugeNumber(e) {
				return true
			}
		}
	case json.Number:
		f, err := v.Float64()
		return err != nil || math.IsInf(f, 0) || len(v) > 400
	}
	return false
}

// twice reports whether an object of the JSON value names a key twice.
func twice(d *json.Decoder) bool {
	type level struct {
		keys map[string]bool // nil in an array
		key  bool            // the next string is a key
	}
	var open []*level
	for {
		t, err := d.Token()
		if err != nil {
			return false
		}
		top := &level{}
		if len(open) > 0 {
			top = open[len(open)-1]
		}
		switch t := t.(type) {
		case json.Delim:
			switch t {
			case '{':
				top.key = true
				open = append(open, &level{keys: map[string]bool{}, key: true})
			case '[':
				top.key = true
				open = append(open, &level{})
			default:
				open = open[:len(open)-1]
			}
			continue
		case string:
			if top.keys != nil && top.key {
				if top.keys[t] {
					return true
				}
				top.keys[t], top.key = true, false
				continue
			}
		}
		top.key = true
	}
}

var jsonType = regexp.MustCompile(`(?i)application/json`)

func (r *reading) readParts(payload []byte) {
	_, params, _ := mime.ParseMediaType(r.http().GetHeaders()["content-type"])
	boundary := params["boundary"]
	if boundary == "" {
		return
	}
	if lower := jsonType.ReplaceAll(payload, []byte("application/json")); !bytes.Equal(lower, payload) {
		r.differ(capitals)
		payload = lower
		if r.http().Body != "" {
			r.http().Body = string(lower)
		} else {
			r.http().RawBody = lower
		}
	}
	parts := multipart.NewReader(bytes.NewReader(payload), boundary)
	for n := 1; ; n++ {
		p, err := parts.NextPart()
		if err == io.EOF {
			if !ends(payload, boundary) {
				r.refuse(openMultipart)
			}
			return
		}
		if err != nil {
			return
		}
		if n > 1000 {
			r.refuse(manyParts)
			return
		}
		if p.FormName() == "" {
			continue
		}
		value, err := io.ReadAll(p)
		if err != nil {
			return
		}
		if strings.Contains(p.Header.Get("Content-Type"), "application/json") {
			r.readJSON(value)
		}
	}
}

// ends reports whether a line of the body is the closing boundary, by the line
// ends of the first boundary.
func ends(payload []byte, boundary string) bool {
	b := regexp.QuoteMeta("--" + boundary)
	before := "\r\n"
	if first := regexp.MustCompile(`(?m)^` + b + `[ \t]*\r?\n`).Find(payload); first != nil && !bytes.HasSuffix(first, []byte("\r\n")) {
		before = "\n"
	}
	return regexp.MustCompile(`(^|` + before + `)` + b + `--[ \t\r]*(\n|$)`).Match(payload)
}

func (r *reading) readMessage(frame []byte) {
	path, _, _ := strings.Cut(r.http().GetPath(), "?")
	decoded, _ := url.PathUnescape(path)
	if strings.TrimLeft(decoded, "/") != "shop.Orders/Put" || len(frame) < 5 || frame[0] != 0 {
		return
	}
	size := int(binary.BigEndian.Uint32(frame[1:]))
	if size > 1<<18 && size <= len(frame)-5 {
		r.refuse(largeMessage)
	}
	if size < len(frame)-5 {
		r.refuse(secondMessage)
	}
}
