package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/spf13/cobra"

	"meshseal/extauthz"
	"meshseal/identity"
	"meshseal/snapshot"
)

// describedRequest is a request that somebody describes by hand.
type describedRequest struct {
	At time.Time `json:"at"` // now, if zero

	Proxy     string `json:"proxy"`      // the Envoy that asks, by its name
	ProxySVID string `json:"proxy_svid"` // the SPIFFE ID of its certificate; its Unix socket, if empty
	Listener  string `json:"listener"`
	Chain     string `json:"chain"`   // the only one, if empty
	Route     string `json:"route"`   // the one that takes the request, if empty
	Cluster   string `json:"cluster"` // the one that the route leads to, if empty
	Local     string `json:"local"`   // where it came in: one of the listener's addresses, if empty

	Caller      string   `json:"caller"` // SPIFFE ID, with or without the digest
	Digest      string   `json:"digest"` // of the caller; of the proxy's unit, if there is no caller
	Certificate string   `json:"certificate"`
	Evidence    []string `json:"evidence_agreed"`

	TCP      bool                `json:"tcp"`
	Method   string              `json:"method"`
	Scheme   string              `json:"scheme"`
	Host     string              `json:"host"`
	Path     string              `json:"path"`
	Protocol string              `json:"protocol"`
	Headers  map[string]oneOrAll `json:"headers"`
	Body     string              `json:"body"`
	Source   string              `json:"source"` // address of the client
	SNI      string              `json:"sni"`

	at      string
	headers []string
}

// oneOrAll is a value, or a list of them.
type oneOrAll []string

func (o *oneOrAll) UnmarshalJSON(data []byte) error {
	var one string
	if json.Unmarshal(data, &one) == nil {
		*o = oneOrAll{one}
		return nil
	}
	var all []string
	err := json.Unmarshal(data, &all)
	*o = all
	return err
}

func (d *describedRequest) texts() map[string]*string {
	return map[string]*string{
		"proxy": &d.Proxy, "proxy-svid": &d.ProxySVID, "listener": &d.Listener, "chain": &d.Chain, "route": &d.Route,
		"cluster": &d.Cluster, "local": &d.Local, "caller": &d.Caller, "digest": &d.Digest, "method": &d.Method,
		"scheme": &d.Scheme, "host": &d.Host, "path": &d.Path, "body": &d.Body, "source": &d.Source, "sni": &d.SNI,
		"protocol": &d.Protocol, "at": &d.at,
	}
}

var describes = map[string]string{
	"proxy":      "the Envoy that asks, by its name in the mesh repository",
	"proxy-svid": "the SPIFFE ID of its certificate; without it, it asks through its Unix socket",
	"listener":   "the listener that carries the request",
	"chain":      "the filter chain, where the listener has several",
	"route":      "the route that Envoy took; else the one that takes the request",
	"cluster":    "the cluster that Envoy chose; else one that the route leads to",
	"local":      "the address at which it came in; else one of the listener's",
	"caller":     "the SPIFFE ID of who calls",
	"digest":     "sha256:…, what the caller runs, or without a caller the proxy's unit",
	"method":     "GET, if not given",
	"scheme":     "https, if not given",
	"host":       "the authority; the proxy's name, if not given",
	"path":       "path and query; / if not given",
	"body":       "the body of the request",
	"source":     "the client's address, IP:port",
	"sni":        "the server name of the TLS connection",
	"protocol":   "HTTP/1.1, if not given",
	"at":         "the time at which is decided, RFC 3339; now, if not given",
}

func (d *describedRequest) flags(c *cobra.Command) {
	for name, to := range d.texts() {
		c.Flags().StringVar(to, name, "", describes[name])
	}
	c.Flags().StringArrayVarP(&d.headers, "header", "H", nil, "NAME: VALUE; may be given several times")
	c.Flags().BoolVar(&d.TCP, "tcp", false, "a TCP connection in place of an HTTP request")
}

// given reports whether a flag describes a request.
func (d *describedRequest) given(c *cobra.Command) bool {
	return len(d.changed(c)) > 0 || c.Flags().Changed("header") || c.Flags().Changed("tcp")
}

func (d *describedRequest) changed(c *cobra.Command) map[string]string {
	out := map[string]string{}
	for name, to := range d.texts() {
		if c.Flags().Changed(name) {
			out[name] = *to
		}
	}
	return out
}

// question reads the file, changes it by the flags, and makes a question of it.
func (d *describedRequest) question(c *cobra.Command, file string, draft *snapshot.Draft) (extauthz.Question, error) {
	if file == "" && !d.given(c) {
		return extauthz.Question{}, errors.New("no request: give --record, --request, or --proxy, --listener and what describes it")
	}
	flags, tcp, headers := d.changed(c), d.TCP, d.headers
	if file != "" {
		data, err := readInput(c.InOrStdin(), file)
		if err != nil {
			return extauthz.Question{}, err
		}
		*d = describedRequest{}
		decoder := json.NewDecoder(strings.NewReader(string(data)))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(d); err != nil {
			return extauthz.Question{}, fmt.Errorf("%s: %w; docs/explain.md has the shape", file, jsonFault(err))
		}
	}
	for name, value := range flags {
		*d.texts()[name] = value
	}
	d.TCP = d.TCP || tcp
	if err := d.complete(headers, draft); err != nil {
		return extauthz.Question{}, err
	}
	return d.made()
}

