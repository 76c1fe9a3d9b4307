package meshtest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Envoy is a running Envoy with its admin interface on a Unix socket.
type Envoy struct {
	*Process
	admin *http.Client
}

// EnvoyCommand is the command line of an Envoy that shares nothing with another
// one on this machine.
func EnvoyCommand(t T, config string, args ...string) *exec.Cmd {
	t.Helper()
	bin, err := EnvoyBinary()
	if err != nil {
		t.Fatalf("no Envoy: %v (make envoy fetches it, MESHSEAL_ENVOY names another)", err)
	}
	return exec.Command(bin, append([]string{
		"-c", config, "--use-dynamic-base-id", "--concurrency", "1",
		"--drain-time-s", "1", "--parent-shutdown-time-s", "2", "--log-level", "info",
	}, args...)...)
}

// StartEnvoy starts an Envoy and waits until it serves. The configuration has
// to put the admin interface on the Unix socket admin.
func StartEnvoy(t T, config, admin string, args ...string) *Envoy {
	t.Helper()
	e := AdminOf(Start(t, EnvoyCommand(t, config, args...)), admin)
	e.WaitReady()
	return e
}

// AdminOf is the Envoy that runs in or below a process, reached by its admin
// socket.
func AdminOf(p *Process, admin string) *Envoy {
	return &Envoy{Process: p, admin: &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", admin)
		},
		DisableKeepAlives: true,
	}}}
}

// WaitReady waits until the Envoy has its configuration and its listeners.
func (e *Envoy) WaitReady() {
	e.t.Helper()
	e.Eventually("Envoy is ready", func() error {
		body, err := e.Admin("/ready")
		if err == nil && strings.TrimSpace(body) != "LIVE" {
			err = fmt.Errorf("admin /ready: %s", body)
		}
		return err
	})
}

// WaitAlive waits until the admin interface answers, whatever it says.
func (e *Envoy) WaitAlive() {
	e.t.Helper()
	e.Eventually("Envoy's admin interface answers", func() error {
		_, err := e.Admin("/server_info")
		return err
	})
}

// Admin asks the admin interface.
func (e *Envoy) Admin(path string) (string, error) {
	resp, err := e.admin.Get("http://admin" + path)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("admin %s: %s: %s", path, resp.Status, body)
	}
	return string(body), err
}

// Stats are Envoy's counters and gauges by name.
func (e *Envoy) Stats() map[string]float64 {
	e.t.Helper()
	body, err := e.Admin("/stats?format=json&type=All")
	if err != nil {
		e.t.Fatalf("%v", err)
	}
	var doc struct {
		Stats []struct {
			Name  string
			Value any
		}
	}
	if err := json.Unmarshal([]byte(body), &doc); err != nil {
		e.t.Fatalf("admin /stats: %v", err)
	}
	stats := map[string]float64{}
	for _, s := range doc.Stats {
		if v, ok := s.Value.(float64); ok {
			stats[s.Name] = v
		}
	}
	return stats
}

// Stat is one counter or gauge; 0 for one that Envoy has not made yet.
func (e *Envoy) Stat(name string) float64 {
	e.t.Helper()
	return e.Stats()[name]
}

// WaitStat waits until a counter or gauge is at least n.
func (e *Envoy) WaitStat(name string, n float64) {
	e.t.Helper()
	e.Eventually(fmt.Sprintf("%s >= %g", name, n), func() error {
		if v := e.Stat(name); v < n {
			return fmt.Errorf("it is %g", v)
		}
		return nil
	})
}

// AdminSocket is where the Envoy of a folder has its admin interface.
func AdminSocket(dir string) string { return filepath.Join(dir, "admin.sock") }
