package extauthz_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"meshseal/extauthz"
	"meshseal/internal/grpcpeer"
)

// echoes allows what is below /api/yes and says for which path it did.
const echoes = `default allow := false

allow := {"allowed": true, "headers": {"x-path": path}} if {
	startswith(path, "/api/yes")
}

path := input.attributes.request.http.path`

// paths keeps the path of each record by its decision, and is slow now and then.
type paths struct{ of sync.Map }

func (p *paths) Record(r extauthz.Record) error {
	if rand.IntN(300) == 0 {
		time.Sleep(30 * time.Millisecond)
	}
	r = r.Clone()
	if _, twice := p.of.LoadOrStore(r.DecisionID, r.Input); twice {
		return fmt.Errorf("a second record of %s", r.DecisionID)
	}
	return nil
}

func (p *paths) path(id string) (string, error) {
	input, ok := p.of.Load(id)
	if !ok {
		return "", fmt.Errorf("decision %s has no record", id)
	}
	var d struct {
		Attributes struct {
			Request struct{ HTTP struct{ Path string } }
		}
	}
	err := json.Unmarshal(input.(json.RawMessage), &d)
	return d.Attributes.Request.HTTP.Path, err
}

// TestAnswersAreThoseOfTheirQuestions: many callers on few connections, some of
// which give up, beside records that are slow: each answer, its header and its
// record are those of the question, and every check has one record.
func TestAnswersAreThoseOfTheirQuestions(t *testing.T) {
	const callers, calls = 16, 300
	records := &paths{}
	w := newWorld(t, policy(echoes), config(func(c *extauthz.Config) {
		c.Records, c.MaxChecks, c.Deadline = records, 1000, time.Minute
	}))
	path := w.serve("mixed.sock", grpcpeer.SocketCredentials("orders"))
	clients := []authv3.AuthorizationClient{w.dial(path, insecure.NewCredentials()), w.dial(path, insecure.NewCredentials())}
	honest := w.honest()
	var group errgroup.Group
	for i := range callers {
		group.Go(func() error {
			for n := range calls {
				if err := echoed(t, honest, clients[i%2], records, i, n); err != nil {
					return fmt.Errorf("call %d of caller %d: %w", n, i, err)
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
}

func echoed(t *testing.T, honest *question, client authv3.AuthorizationClient, records *paths, i, n int) error {
	req := proto.CloneOf(honest.req)
	h := req.Attributes.Request.Http
	yes := rand.IntN(3) > 0
	kind := map[bool]string{true: "yes", false: "no"}[yes]
	h.Path = fmt.Sprintf("/api/%s/%d/%d", kind, i, rand.IntN(1+n))
	h.Headers[":path"] = h.Path
	ctx, cancel := context.WithTimeout(metadata.NewOutgoingContext(t.Context(), honest.md), time.Minute)
	defer cancel()
	if rand.IntN(15) == 0 {
		time.AfterFunc(time.Duration(rand.IntN(300))*time.Microsecond, cancel)
	}
	answer, err := client.Check(ctx, req)
	if status.Code(err) == codes.Canceled {
		return nil
	}
	if err != nil {
		return err
	}
	id := answer.GetDynamicMetadata().GetFields()["decision_id"].GetStringValue()
	recorded, err := records.path(id)
	if err != nil {
		return err
	}
	allowed, echo := answer.GetStatus().GetCode() == int32(codes.OK), ""
	for _, header := range answer.GetOkResponse().GetHeaders() {
		echo += header.GetHeader().GetValue()
	}
	if allowed != yes || recorded != h.Path || yes && echo != h.Path {
		return fmt.Errorf("%s was answered %t for %q, and recorded for %q", h.Path, allowed, echo, recorded)
	}
	return nil
}
