package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// webhookConfig is where a forge says that the repository has changed. None if
// Address is empty.
type webhookConfig struct {
	Address string `yaml:"address"` // host:port, or unix:///path
	// Kind is how calls prove where they come from: github, gitlab-signed or
	// gitlab.
	Kind   string `yaml:"kind"`
	Secret string `yaml:"secret"` // file, read at every call
	// Certificate and Key are files for HTTPS; plain HTTP without.
	Certificate string `yaml:"certificate"`
	Key         string `yaml:"key"`
}

// check refuses what is missing or contradicts itself.
func (c webhookConfig) check(git bool) []error {
	var errs []error
	refuse := func(bad bool, text string) {
		if bad {
			errs = append(errs, errors.New("webhook"+text))
		}
	}
	_, known := hookKinds[c.Kind]
	switch {
	case c == webhookConfig{}:
	case c.Address == "":
		refuse(true, ": name an address")
	default:
		refuse(!git, ": it asks for a look at a git source, and there is none")
		refuse(!known, ".kind: github, gitlab-signed or gitlab")
		refuse(c.Secret == "", ".secret: name a file; a call that proves nothing is not answered")
		refuse((c.Certificate == "") != (c.Key == ""), ": certificate and key go together")
	}
	return errs
}

// The bounds of a call.
const (
	maxHook      = 25 << 20        // bytes of the body: GitHub sends no more
	maxHookCalls = 8               // at the same time
	hookSkew     = 5 * time.Minute // between the clocks
	minSecret    = 16              // bytes
)

// webhook answers the calls of a forge. What a call says decides nothing: one
// that proves to come from the forge asks for a look at the source, and no
// more. So one that is sent again does no harm.
type webhook struct {
	kind   string
	secret func() (string, error)
	look   func()
	now    func() time.Time
	log    *slog.Logger

	calls   atomic.Int32
	refused atomic.Int64 // when a refusal was logged last, Unix seconds
}

func (h *webhook) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /webhook", h.call)
	return mux
}

func (h *webhook) call(w http.ResponseWriter, r *http.Request) {
	defer h.calls.Add(-1)
	if h.calls.Add(1) > maxHookCalls {
		http.Error(w, "too many calls", http.StatusTooManyRequests)
		return
	}
	err := h.prove(w, r)
	tooLarge := new(http.MaxBytesError)
	switch {
	case errors.As(err, &tooLarge):
		http.Error(w, "too large", http.StatusRequestEntityTooLarge)
	case err != nil:
		// Once a minute: anybody may call.
		if at, now := h.refused.Load(), h.now().Unix(); now-at >= 60 && h.refused.CompareAndSwap(at, now) {
			h.log.Warn("a call of the webhook was refused", "from", r.RemoteAddr, "error", err)
		}
		http.Error(w, "not proven", http.StatusUnauthorized)
	default:
		h.look()
		w.WriteHeader(http.StatusAccepted)
	}
}

// prove holds a call against the secret.
func (h *webhook) prove(w http.ResponseWriter, r *http.Request) error {
	secret, err := h.secret()
	if err != nil {
		return fmt.Errorf("the secret: %w", err)
	}
	proof, err := hookKinds[h.kind](secret, r.Header, h.now())
	if err != nil {
		return err
	}
	body := http.MaxBytesReader(w, r.Body, maxHook)
	if proof.mac == nil {
		_, err := io.Copy(io.Discard, body)
		return err
	}
	if _, err := io.Copy(proof.mac, body); err != nil {
		return err
	}
	sum := proof.mac.Sum(nil)
	for _, s := range proof.sums {
		if hmac.Equal(s, sum) {
			return nil
		}
	}
	return errUnproven
}

var errUnproven = errors.New("it does not prove to know the secret")

// proof is what the sum over the body has to be: one of sums. Without a mac the
// headers have proven all there is.
type proof struct {
	mac  hash.Hash
	sums [][]byte
}

// hookKinds read what a call brings along to prove where it comes from.
var hookKinds = map[string]func(secret string, header http.Header, now time.Time) (proof, error){
	"github":        githubProof,
	"gitlab-signed": standardProof,
	"gitlab":        tokenProof,
}

// single is the value of a header that stands there once.
func single(header http.Header, name string) (string, error) {
	values := header.Values(name)
	if len(values) != 1 {
		return "", fmt.Errorf("it has %d headers %s; one is needed", len(values), name)
	}
	return values[0], nil
}

