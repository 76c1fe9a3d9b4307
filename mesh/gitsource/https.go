package gitsource

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"

	"meshseal/snapshot"
)

const uploadPack = "git-upload-pack"

// webSession speaks "smart HTTP": https://git-scm.com/docs/http-protocol
type webSession struct {
	client *http.Client
	url    string
	auth   func(*http.Request)
}

func (r *Remote) openWeb(u *url.URL) (session, error) {
	roots, err := r.roots()
	if err != nil {
		return nil, err
	}
	auth, err := r.webAuth()
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{
		Proxy:              r.Proxy,
		TLSClientConfig:    &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		ForceAttemptHTTP2:  true,
		DisableCompression: true,
	}
	return &webSession{
		url: strings.TrimSuffix(u.String(), "/"), auth: auth,
		client: &http.Client{
			Transport: transport,
			// The answer to a redirect is the redirect, which is refused.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// roots are the certificates of the CA file; nil stands for the system's.
func (r *Remote) roots() (*x509.CertPool, error) {
	if r.CA == "" {
		return nil, nil
	}
	text, err := os.ReadFile(r.CA)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s holds no certificate in PEM", r.CA)
	}
	return pool, nil
}

func (r *Remote) webAuth() (func(*http.Request), error) {
	switch {
	case r.Token != "":
		token, err := readToken(r.Token)
		return func(q *http.Request) { q.Header.Set("Authorization", "Bearer "+token) }, err
	case r.Password != "":
		password, err := readToken(r.Password)
		return func(q *http.Request) { q.SetBasicAuth(r.Username, password) }, err
	}
	return func(*http.Request) {}, nil
}

func (s *webSession) advertise(ctx context.Context) (io.ReadCloser, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+"/info/refs?service="+uploadPack, nil)
	if err != nil {
		return nil, err
	}
	return s.do(request, "application/x-"+uploadPack+"-advertisement")
}

func (s *webSession) upload(ctx context.Context, body []byte) (io.ReadCloser, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url+"/"+uploadPack, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/x-"+uploadPack+"-request")
	return s.do(request, "application/x-"+uploadPack+"-result")
}

// do wants an answer of exactly this kind.
func (s *webSession) do(request *http.Request, kind string) (io.ReadCloser, error) {
	request.Header.Set("Accept", kind)
	request.Header.Set("User-Agent", "git/meshseal") // some servers know Git's clients by it
	s.auth(request)
	response, err := s.client.Do(request)
	if err != nil {
		return nil, webError(err)
	}
	switch status := response.StatusCode; {
	case status/100 == 3:
		err = fmt.Errorf("%w: it redirects to %.200q; name the place itself", snapshot.ErrSource, response.Header.Get("Location"))
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		err = fmt.Errorf("%w: it answers %d: look at the credentials", snapshot.ErrSource, status)
	case status != http.StatusOK:
		err = fmt.Errorf("%w: it answers %d", snapshot.ErrSource, status)
	case response.Header.Get("Content-Type") != kind:
		err = fmt.Errorf("%w: it answers %.80q where %q belongs: is this the URL of a Git repository?", snapshot.ErrSource, response.Header.Get("Content-Type"), kind)
	}
	if err != nil {
		return nil, errors.Join(err, response.Body.Close())
	}
	return response.Body, nil
}

// webError leaves the URL out of an error of net/http: who reads it knows the
// source, and a certificate's or a connection's fault is what counts.
func webError(err error) error {
	var of *url.Error
	if errors.As(err, &of) {
		err = of.Err
	}
	return remoteError("connect", err)
}

func (s *webSession) close() { s.client.CloseIdleConnections() }
