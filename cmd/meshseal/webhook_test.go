package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"meshseal/internal/meshtest"
)

const hookSecret = "0123456789abcdef0123456789abcdef"

var hookTime = time.Unix(1_790_000_000, 0)

func sumOf(key []byte, parts ...string) []byte {
	m := hmac.New(sha256.New, key)
	for _, p := range parts {
		io.WriteString(m, p)
	}
	return m.Sum(nil)
}

// signedAs is what a forge sends along with a body.
func signedAs(kind, secret, body string, at time.Time) http.Header {
	h := http.Header{}
	switch kind {
	case "github":
		h.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(sumOf([]byte(secret), body)))
	case "gitlab-signed":
		key, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
		stamp := strconv.FormatInt(at.Unix(), 10)
		h.Set("webhook-id", "a-call")
		h.Set("webhook-timestamp", stamp)
		h.Set("webhook-signature", "v1,"+base64.StdEncoding.EncodeToString(sumOf(key, "a-call.", stamp, ".", body)))
	case "gitlab":
		h.Set("X-Gitlab-Token", secret)
	}
	return h
}

func secretOf(kind string) string {
	if kind == "gitlab-signed" {
		return "whsec_" + base64.StdEncoding.EncodeToString([]byte(hookSecret))
	}
	return hookSecret
}

// TestWebhook: a call that proves to know the secret asks for a look, and no
// other does.
func TestWebhook(t *testing.T) {
	const body = `{"ref":"refs/heads/main"}`
	type call struct {
		method, path, body string
		header             http.Header
	}
	for kind, changes := range map[string]map[string]func(*call){
		"github": {
			"no signature":             func(c *call) { c.header.Del("X-Hub-Signature-256") },
			"two signatures":           func(c *call) { c.header.Add("X-Hub-Signature-256", c.header.Get("X-Hub-Signature-256")) },
			"only the old SHA-1 one":   func(c *call) { c.header = http.Header{"X-Hub-Signature": {"sha1=00"}} },
			"half of it":               func(c *call) { c.header.Set("X-Hub-Signature-256", c.header.Get("X-Hub-Signature-256")[:39]) },
			"an empty one":             func(c *call) { c.header.Set("X-Hub-Signature-256", "sha256=") },
			"another kind's token":     func(c *call) { c.header = signedAs("gitlab", hookSecret, body, hookTime) },
			"another kind's signature": func(c *call) { c.header = signedAs("gitlab-signed", secretOf("gitlab-signed"), body, hookTime) },
		},
		"gitlab-signed": {
			"no id":        func(c *call) { c.header.Del("webhook-id") },
			"another id":   func(c *call) { c.header.Set("webhook-id", "b-call") },
			"another time": func(c *call) { c.header.Set("webhook-timestamp", strconv.FormatInt(hookTime.Unix()+1, 10)) },
			"no time":      func(c *call) { c.header.Set("webhook-timestamp", "soon") },
			"an old call": func(c *call) {
				c.header = signedAs("gitlab-signed", secretOf("gitlab-signed"), body, hookTime.Add(-6*time.Minute))
			},
			"a call to come": func(c *call) {
				c.header = signedAs("gitlab-signed", secretOf("gitlab-signed"), body, hookTime.Add(6*time.Minute))
			},
			"no v1": func(c *call) {
				c.header.Set("webhook-signature", strings.TrimPrefix(c.header.Get("webhook-signature"), "v1,"))
			},
			"no signature":     func(c *call) { c.header.Set("webhook-signature", "") },
			"an empty one":     func(c *call) { c.header.Set("webhook-signature", "v1,") },
			"the plain secret": func(c *call) { c.header = signedAs("gitlab", secretOf("gitlab-signed"), body, hookTime) },
		},
		"gitlab": {
			"no token":    func(c *call) { c.header = http.Header{} },
			"empty token": func(c *call) { c.header.Set("X-Gitlab-Token", "") },
			"longer":      func(c *call) { c.header.Set("X-Gitlab-Token", hookSecret+"x") },
		},
	} {
		changes["as it should be"] = func(*call) {}
		changes["another secret"] = func(c *call) {
			other := strings.Repeat("f", 32)
			if kind == "gitlab-signed" {
				other = "whsec_" + base64.StdEncoding.EncodeToString([]byte(other))
			}
			c.header = signedAs(kind, other, body, hookTime)
		}
		if kind != "gitlab" {
			changes["another body"] = func(c *call) { c.body += " " }
			changes["no body"] = func(c *call) { c.body = "" }
		}
		changes["GET"] = func(c *call) { c.method = http.MethodGet }
		changes["another path"] = func(c *call) { c.path = "/status" }
		changes["too large"] = func(c *call) {
			c.body = strings.Repeat("x", maxHook+1)
			c.header = signedAs(kind, secretOf(kind), c.body, hookTime)
		}
		for name, change := range changes {
			t.Run(kind+"/"+name, func(t *testing.T) {
				c := &call{http.MethodPost, "/webhook", body, signedAs(kind, secretOf(kind), body, hookTime)}
				change(c)
				looks, log := 0, &bytes.Buffer{}
				h := &webhook{kind: kind, look: func() { looks++ }, now: func() time.Time { return hookTime }, log: slog.New(slog.NewTextHandler(log, nil)),
					secret: func() (string, error) { return secretOf(kind), nil }}
				handler := h.handler()
				for range 2 { // sent again, it does no harm
					q := httptest.NewRequest(c.method, c.path, strings.NewReader(c.body))
					q.Header = c.header
					w := httptest.NewRecorder()
					handler.ServeHTTP(w, q)
					want := map[string]int{"as it should be": 202, "GET": 405, "another path": 404, "too large": 413}[name]
					if want == 0 {
						want = 401
					}
					if w.Code != want || strings.Contains(w.Body.String(), hookSecret) {
						t.Errorf("%d %s, want %d", w.Code, w.Body, want)
					}
				}
				if want := map[bool]int{true: 2}[name == "as it should be"]; looks != want {
					t.Errorf("%d looks, want %d", looks, want)
				}
				if n := strings.Count(log.String(), "refused"); n > 1 || strings.Contains(log.String(), hookSecret) {
					t.Errorf("two calls that are refused are logged %d times:\n%s", n, log)
				}
			})
		}
	}
}

