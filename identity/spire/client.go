package spire

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	bundlev1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/bundle/v1"
	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"meshseal/identity"
)

// Bounds of one call to the server.
const (
	pageSize   = 500      // entries in one answer
	batchSize  = 100      // entries created or deleted by one call
	maxEntries = 1 << 20  // in all
	maxPages   = 1 << 14  // of them; a page may be empty
	maxAnswer  = 16 << 20 // bytes
	callTime   = 10 * time.Second
)

// ClientConfig says where a SPIRE server's API is.
type ClientConfig struct {
	// Server is the server's own socket as unix:///path, whose file mode says who
	// may use it, or host:port, which takes an SVID of an entry with `admin` and
	// Identity.
	Server string
	// Identity is this process's own SVID and the bundles of the Workload API, for
	// host:port. The server has to be spiffe://<own trust domain>/spire/server.
	Identity *Source
	Now      func() time.Time
}

// Client is a SPIRE server's API for registration entries. It may be used by
// several goroutines. Every call is bounded in time.
type Client struct {
	name    string
	conn    *grpc.ClientConn
	entries entryv1.EntryClient
	bundles bundlev1.BundleClient
}

// NewClient makes a client. It connects with the first call.
func NewClient(config ClientConfig) (*Client, error) {
	target := config.Server
	var creds credentials.TransportCredentials
	switch path, isSocket := strings.CutPrefix(config.Server, "unix://"); {
	case isSocket && strings.HasPrefix(path, "/"):
		creds = insecure.NewCredentials()
	case isSocket || !hasPort(config.Server):
		return nil, fmt.Errorf("SPIRE server %q: give its socket as unix:///path, or host:port", config.Server)
	case config.Identity == nil || config.Now == nil:
		return nil, fmt.Errorf("SPIRE server %q: mutual TLS needs an SVID of the Workload API; name its socket", config.Server)
	default:
		target = "dns:///" + config.Server
		creds = credentials.NewTLS(serverTLS(config.Identity, config.Now))
	}
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(creds), grpc.WithNoProxy(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: minWait, Multiplier: 2, Jitter: 0.2, MaxDelay: maxWait},
			MinConnectTimeout: maxWait,
		}))
	if err != nil {
		return nil, fmt.Errorf("SPIRE server %q: %w", config.Server, err)
	}
	return &Client{name: config.Server, conn: conn, entries: entryv1.NewEntryClient(conn), bundles: bundlev1.NewBundleClient(conn)}, nil
}

// hasPort holds host:port: a slip such as unix:/path has a colon too.
func hasPort(server string) bool {
	host, port, err := net.SplitHostPort(server)
	_, numeric := strconv.ParseUint(port, 10, 16)
	return err == nil && numeric == nil && host != ""
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

// serverTLS shows the own SVID and takes exactly the server of the own trust
// domain. There is no session cache, so no handshake is resumed; the check sits
// where Go runs it on a resumed one too.
func serverTLS(own *Source, now func() time.Time) *tls.Config {
	return &tls.Config{
		MinVersion:           tls.VersionTLS12,
		NextProtos:           []string{"h2"},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return own.Certificate() },
		InsecureSkipVerify:   true, // an SVID has no name of a host; VerifyConnection verifies it
		VerifyConnection: func(cs tls.ConnectionState) error {
			return verifyServer(cs, own.ID().TrustDomain(), own.Bundles(), now())
		},
	}
}

// verifyServer demands the SVID of the trust domain's SPIRE server. Its ID lies
// below /spire, which identity.VerifySVID refuses for workloads.
func verifyServer(cs tls.ConnectionState, td spiffeid.TrustDomain, bundles *identity.TrustBundles, now time.Time) error {
	want, err := spiffeid.FromSegments(td, "spire", "server")
	if err != nil {
		return err
	}
	authorities, ok := bundles.Lookup(td)
	if !ok {
		return fmt.Errorf("SPIRE server: %w: %q", identity.ErrTrustDomain, td)
	}
	got, _, err := x509svid.Verify(cs.PeerCertificates, x509bundle.FromX509Authorities(td, authorities), x509svid.WithTime(now))
	if err != nil {
		return fmt.Errorf("SPIRE server: %w: %w", identity.ErrChain, err)
	}
	if got != want {
		return fmt.Errorf("SPIRE server: %w: it is %s and not %s", identity.ErrID, got, want)
	}
	return nil
}

// TrustDomain asks the server for its own trust domain, the only one that it
// keeps entries for.
func (c *Client) TrustDomain(ctx context.Context) (spiffeid.TrustDomain, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	b, err := c.bundles.GetBundle(ctx, &bundlev1.GetBundleRequest{OutputMask: &types.BundleMask{}})
	if err != nil {
		return spiffeid.TrustDomain{}, c.failed("ask for the trust domain", err)
	}
	return spiffeid.TrustDomainFromString(b.GetTrustDomain())
}

