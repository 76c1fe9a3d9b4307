package integration

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// bodyLimit is how many bytes of a body the policy of TestBodyAtTheLimit gets.
const bodyLimit = 64

const bodyPolicy = `package envoy.authz

default allow := false

allow if {
	input.meshseal.workload == "client"
	input.attributes.request.http.method == "GET"
}

allow if {
	input.meshseal.workload == "client"
	not input.truncated_body
	input.parsed_body.user == "ann"
}
`

// TestBodyAtTheLimit: a body that just fits is judged whole, and of one with a
// byte more nothing reaches the backend, however its end is told. What comes
// before the limit would be allowed by itself.
func TestBodyAtTheLimit(t *testing.T) {
	t.Parallel()
	fits := pad(`{"user":"ann"}`, bodyLimit)
	for _, mode := range []struct {
		name    string
		partial bool
		over    int // the status of a body above the limit
	}{{"cut off", true, http.StatusForbidden}, {"refused by Envoy", false, http.StatusRequestEntityTooLarge}} {
		t.Run(mode.name, func(t *testing.T) {
			t.Parallel()
			authz := fmt.Sprintf(`http_filters: [{name: authz, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz,
          transport_api_version: V3, with_request_body: {max_request_bytes: %d, allow_partial_message: %t},
          grpc_service: {envoy_grpc: {cluster_name: app}}}}, `, bodyLimit, mode.partial)
			s := newShop(t, edit(t, "proxies/app/listeners.yaml", "http_filters: [", authz), func(files map[string]string) {
				files["policies/policy.rego"] = bodyPolicy
			})
			s.appEnvoy()
			c := s.client(t)
			for name, q := range map[string]struct {
				body string
				code int
			}{
				"one byte less":                 {fits[:bodyLimit-1], http.StatusOK},
				"at the limit":                  {fits, http.StatusOK},
				"at the limit, what is refused": {pad(`{"user":"eve"}`, bodyLimit), http.StatusForbidden},
				"one byte more":                 {fits + " ", mode.over},
				"another document behind it":    {fits + `{"user":"eve"}`, mode.over},
				"much more":                     {fits + strings.Repeat(" ", 100_000), mode.over},
				"nothing":                       {"", http.StatusForbidden},
				"half a document":               {fits[:13], http.StatusForbidden},
			} {
				for _, chunked := range []bool{false, true} {
					t.Run(fmt.Sprintf("%s, chunked %t", name, chunked), func(t *testing.T) {
						s.app.Forget()
						code := post(t, c, s.url("/items/1"), q.body, chunked, nil)
						if code != q.code {
							t.Errorf("answered %d, wanted %d", code, q.code)
						}
						wantSeen(t, s, q.code, q.body)
					})
				}
			}
			t.Run("Envoy's own word, spoofed", func(t *testing.T) {
				s.app.Forget()
				code := post(t, c, s.url("/items/1"), fits+" ", true, http.Header{"X-Envoy-Auth-Partial-Body": {"false"}})
				if code != mode.over {
					t.Errorf("answered %d, wanted %d", code, mode.over)
				}
				wantSeen(t, s, mode.over, "")
			})
		})
	}
}

// pad is a JSON text with spaces behind it.
func pad(text string, size int) string { return text + strings.Repeat(" ", size-len(text)) }

func post(t *testing.T, c *http.Client, url, text string, chunked bool, header http.Header) int {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	r.Header = header.Clone()
	if r.Header == nil {
		r.Header = http.Header{}
	}
	r.Header.Set("Content-Type", "application/json")
	if chunked { // a length that is not known
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader(text)), -1
	}
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	body(t, resp.Body)
	return resp.StatusCode
}

// wantSeen: the backend got the whole body, or nothing.
func wantSeen(t *testing.T, s *shop, code int, text string) {
	t.Helper()
	seen := s.app.Seen()
	if code != http.StatusOK {
		if len(seen) != 0 {
			t.Errorf("the backend saw %+v", seen)
		}
		return
	}
	if len(seen) != 1 || seen[0].Body != text {
		t.Errorf("the backend saw %+v, wanted the body %q", seen, text)
	}
}
