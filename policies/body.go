package policies

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"slices"
	"strconv"
	"strings"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
)

// The media types of which a policy sees the body. opa-envoy-plugin looks for
// them anywhere in the header; here the header is parsed, so that a parameter
// cannot pose as the type.
const (
	jsonType      = "application/json"
	grpcType      = "application/grpc"
	formType      = "application/x-www-form-urlencoded"
	multipartType = "multipart/form-data"
)

// maxParts bounds the parts of a multipart body.
const maxParts = 1000

// parseBody is input.parsed_body and input.truncated_body. The body is nil
// when Envoy sent none, when its type is none of those above, when it is a
// gRPC call that the descriptor sets do not have, and when it was cut off.
// segments are the path's, decoded.
func (d *descriptors) parseBody(http *authv3.AttributeContext_HttpRequest, segments []any) (body any, truncated bool, err error) {
	media, params, err := contentType(http)
	if err != nil || media == "" {
		return nil, false, err
	}
	if media == grpcType {
		return d.grpcBody(http, segments)
	}
	payload := []byte(http.GetBody())
	if len(payload) == 0 {
		payload = http.GetRawBody()
	}
	if len(payload) == 0 {
		return nil, false, nil
	}
	if cut, err := isCut(http, len(payload)); err != nil || cut {
		return nil, cut, err
	}
	switch media {
	case jsonType:
		body, _, err = decodeJSON(payload)
	case formType:
		body, err = parseForm(string(payload))
	case multipartType:
		if boundary, ok := params["boundary"]; ok {
			body, err = parseMultipart(string(payload), boundary)
		}
	}
	if err != nil {
		return nil, false, fmt.Errorf("body of type %s: %w", media, err)
	}
	return body, false, nil
}

// grpcBody reads the message of a gRPC call from the raw body alone: as text,
// Envoy does not give the bytes of a message (pack_as_bytes of its
// with_request_body does). A message says its own length, so no content length
// is looked at.
func (d *descriptors) grpcBody(http *authv3.AttributeContext_HttpRequest, segments []any) (body any, truncated bool, err error) {
	if d == nil || len(http.GetRawBody()) == 0 {
		return nil, false, nil
	}
	switch {
	case len(segments) != 2:
		err = errors.New("the path is not /service/method")
	case saidToBeCut(http):
		truncated = true
	default:
		body, truncated, err = d.parseGRPC(http.GetRawBody(), segments[0].(string), segments[1].(string))
	}
	if err != nil {
		return nil, false, fmt.Errorf("body of type %s: %w", grpcType, err)
	}
	return body, truncated, nil
}

// contentType is the one of the media types above that the request's content
// type begins with, or "" for any other.
func contentType(http *authv3.AttributeContext_HttpRequest) (string, map[string]string, error) {
	values := headerValues(http.GetHeaders(), http.GetHeaderMap(), "content-type")
	if len(values) == 0 {
		return "", nil, nil
	}
	media, params, err := mime.ParseMediaType(values[0])
	if err == nil && len(values) > 1 {
		err = errors.New("the header is there more than once")
	}
	for _, known := range []string{jsonType, grpcType, formType, multipartType} {
		switch {
		case err != nil && strings.Contains(strings.ToLower(strings.Join(values, ",")), known):
			return "", nil, fmt.Errorf("content-type %q: %w", clip(strings.Join(values, ",")), err)
		case err == nil && strings.HasPrefix(media, known):
			return known, params, nil
		}
	}
	return "", nil, nil
}

// isCut reports whether Envoy sent less than the whole body: it says so in a
// header of its own, and a content length tells.
func isCut(http *authv3.AttributeContext_HttpRequest, size int) (bool, error) {
	if saidToBeCut(http) {
		return true, nil
	}
	for _, v := range headerValues(http.GetHeaders(), http.GetHeaderMap(), "content-length") {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			return false, fmt.Errorf("content-length %q is not a number", clip(v))
		}
		if n > int64(size) {
			return true, nil
		}
	}
	return false, nil
}

func saidToBeCut(http *authv3.AttributeContext_HttpRequest) bool {
	values := headerValues(http.GetHeaders(), http.GetHeaderMap(), "x-envoy-auth-partial-body")
	return slices.ContainsFunc(values, func(v string) bool { return v != "false" })
}

// parseMultipart is an object of form name to list of values: the part's
// text, or its decoded value where the part says that it is JSON. A part
// without a form name is left out.
func parseMultipart(payload, boundary string) (any, error) {
	reader := multipart.NewReader(strings.NewReader(payload), boundary)
	out := map[string]any{}
	for n := 0; ; n++ {
		part, err := reader.NextPart()
		if err == io.EOF { // one that is wrapped is no end
			if !closed(payload, boundary) {
				return nil, errors.New("the closing boundary is missing")
			}
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		if n == maxParts {
			return nil, fmt.Errorf("more than %d parts", maxParts)
		}
		name := part.FormName()
		if name == "" {
			continue
		}
		value, err := partValue(part)
		if err != nil {
			return nil, fmt.Errorf("part %q: %w", clip(name), err)
		}
		list, _ := out[name].([]any)
		out[name] = append(list, value)
	}
}

// closed reports whether the closing boundary ends the parts. The reader gives
// the same io.EOF where the body ends within the header of a part, and then
// leaves that part out.
func closed(payload, boundary string) bool {
	lines := strings.SplitAfter(payload, "\n")
	bare := false // lines end in \n alone, as the reader takes it from the first boundary
	if i := slices.IndexFunc(lines, func(l string) bool { return strings.TrimRight(l, " \t\r\n") == "--"+boundary }); i >= 0 {
		bare = !strings.HasSuffix(lines[i], "\r\n")
	}
	for i, line := range lines {
		rest, ok := strings.CutPrefix(line, "--"+boundary+"--")
		if ok && strings.Trim(rest, " \t\r\n") == "" && (i == 0 || bare || strings.HasSuffix(lines[i-1], "\r\n")) {
			return true
		}
	}
	return false
}

func partValue(part *multipart.Part) (any, error) {
	data, err := io.ReadAll(part)
	if err != nil {
		return nil, err
	}
	if strings.Contains(strings.ToLower(part.Header.Get("Content-Type")), jsonType) {
		v, _, err := decodeJSON(data)
		return v, err
	}
	return string([]rune(string(data))), nil // U+FFFD for each byte that is no text
}