// List returns all entries of the server, sorted by ID. It asks until a page
// comes without a token: the token comes with the last entries too, and with
// an empty page then.
func (c *Client) List(ctx context.Context) ([]Entry, error) {
	var all []Entry
	for token, seen := "", map[string]bool{}; ; {
		page, err := c.page(ctx, token)
		if err != nil {
			return nil, err
		}
		for _, p := range page.GetEntries() {
			e, err := fromProto(p)
			if err != nil {
				return nil, c.failed("list the entries", err)
			}
			all = append(all, e)
		}
		token = page.GetNextPageToken()
		switch {
		case token == "":
			slices.SortFunc(all, func(a, b Entry) int { return strings.Compare(a.ID, b.ID) })
			return slices.CompactFunc(all, func(a, b Entry) bool { return a.ID == b.ID }), nil
		case seen[token]:
			return nil, c.failed("list the entries", fmt.Errorf("the page %q came twice", token))
		case len(all) > maxEntries || len(seen) > maxPages:
			return nil, c.failed("list the entries", fmt.Errorf("more than %d entries or %d pages", maxEntries, maxPages))
		}
		seen[token] = true
	}
}

func (c *Client) page(ctx context.Context, token string) (*entryv1.ListEntriesResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	page, err := c.entries.ListEntries(ctx, &entryv1.ListEntriesRequest{PageSize: pageSize, PageToken: token})
	if err != nil {
		return nil, c.failed("list the entries", err)
	}
	return page, nil
}

// ErrPlaceTaken: another entry has the same parent, SPIFFE ID and selectors.
var ErrPlaceTaken = errors.New("another entry has the same parent, SPIFFE ID and selectors")

// Create creates entries, and returns an error for each: nil where the entry is
// there now, which it may have been before. The server judges each by itself;
// ErrPlaceTaken names the entry in the way. The second result is an error of a
// call as a whole: it is not known then which entries are there.
func (c *Client) Create(ctx context.Context, entries []Entry) ([]error, error) {
	results := make([]error, 0, len(entries))
	for chunk := range slices.Chunk(entries, batchSize) {
		request := &entryv1.BatchCreateEntryRequest{}
		for _, e := range chunk {
			p, err := e.toProto()
			if err != nil {
				return nil, err
			}
			request.Entries = append(request.Entries, p)
		}
		answer, err := c.create(ctx, request)
		if err != nil {
			return nil, err
		}
		for i, r := range answer.GetResults() {
			results = append(results, created(chunk[i], r))
		}
	}
	return results, nil
}

func (c *Client) create(ctx context.Context, request *entryv1.BatchCreateEntryRequest) (*entryv1.BatchCreateEntryResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	answer, err := c.entries.BatchCreateEntry(ctx, request)
	if err == nil && len(answer.GetResults()) != len(request.GetEntries()) {
		err = fmt.Errorf("%d results for %d entries", len(answer.GetResults()), len(request.GetEntries()))
	}
	if err != nil {
		return nil, c.failed("create entries", err)
	}
	return answer, nil
}

// created judges one result. What the server has is compared with what was
// asked for: another replica may have created the very same entry before.
func created(want Entry, r *entryv1.BatchCreateEntryResponse_Result) error {
	code := codes.Code(r.GetStatus().GetCode())
	if code != codes.OK && code != codes.AlreadyExists {
		return fmt.Errorf("create entry %s for %s: %s: %s", want.ID, want.SPIFFEID, code, r.GetStatus().GetMessage())
	}
	if r.GetEntry() == nil { // the ID is there already, in another place
		return fmt.Errorf("create entry %s for %s: %s: %s; another entry has this ID", want.ID, want.SPIFFEID, code, r.GetStatus().GetMessage())
	}
	got, err := fromProto(r.GetEntry())
	switch {
	case err != nil:
		return fmt.Errorf("create entry %s for %s: the server's answer: %w", want.ID, want.SPIFFEID, err)
	case got.ID != want.ID:
		return fmt.Errorf("create entry %s for %s: %w: %s", want.ID, want.SPIFFEID, ErrPlaceTaken, got.ID)
	case got.Digest() != want.Digest():
		return fmt.Errorf("create entry %s for %s: the server has another content under this ID", want.ID, want.SPIFFEID)
	}
	return nil
}

// Delete deletes entries by their IDs, and returns an error for each: nil where
// there is none any more. The second result is an error of a call as a whole.
func (c *Client) Delete(ctx context.Context, ids []string) ([]error, error) {
	results := make([]error, 0, len(ids))
	for chunk := range slices.Chunk(ids, batchSize) {
		answer, err := c.delete(ctx, chunk)
		if err != nil {
			return nil, err
		}
		for i, r := range answer.GetResults() {
			var result error
			switch code := codes.Code(r.GetStatus().GetCode()); {
			case r.GetId() != chunk[i]:
				result = fmt.Errorf("delete entry %s: the server answers for %q", chunk[i], r.GetId())
			case code != codes.OK && code != codes.NotFound:
				result = fmt.Errorf("delete entry %s: %s: %s", chunk[i], code, r.GetStatus().GetMessage())
			}
			results = append(results, result)
		}
	}
	return results, nil
}

func (c *Client) delete(ctx context.Context, ids []string) (*entryv1.BatchDeleteEntryResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	answer, err := c.entries.BatchDeleteEntry(ctx, &entryv1.BatchDeleteEntryRequest{Ids: ids})
	if err == nil && len(answer.GetResults()) != len(ids) {
		err = fmt.Errorf("%d results for %d entries", len(answer.GetResults()), len(ids))
	}
	if err != nil {
		return nil, c.failed("delete entries", err)
	}
	return answer, nil
}

func (c *Client) failed(what string, err error) error {
	if status.Code(err) == codes.PermissionDenied {
		err = fmt.Errorf("%w: the SVID that is shown has to be that of an entry with admin (spire-server entry create -admin)", err)
	}
	return fmt.Errorf("SPIRE server %s: %s: %w", c.name, what, err)
}