// complete adds headers of flags, and what is not given.
func (d *describedRequest) complete(headers []string, draft *snapshot.Draft) error {
	if d.Headers == nil {
		d.Headers = map[string]oneOrAll{}
	}
	for _, h := range headers {
		name, value, ok := strings.Cut(h, ":")
		if !ok || name == "" {
			return fmt.Errorf("--header %q: want NAME: VALUE", h)
		}
		name = strings.ToLower(strings.TrimSpace(name))
		d.Headers[name] = append(d.Headers[name], strings.TrimSpace(value))
	}
	if d.at != "" {
		var err error
		if d.At, err = time.Parse(time.RFC3339, d.at); err != nil {
			return fmt.Errorf("--at %q: want RFC 3339, as 2026-01-02T03:04:05Z", d.at)
		}
	}
	if d.At.IsZero() {
		d.At = time.Now()
	}
	d.Method, d.Scheme, d.Protocol = cmp.Or(d.Method, "GET"), cmp.Or(d.Scheme, "https"), cmp.Or(d.Protocol, "HTTP/1.1")
	d.Host, d.Path = cmp.Or(d.Host, d.Proxy, "localhost"), cmp.Or(d.Path, "/")
	if d.Digest == "" {
		return nil
	}
	return d.attest(draft)
}

// attest puts the digest into the SPIFFE ID that it belongs to.
func (d *describedRequest) attest(draft *snapshot.Draft) error {
	digest, err := identity.ParseDigest(d.Digest)
	if err != nil {
		return fmt.Errorf("digest %w", err)
	}
	to := &d.Caller
	if d.Caller == "" {
		if to = &d.ProxySVID; d.ProxySVID == "" {
			for _, p := range draft.Proxies() {
				if p.Name == d.Proxy {
					d.ProxySVID = p.ID.String()
				}
			}
		}
	}
	id, err := identity.ParseID(*to)
	if err != nil {
		return fmt.Errorf("the digest needs the caller's SPIFFE ID, or a proxy's: %w", err)
	}
	base, _, err := identity.Split(id)
	if err != nil {
		base = id
	}
	full, err := identity.WithDigest(base, digest)
	*to = full.String()
	return err
}

func (d *describedRequest) made() (extauthz.Question, error) {
	q := extauthz.Question{
		At: d.At, Proxy: d.Proxy, ProxySVID: d.ProxySVID, Caller: d.Caller, Agreed: kinds(d.Evidence),
		Listener: d.Listener, Chain: d.Chain, Route: d.Route, Cluster: d.Cluster, Local: d.Local,
	}
	if d.Certificate != "" {
		q.CallerCertificate = url.PathEscape(d.Certificate)
	}
	a := &authv3.AttributeContext{Source: &authv3.AttributeContext_Peer{Principal: d.Caller}}
	if d.Source != "" {
		s, err := netip.ParseAddrPort(d.Source)
		if err != nil {
			return q, fmt.Errorf("source %q: want IP:port: %w", d.Source, err)
		}
		a.Source.Address = &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
			Address: s.Addr().String(), PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(s.Port())},
		}}}
	}
	if d.SNI != "" {
		a.TlsSession = &authv3.AttributeContext_TLSSession{Sni: d.SNI}
	}
	if !d.TCP {
		a.Request = &authv3.AttributeContext_Request{Http: d.http()}
	}
	q.Request = &authv3.CheckRequest{Attributes: a}
	return q, nil
}

// http is the request as Envoy sends it, each value of a header by itself.
func (d *describedRequest) http() *authv3.AttributeContext_HttpRequest {
	h := &authv3.AttributeContext_HttpRequest{
		Method: d.Method, Scheme: d.Scheme, Host: d.Host, Path: d.Path, Protocol: d.Protocol, Body: d.Body, Size: int64(len(d.Body)),
		HeaderMap: &corev3.HeaderMap{},
	}
	all := map[string]oneOrAll{":method": {d.Method}, ":path": {d.Path}, ":authority": {d.Host}, ":scheme": {d.Scheme}, "x-forwarded-proto": {d.Scheme}}
	for name, values := range d.Headers {
		all[strings.ToLower(name)] = values
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		for _, value := range all[name] {
			h.HeaderMap.Headers = append(h.HeaderMap.Headers, &corev3.HeaderValue{Key: name, RawValue: []byte(value)})
		}
	}
	return h
}

// jsonFault says what is wrong with JSON in words that are not Go's.
func jsonFault(err error) error {
	var wrong *json.UnmarshalTypeError
	switch {
	case errors.As(err, &wrong) && wrong.Field == "":
		return fmt.Errorf("%s where an object belongs", wrong.Value)
	case errors.As(err, &wrong):
		return fmt.Errorf("%s: %s is not what belongs there", wrong.Field, wrong.Value)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("it ends in the middle of the JSON")
	}
	return err
}

// readInput reads a file, or standard input for "-".
func readInput(stdin io.Reader, name string) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(io.LimitReader(stdin, maxDescribed))
	}
	return readBounded(name, maxDescribed)
}

// maxDescribed bounds a described request, in bytes.
const maxDescribed = 16 << 20
