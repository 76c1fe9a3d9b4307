package opaplugin_test

import (
	"encoding/json"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// This file says what meshseal's answer has to be, given the plugin's.

// anyID stands in the place of a decision's ID, which is random.
const anyID = "ID"

// expectation is the answer that meshseal has to give and the differences that
// make it another one than the plugin's.
type expectation struct {
	answer *authv3.CheckResponse
	rows   []row
}

func (e *expectation) differ(w row) { e.rows = append(e.rows, w) }

// expect makes meshseal's answer out of the plugin's answer to the request as
// meshseal reads it. decision is the JSON that the policy decided.
func expect(r *reading, decision string, theirs *authv3.CheckResponse, err error) *expectation {
	e := &expectation{rows: slices.Clone(r.rows)}
	h := r.http()
	lacks := h != nil && (h.GetMethod() == "" || h.GetPath() == "" && h.GetMethod() != "CONNECT")
	switch {
	case lacks:
		e.differ(noRequestLine)
		e.answer = denial("REQUEST_MALFORMED")
	case r.deny:
		e.answer = denial("REQUEST_MALFORMED")
	case err != nil:
		e.differ(errorDenies)
		e.answer = denial(reasonOf(err, decision))
	case theirs.GetDeniedResponse().GetStatus().GetCode() == typev3.StatusCode_BadRequest && strings.HasPrefix(theirs.GetStatus().GetMessage(), "request_parse_error"):
		e.differ(badRequest)
		e.answer = denial("REQUEST_MALFORMED")
	default:
		e.decided(decision, theirs)
	}
	if e.answer.GetDeniedResponse() != nil {
		e.differ(ownHeaders)
	}
	return e
}

// reasonOf is the reason of a denial where the plugin has an error.
func reasonOf(err error, decision string) string {
	switch {
	case strings.Contains(err.Error(), "undefined decision") && !json.Valid([]byte(decision)):
		return "POLICY_ERROR" // of json.unmarshal, see builtin-error
	case strings.Contains(err.Error(), "undefined decision"):
		return "POLICY_UNDEFINED"
	case strings.Contains(err.Error(), "conflict"):
		return "POLICY_ERROR"
	}
	return "POLICY_RESULT"
}

func denial(reason string) *authv3.CheckResponse {
	return &authv3.CheckResponse{
		Status: &rpcstatus.Status{Code: int32(codes.PermissionDenied), Message: reason},
		HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{
			Status: &typev3.HttpStatus{Code: typev3.StatusCode_Forbidden},
			Headers: []*corev3.HeaderValueOption{
				option("x-meshseal-decision", anyID, corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD),
				option("x-meshseal-reason", reason, corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD),
			},
			Body: reason + " " + anyID + "\n",
		}},
		DynamicMetadata: &structpb.Struct{Fields: map[string]*structpb.Value{"decision_id": structpb.NewStringValue(anyID)}},
	}
}

func option(name, value string, action corev3.HeaderValueOption_HeaderAppendAction) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: name, Value: value}, AppendAction: action}
}

// decided is the answer where both came to the same decision.
func (e *expectation) decided(decision string, theirs *authv3.CheckResponse) {
	var document any
	d := json.NewDecoder(strings.NewReader(decision))
	d.UseNumber()
	_ = d.Decode(&document) // the plugin read it
	fields, object := document.(map[string]any)
	if refused := refusedFields(fields); len(refused) > 0 {
		e.rows = append(e.rows, refused...)
		e.answer = denial("POLICY_RESULT")
		return
	}
	a := proto.Clone(theirs).(*authv3.CheckResponse)
	if a.GetStatus().GetCode() == int32(codes.OK) {
		e.allowed(a, object)
	} else {
		e.denied(a, object)
	}
	e.answer = a
}

func (e *expectation) allowed(a *authv3.CheckResponse, object bool) {
	if !object {
		e.differ(booleanAnswer)
		a.HttpResponse = &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{}}
	}
	ok := a.GetOkResponse()
	if len(ok.GetHeaders())+len(ok.GetResponseHeadersToAdd()) > 0 {
		e.differ(headerOptions)
	}
	seen := map[string]bool{}
	for _, h := range sorted(ok.GetHeaders()) {
		again := seen[h.GetHeader().GetKey()]
		seen[h.GetHeader().GetKey()] = true
		if !again {
			h.AppendAction = corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD
		}
		//lint:ignore SA1019 what meshseal sends, see requestHeaders of extauthz
		h.Append = wrapperspb.Bool(again)
	}
	sorted(ok.GetResponseHeadersToAdd())
}

func (e *expectation) denied(a *authv3.CheckResponse, object bool) {
	plain := denial("POLICY_DENIED")
	a.Status = plain.GetStatus()
	if !object {
		e.differ(booleanAnswer)
		a.HttpResponse = plain.GetHttpResponse()
		return
	}
	d := a.GetDeniedResponse()
	if len(d.GetHeaders()) > 0 {
		e.differ(headerOptions)
	}
	seen := map[string]bool{}
	for _, h := range sorted(d.GetHeaders()) {
		if !seen[h.GetHeader().GetKey()] {
			h.AppendAction = corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD
		}
		seen[h.GetHeader().GetKey()] = true
	}
	d.Headers = append(d.GetHeaders(), plain.GetDeniedResponse().GetHeaders()...)
	sorted(d.GetHeaders())
	if d.GetBody() == "" {
		d.Body = plain.GetDeniedResponse().GetBody()
	}
}

// normal puts what has no order in order and takes the ID out of meshseal's
// own answer.
func normal(a *authv3.CheckResponse) *authv3.CheckResponse {
	a = proto.Clone(a).(*authv3.CheckResponse)
	ok, d := a.GetOkResponse(), a.GetDeniedResponse()
	sorted(ok.GetHeaders())
	sorted(ok.GetResponseHeadersToAdd())
	sorted(d.GetHeaders())
	slices.SortStableFunc(ok.GetQueryParametersToSet(), func(a, b *corev3.QueryParameter) int { return strings.Compare(a.GetKey(), b.GetKey()) })
	for _, h := range d.GetHeaders() {
		if h.GetHeader().GetKey() == "x-meshseal-decision" && len(h.GetHeader().GetValue()) == 32 {
			d.Body = strings.Replace(d.GetBody(), h.GetHeader().GetValue(), anyID, 1)
			h.Header.Value = anyID
		}
	}
	// The plugin's ID has another form, and both are random.
	if id := a.GetDynamicMetadata().GetFields()["decision_id"]; id.GetStringValue() != "" && id.GetStringValue() != "mine" {
		a.DynamicMetadata.Fields["decision_id"] = structpb.NewStringValue(anyID)
	}
	return a
}

// sorted orders headers by name, which it writes in lower case; values of one
// name keep their order.
func sorted(list []*corev3.HeaderValueOption) []*corev3.HeaderValueOption {
	for _, h := range list {
		h.Header.Key = strings.ToLower(h.GetHeader().GetKey())
	}
	slices.SortStableFunc(list, func(a, b *corev3.HeaderValueOption) int {
		return strings.Compare(a.GetHeader().GetKey(), b.GetHeader().GetKey())
	})
	return list
}
