// Package spiretest runs a real SPIRE for tests: servers and agents with a state
// of their own each, registration entries, federation, nesting, and workloads,
// which are processes that an agent attests.
//
// SPIRE's settings are what a mesh wants: SVIDs live for a minute, agents ask
// the server every second, and the server reads its entries every second.
// What is started ends with the test. Nothing waits for a time to pass: a server
// or an agent is there when its health service says so.
package spiretest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"meshseal/internal/meshtest"
)

// Binaries is the folder that holds spire-server and spire-agent: MESHSEAL_SPIRE,
// else the one that scripts/spire keeps.
var Binaries = sync.OnceValues(func() (string, error) {
	dir := os.Getenv("MESHSEAL_SPIRE")
	if dir == "" {
		script, err := inModule("scripts/spire")
		if err != nil {
			return "", err
		}
		cmd := exec.Command(script)
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		if err != nil {
			return "", fmt.Errorf("scripts/spire: %w", err)
		}
		dir = strings.TrimSpace(string(out))
	}
	for _, name := range []string{"spire-server", "spire-agent"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return "", err
		}
	}
	return dir, nil
})

// inModule is the path of a file of this module.
func inModule(name string) (string, error) {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOMOD: %w", err)
	}
	return filepath.Join(filepath.Dir(strings.TrimSpace(string(out))), name), nil
}

func binary(t meshtest.T, name string) string {
	t.Helper()
	dir, err := Binaries()
	if err != nil {
		t.Fatalf("no SPIRE: %v (make spire builds it, MESHSEAL_SPIRE names another folder)", err)
	}
	return filepath.Join(dir, name)
}

// Dir is a new folder with a short path that every user may enter.
func Dir(t meshtest.T) string {
	t.Helper()
	dir := meshtest.Dir(t)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatalf("%v", err)
	}
	return dir
}

// User is the user that workloads run as: nobody where the test is root, so that
// the user is something that an agent can tell apart, else the test's own.
var User = sync.OnceValues(func() (*user.User, error) {
	if os.Getuid() == 0 {
		return user.Lookup("nobody")
	}
	return user.Current()
})

// as lets a command run as User.
func as(t meshtest.T, cmd *exec.Cmd) {
	t.Helper()
	if os.Getuid() != 0 {
		return
	}
	u, err := User()
	if err != nil {
		t.Fatalf("%v", err)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		t.Fatalf("%v", err)
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		t.Fatalf("%v", err)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
}

// start starts a SPIRE program and waits until the health service on its socket
// says that it serves.
func start(t meshtest.T, socket, name string, args ...string) *meshtest.Process {
	t.Helper()
	p := meshtest.Start(t, exec.Command(binary(t, name), args...))
	p.Eventually(name+" is healthy", func() error { return healthy(socket) })
	return p
}

// healthy asks the health service on a Unix socket.
func healthy(socket string) error {
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	r, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
	if err == nil && r.Status != healthpb.HealthCheckResponse_SERVING {
		err = fmt.Errorf("it says %s", r.Status)
	}
	return err
}
