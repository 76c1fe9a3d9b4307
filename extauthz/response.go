package extauthz

import (
	"maps"
	"slices"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/structpb"

	"meshseal/policies"
)

// Headers of a denial. The body says the same unless the policy gave its own.
const (
	HeaderReason   = "x-meshseal-reason"
	HeaderDecision = "x-meshseal-decision"
)

// respond is the one place where an answer to Envoy is made. An empty
// CheckResponse would allow, and a gRPC error is allowed where a filter has
// failure_mode_allow set; so each denial is a status other than OK together
// with a DeniedHttpResponse.
func respond(d Decision) *authv3.CheckResponse {
	if !d.Allowed() {
		return denied(d)
	}
	r := d.edits
	return &authv3.CheckResponse{
		Status: &status.Status{Code: int32(codes.OK)},
		HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{
			Headers:                 requestHeaders(r.Headers),
			HeadersToRemove:         r.RequestHeadersToRemove,
			ResponseHeadersToAdd:    responseHeaders(r.ResponseHeadersToAdd),
			QueryParametersToSet:    queryParameters(r.QueryParametersToSet),
			QueryParametersToRemove: r.QueryParametersToRemove,
		}},
		DynamicMetadata: withID(r.DynamicMetadata, d.id),
	}
}

func denied(d Decision) *authv3.CheckResponse {
	reason := string(d.Reason())
	var own policies.Result
	if d.edits != nil {
		own = *d.edits
	}
	body := own.Body
	if body == "" {
		body = reason + " " + d.id + "\n"
	}
	headers := denialHeaders(append(slices.Clip(own.Headers),
		policies.Header{Name: HeaderReason, Value: reason}, policies.Header{Name: HeaderDecision, Value: d.id}))
	return &authv3.CheckResponse{
		Status: &status.Status{Code: int32(codes.PermissionDenied), Message: reason},
		HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{
			Status:  &typev3.HttpStatus{Code: typev3.StatusCode(denialStatus(d))},
			Headers: headers,
			Body:    body,
		}},
		DynamicMetadata: withID(own.DynamicMetadata, d.id),
	}
}

// withID is what the policy puts into the dynamic metadata, and the decision's
// ID beside it, so that Envoy's access log can name the record:
// %DYNAMIC_METADATA(envoy.filters.http.ext_authz:decision_id)%. The name is that
// of opa-envoy-plugin.
func withID(policy *structpb.Struct, id string) *structpb.Struct {
	fields := maps.Clone(policy.GetFields())
	if fields == nil {
		fields = map[string]*structpb.Value{}
	}
	fields["decision_id"] = structpb.NewStringValue(id)
	return &structpb.Struct{Fields: fields}
}
