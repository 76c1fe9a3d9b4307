package devspiffe

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"meshseal/identity"
)

// TestWorkloadAPIStream: a stream is renewed for as long as the unit stays the
// same, ends when it does not, and outlives the server's restart.
func TestWorkloadAPIStream(t *testing.T) {
	web, webDigest := program(t, "web", "")
	other, otherDigest := program(t, oddName, "other")
	alone, together := idOf(t, "web", webDigest), idOf(t, "web", webDigest, otherDigest)

	t.Run("renewed at half of the lifetime", func(t *testing.T) {
		dir, _ := serve(t, minLifetime)
		u := unitOf(t, dir, "web", web)
		u.tell("watch")
		seen := map[string]bool{}
		for range 3 {
			line := u.next()
			wantContains(t, line, "svid "+alone)
			if seen[line] {
				t.Errorf("the same certificate again: %s", line)
			}
			seen[line] = true
		}
	})
	t.Run("ends when the set changes", func(t *testing.T) {
		dir, _ := serve(t, time.Hour) // so that no renewal comes first
		u := unitOf(t, dir, "web", web)
		u.tell("watch")
		wantContains(t, u.next(), "svid "+alone)
		u.tell("spawn %s", other)
		var ended bool
		for line := u.next(); ; line = u.next() {
			ended = ended || line == "error Aborted"
			if strings.HasPrefix(line, "svid") {
				wantContains(t, line, together)
				break
			}
		}
		if !ended {
			t.Error("the stream did not end, and yet there was another SVID")
		}
	})
	t.Run("the server restarts", func(t *testing.T) {
		dir := shortDir(t)
		stop, _ := serveIn(t, dir, 0)
		u := unitOf(t, dir, "web", web)
		u.tell("watch")
		first := u.next()
		wantContains(t, first, "svid "+alone)
		stop()
		stop, logged := serveIn(t, dir, 0)
		t.Cleanup(stop)
		line := u.next()
		for strings.HasPrefix(line, "error") {
			line = u.next()
		}
		wantContains(t, line, "svid "+alone)
		if line == first {
			t.Error("the same certificate again")
		}
		wantContains(t, logged(), "unit spiffe://shop.test/web")
	})
}

func TestWorkloadAPIWithoutHeader(t *testing.T) {
	dir, _ := serve(t, 0)
	conn, err := grpc.NewClient("unix://"+filepath.Join(dir, agentSocket), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := workload.NewSpiffeWorkloadAPIClient(conn)
	for name, ctx := range map[string]context.Context{
		"absent": t.Context(),
		"false":  metadata.AppendToOutgoingContext(t.Context(), workloadHeader, "false"),
		"twice":  metadata.AppendToOutgoingContext(t.Context(), workloadHeader, "true", workloadHeader, "true"),
	} {
		stream, err := client.FetchX509SVID(ctx, &workload.X509SVIDRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: got %v, want InvalidArgument", name, err)
		}
		if _, err := client.FetchJWTSVID(ctx, &workload.JWTSVIDRequest{}); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: unary: got %v, want InvalidArgument", name, err)
		}
	}
}

func TestNewRefused(t *testing.T) {
	good := Config{Dir: shortDir(t), TrustDomain: shop, Now: time.Now, Log: func(string) {}}
	open := shortDir(t)
	if err := os.Chmod(open, 0o750); err != nil {
		t.Fatal(err)
	}
	taken, _ := serve(t, 0)
	for name, tt := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"no directory":              {func(c *Config) { c.Dir = "" }, "give a directory"},
		"no trust domain":           {func(c *Config) { c.TrustDomain = spiffeid.TrustDomain{} }, "give a trust domain"},
		"no clock":                  {func(c *Config) { c.Now = nil }, "needs Now"},
		"no log":                    {func(c *Config) { c.Log = nil }, "needs Now and Log"},
		"a lifetime of a second":    {func(c *Config) { c.Lifetime = time.Second }, "too short"},
		"a negative lifetime":       {func(c *Config) { c.Lifetime = -time.Minute }, "too short"},
		"a directory open to group": {func(c *Config) { c.Dir = open }, "chmod 700"},
		"a directory in use":        {func(c *Config) { c.Dir = taken }, "another server uses"},
		"a path too long":           {func(c *Config) { c.Dir = filepath.Join(c.Dir, strings.Repeat("d", 100)) }, "Linux allows 107"},
	} {
		t.Run(name, func(t *testing.T) {
			config := good
			tt.change(&config)
			s, err := New(config)
			if err == nil {
				s.release()
				t.Fatal("accepted")
			}
			wantContains(t, err.Error(), tt.want)
		})
	}
}

// TestServeLeavesNothing behind: no goroutine and no socket; and what a killed
// server left is no obstacle.
func TestServeLeavesNothing(t *testing.T) {
	ignore := goleak.IgnoreCurrent()
	dir := shortDir(t)
	leftover, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, agentSocket), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	leftover.SetUnlinkOnClose(false)
	leftover.Close()

	stop, logged := serveIn(t, dir, 0)
	wantContains(t, logged(), "not for production")
	conn, id, err := enlist(t.Context(), dir, "web")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	want(t, id, "spiffe://shop.test/web")
	for _, name := range []string{agentSocket, controlSocket} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v", name, info.Mode(), err)
		}
	}
	data, err := os.ReadFile(filepath.Join(dir, bundleFile))
	if err != nil {
		t.Fatal(err)
	}
	if certs, err := identity.ParseBundlePEM(data); err != nil || len(certs) != 1 {
		t.Errorf("the bundle file holds %d authorities, %v", len(certs), err)
	}
	stop()
	for _, name := range []string{agentSocket, controlSocket} {
		if _, err := os.Stat(filepath.Join(dir, name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", name, err)
		}
	}
	goleak.VerifyNone(t, ignore)
}