// githubProof: X-Hub-Signature-256 is "sha256=" and the HMAC-SHA256 of the body
// in hexadecimal.
// https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries
func githubProof(secret string, header http.Header, _ time.Time) (proof, error) {
	text, err := single(header, "X-Hub-Signature-256")
	if err != nil {
		return proof{}, err
	}
	digits, ok := strings.CutPrefix(text, "sha256=")
	sum, err := hex.DecodeString(digits)
	if !ok || err != nil {
		return proof{}, errors.New("its X-Hub-Signature-256 is not sha256= and digits")
	}
	return proof{mac: hmac.New(sha256.New, []byte(secret)), sums: [][]byte{sum}}, nil
}

// standardProof: webhook-signature is a list of "v1," and the HMAC-SHA256 in
// base64 of webhook-id, webhook-timestamp and body, joined by dots.
// https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
func standardProof(secret string, header http.Header, now time.Time) (proof, error) {
	var text [3]string
	for i, name := range []string{"webhook-id", "webhook-timestamp", "webhook-signature"} {
		var err error
		if text[i], err = single(header, name); err != nil {
			return proof{}, err
		}
	}
	at, err := strconv.ParseInt(text[1], 10, 64)
	if err != nil || time.Unix(at, 0).Before(now.Add(-hookSkew)) || time.Unix(at, 0).After(now.Add(hookSkew)) {
		return proof{}, fmt.Errorf("its time %.40q is not within %s of %d", text[1], hookSkew, now.Unix())
	}
	encoded, ok := strings.CutPrefix(secret, "whsec_")
	key, err := base64.StdEncoding.DecodeString(encoded)
	if !ok || err != nil {
		return proof{}, errors.New("the secret is not whsec_ and base64")
	}
	p := proof{mac: hmac.New(sha256.New, key)}
	fmt.Fprintf(p.mac, "%s.%s.", text[0], text[1])
	for _, s := range strings.Fields(text[2]) {
		if sum, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(s, "v1,")); err == nil && strings.HasPrefix(s, "v1,") {
			p.sums = append(p.sums, sum)
		}
	}
	return p, nil
}

// tokenProof: X-Gitlab-Token is the secret itself; the body proves nothing.
// https://docs.gitlab.com/user/project/integrations/webhooks/
func tokenProof(secret string, header http.Header, _ time.Time) (proof, error) {
	token, err := single(header, "X-Gitlab-Token")
	if err != nil {
		return proof{}, err
	}
	want, got := sha256.Sum256([]byte(secret)), sha256.Sum256([]byte(token))
	if subtle.ConstantTimeCompare(want[:], got[:]) != 1 {
		return proof{}, errUnproven
	}
	return proof{}, nil
}

// readHookSecret reads the secret of a webhook: one line of a file that nobody
// but its owner may read.
func readHookSecret(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("%s can be read by others: its mode is %v; run: chmod 600 %s", path, info.Mode(), path)
	}
	data, err := readBounded(path, 4<<10)
	if err != nil {
		return "", err
	}
	data = bytes.TrimRight(data, "\r\n")
	if len(data) < minSecret || bytes.ContainsAny(data, "\r\n") {
		return "", fmt.Errorf("%s does not hold one line of at least %d bytes", path, minSecret)
	}
	return string(data), nil
}

// listenWebhook opens the address; nil where none is configured.
func listenWebhook(c webhookConfig, look func(), log *slog.Logger) (*webListener, error) {
	if c.Address == "" {
		return nil, nil
	}
	h := &webhook{kind: c.Kind, secret: func() (string, error) { return readHookSecret(c.Secret) }, look: look, now: time.Now, log: log}
	if _, err := h.secret(); err != nil {
		return nil, fmt.Errorf("webhook.secret: %w", err)
	}
	l := &webListener{name: c.Address, server: &http.Server{
		Handler: h.handler(), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: 30 * time.Second,
		MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug),
	}}
	var err error
	if path, ok := strings.CutPrefix(c.Address, "unix://"); ok {
		l.net, err = listenSocket(path, nil)
	} else {
		l.net, err = net.Listen("tcp", c.Address)
	}
	if err != nil {
		return nil, fmt.Errorf("webhook: listen on %s: %w", c.Address, err)
	}
	if c.Certificate == "" {
		return l, nil
	}
	pair := func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		p, err := tls.LoadX509KeyPair(c.Certificate, c.Key)
		return &p, err
	}
	if _, err := pair(nil); err != nil {
		return nil, errors.Join(fmt.Errorf("webhook.certificate: %w", err), l.net.Close())
	}
	l.net = tls.NewListener(l.net, &tls.Config{GetCertificate: pair, MinVersion: tls.VersionTLS12})
	return l, nil
}
