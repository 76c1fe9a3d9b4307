package integration

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"os"
	"strings"
	"testing"

	"meshseal/internal/meshtest"
)

// TestOPAExample takes Envoy files and a policy that were written for
// opa-envoy-plugin into a mesh repository as they are, adds the proxy.yaml, and
// asks what they were written to answer.
func TestOPAExample(t *testing.T) {
	t.Parallel()
	backend := meshtest.Host()
	s := &shop{appHost: meshtest.Host(), app: meshtest.StartBackend(t, "service", backend+":80")}
	example := func(name string) string {
		text, err := os.ReadFile("testdata/opa/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return strings.NewReplacer("APP_HOST", s.appHost, "BACKEND_HOST", backend).Replace(string(text))
	}
	s.Rig = meshtest.NewRig(t, domain, map[string]string{
		"meshseal.yaml":              "format: v1\nmesh: people\ntrust_domains: [mesh.test]\nsds_cluster: spire_agent\n",
		"workloads/client.yaml":      "spiffe_id: spiffe://mesh.test/client\nallowed: [sha256:" + digest("client-1") + "]\n",
		"workloads/app.yaml":         "spiffe_id: spiffe://mesh.test/app\nallowed: [sha256:" + digest("app-1") + "]\n",
		"policies/policy.rego":       example("policy.rego"),
		"proxies/app/proxy.yaml":     "spiffe_id: spiffe://mesh.test/app\nworkload: app\nlisteners: {ingress: inbound}\n",
		"proxies/app/listeners.yaml": example("listeners.yaml"),
		"proxies/app/clusters.yaml":  example("clusters.yaml"),
	})
	s.appEnvoy()
	c := s.client(t)

	for _, q := range []struct {
		name, method, path, role, body string
		code                           int
	}{
		{"a guest reads", "GET", "/people", "guest", "", 200},
		{"a guest reads one in English", "GET", "/people/1?lang=en&debug=1", "guest", "", 200},
		{"a guest reads one in no language", "GET", "/people/1", "guest", "", 401},
		{"a guest writes", "POST", "/people", "guest", `{"firstname":"Charlie"}`, 401},
		{"an admin writes somebody else", "POST", "/people", "admin", `{"firstname":"Charlie"}`, 200},
		{"an admin writes himself", "POST", "/people", "admin", `{"firstname":"ALICE"}`, 401},
		{"nobody", "GET", "/people", "", "", 401},
	} {
		t.Run(q.name, func(t *testing.T) {
			s.app.Forget()
			r, err := http.NewRequestWithContext(t.Context(), q.method, s.url(q.path), strings.NewReader(q.body))
			if err != nil {
				t.Fatal(err)
			}
			if q.body != "" {
				r.Header.Set("Content-Type", "application/json")
			}
			if q.role != "" {
				r.Header.Set("Authorization", "Bearer "+token("alice", q.role))
			}
			resp, err := c.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			text := body(t, resp.Body)
			if resp.StatusCode != q.code {
				t.Fatalf("%s: %s", resp.Status, text)
			}
			if q.code != 200 {
				if text != "Unauthorized Request" || resp.Header.Get("X-Ext-Auth-Allow") != "no" || len(s.app.Seen()) != 0 {
					t.Errorf("refused with %q, %v; the backend saw %d requests", text, resp.Header, len(s.app.Seen()))
				}
				return
			}
			if resp.Header.Get("X-Policy") != "people" {
				t.Errorf("the answer lacks the policy's header: %v", resp.Header)
			}
			seen := s.app.Seen()
			if len(seen) != 1 || seen[0].Header.Get("X-User") != "alice" || seen[0].Header.Get("Authorization") != "" ||
				strings.Contains(seen[0].Target, "debug") || seen[0].Body != q.body {
				t.Errorf("the backend saw %+v", seen)
			}
		})
	}
}

// token is a JWT for the example's policy.
func token(name, role string) string {
	enc := base64.RawURLEncoding
	text := enc.EncodeToString([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + enc.EncodeToString([]byte(`{"name":"`+name+`","role":"`+role+`"}`))
	mac := hmac.New(sha256.New, []byte("an example secret"))
	mac.Write([]byte(text))
	return text + "." + enc.EncodeToString(mac.Sum(nil))
}