// TestManyCallsOfTheWebhook: those beyond the bound are turned away, and the
// others are answered.
func TestManyCallsOfTheWebhook(t *testing.T) {
	h := &webhook{kind: "github", look: func() {}, now: time.Now, log: slog.New(slog.DiscardHandler), secret: func() (string, error) { return hookSecret, nil }}
	server := httptest.NewServer(h.handler())
	defer server.Close()
	var hanging []*io.PipeWriter
	for range maxHookCalls {
		body, w := io.Pipe()
		hanging = append(hanging, w)
		go func() {
			q, err := http.NewRequest(http.MethodPost, server.URL+"/webhook", body)
			if err != nil {
				return
			}
			q.Header = signedAs("github", hookSecret, "", hookTime)
			if a, err := http.DefaultClient.Do(q); err == nil {
				a.Body.Close()
			}
		}()
		if _, err := fmt.Fprint(w, "x"); err != nil {
			t.Fatal(err)
		}
	}
	ask := func() int {
		q, err := http.NewRequest(http.MethodPost, server.URL+"/webhook", nil)
		if err != nil {
			t.Fatal(err)
		}
		q.Header = signedAs("github", hookSecret, "", hookTime)
		a, err := http.DefaultClient.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		a.Body.Close()
		return a.StatusCode
	}
	inHand := func(n int32) func() error {
		return func() error {
			if got := h.calls.Load(); got != n {
				return fmt.Errorf("%d calls are in hand, want %d", got, n)
			}
			return nil
		}
	}
	meshtest.Eventually(t, "all of them hang", inHand(maxHookCalls))
	if code := ask(); code != http.StatusTooManyRequests {
		t.Errorf("one call too many: %d", code)
	}
	for _, w := range hanging {
		w.Close()
	}
	meshtest.Eventually(t, "they have gone", inHand(0))
	if code := ask(); code != http.StatusAccepted {
		t.Errorf("after they have gone: %d", code)
	}
}

func TestHookSecret(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		mode os.FileMode
		says string
	}{
		"good":      {hookSecret + "\n", 0o600, ""},
		"readable":  {hookSecret, 0o640, "chmod 600"},
		"short":     {"secret\n", 0o600, "at least 16 bytes"},
		"two lines": {hookSecret + "\n" + hookSecret, 0o600, "one line"},
		"empty":     {"", 0o600, "one line"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "secret")
			if err := os.WriteFile(file, []byte(c.text), c.mode); err != nil {
				t.Fatal(err)
			}
			got, err := readHookSecret(file)
			if c.says == "" && (err != nil || got != hookSecret) {
				t.Errorf("%q, %v", got, err)
			}
			if c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
				t.Errorf("%v, want %q", err, c.says)
			}
		})
	}
}
