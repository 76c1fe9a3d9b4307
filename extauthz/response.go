package extauthz

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"meshseal/policies"
)

// Headers of a denial. The body says the same unless the policy gave its own.
const (
	HeaderReason   = "x-meshseal-reason"
	HeaderDecision = "x-meshseal-decision"
)

// answer is an encoded CheckResponse for any number of decisions, of which only
// the ID differs. It is never changed.
type answer struct {
	allows bool
	bytes  []byte
	ids    []int // where in bytes the text of the ID stands
}

// placeholder is the ID in answers that are made for no decision yet. It is
// random, so nothing else in an answer is equal to it.
var placeholder = newID()

// newAnswer encodes the answer of a decision with the ID placeholder.
func newAnswer(m *authv3.CheckResponse) (*answer, error) {
	encoded, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode an answer: %w", err)
	}
	a := &answer{bytes: encoded, allows: m.GetStatus().GetCode() == int32(codes.OK)}
	id := []byte(placeholder.String())
	for at := 0; ; at += len(id) {
		next := bytes.Index(encoded[at:], id)
		if next < 0 {
			break
		}
		at += next
		a.ids = append(a.ids, at)
	}
	if len(a.ids) == 0 {
		return nil, errNoID
	}
	return a, nil
}

// denials are the answers of each reason.
var denials = func() map[Reason]*answer {
	m := map[Reason]*answer{}
	for _, r := range reasons {
		if r.Reason == OK {
			continue
		}
		a, err := newAnswer(denied(placeholder, r.Reason, nil))
		if err != nil {
			panic(err) // made of constants
		}
		m[r.Reason] = a
	}
	return m
}()

// appendAnswer is the one place where an answer to Envoy is given. An answer that
// is not of the decision's kind is never given.
func (d Decision) appendAnswer(dst []byte) []byte {
	a := d.answer
	if a == nil {
		a = denials[d.Reason()]
	}
	if a == nil || a.allows != d.Allowed() {
		a = denials[Internal]
	}
	begin := len(dst)
	dst = append(dst, a.bytes...)
	for _, at := range a.ids {
		hex.Encode(dst[begin+at:begin+at+idLength], d.id[:])
	}
	return dst
}

// allowed is the answer that lets a request go on, with what the policy wants
// done to it.
func allowed(id decisionID, r policies.Result) *authv3.CheckResponse {
	return &authv3.CheckResponse{
		Status: &status.Status{Code: int32(codes.OK)},
		HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{
			Headers:                 requestHeaders(r.Headers),
			HeadersToRemove:         r.RequestHeadersToRemove,
			ResponseHeadersToAdd:    responseHeaders(r.ResponseHeadersToAdd),
			QueryParametersToSet:    queryParameters(r.QueryParametersToSet),
			QueryParametersToRemove: r.QueryParametersToRemove,
		}},
		DynamicMetadata: withID(r.DynamicMetadata, id),
	}
}

// denied is the answer that lets nothing go on. An empty CheckResponse would
// allow, and a gRPC error is allowed where a filter has failure_mode_allow set;
// so each denial is a status other than OK together with a DeniedHttpResponse.
// The policy's own is nil where it was not asked, or said no more than no.
func denied(id decisionID, reason Reason, policy *policies.Result) *authv3.CheckResponse {
	var own policies.Result
	if policy != nil {
		own = *policy
	}
	body := own.Body
	if body == "" {
		body = string(reason) + " " + id.String() + "\n"
	}
	headers := denialHeaders(append(slices.Clip(own.Headers),
		policies.Header{Name: HeaderReason, Value: string(reason)}, policies.Header{Name: HeaderDecision, Value: id.String()}))
	return &authv3.CheckResponse{
		Status: &status.Status{Code: int32(codes.PermissionDenied), Message: string(reason)},
		HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{
			Status:  &typev3.HttpStatus{Code: typev3.StatusCode(denialStatus(own))},
			Headers: headers,
			Body:    body,
		}},
		DynamicMetadata: withID(own.DynamicMetadata, id),
	}
}

// withID is what the policy puts into the dynamic metadata, and the decision's
// ID beside it, so that Envoy's access log can name the record:
// %DYNAMIC_METADATA(envoy.filters.http.ext_authz:decision_id)%. The name is that
// of opa-envoy-plugin.
func withID(policy *structpb.Struct, id decisionID) *structpb.Struct {
	fields := maps.Clone(policy.GetFields())
	if fields == nil {
		fields = map[string]*structpb.Value{}
	}
	fields["decision_id"] = structpb.NewStringValue(id.String())
	return &structpb.Struct{Fields: fields}
}
