package devspiffe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
)

// DefaultLifetime is how long an SVID is valid unless Config says otherwise.
const DefaultLifetime = time.Minute

// minLifetime leaves time to renew at half of it.
const minLifetime = 2 * time.Second

// measureEvery is how often each unit is measured.
const measureEvery = time.Second

// maxSocketPath is the longest path of a Unix socket, in bytes: unix(7).
const maxSocketPath = 107

// Config of a Server.
type Config struct {
	// Dir holds the sockets and the trust bundle. It is made with mode 0700;
	// one that exists must be this user's alone.
	Dir string
	// TrustDomain is the trust domain of all SVIDs.
	TrustDomain spiffeid.TrustDomain
	// Lifetime of an SVID, DefaultLifetime if zero; it is renewed at half.
	Lifetime time.Duration
	// Now is the time that certificates are made by.
	Now func() time.Time
	// Log is told the warning, then each identity issued and refused.
	Log func(text string)
}

// Server is the development Workload API, SDS and registration of units.
type Server struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	secretv3.UnimplementedSecretDiscoveryServiceServer

	config         Config
	ca             *authority
	units          units
	lock           *os.File
	agent, control *net.UnixListener
}

// New makes a CA, writes its trust bundle to bundle.pem in the directory, and
// binds the sockets. Only one server may use a directory at a time.
func New(config Config) (_ *Server, err error) {
	if config.Lifetime == 0 {
		config.Lifetime = DefaultLifetime
	}
	switch {
	case config.TrustDomain.IsZero():
		return nil, errors.New("dev spiffe: give a trust domain")
	case config.Now == nil || config.Log == nil:
		return nil, errors.New("dev spiffe: Config needs Now and Log")
	case config.Lifetime < minLifetime:
		return nil, fmt.Errorf("dev spiffe: a lifetime of %s is too short to renew in time; give at least %s", config.Lifetime, minLifetime)
	}
	s := &Server{config: config}
	defer func() {
		if err != nil {
			s.release()
			err = fmt.Errorf("dev spiffe: %w", err)
		}
	}()
	if s.lock, err = claim(config.Dir); err != nil {
		return nil, err
	}
	if s.ca, err = newAuthority(config.TrustDomain, config.Now()); err != nil {
		return nil, err
	}
	if err = writeFile(filepath.Join(config.Dir, bundleFile), s.ca.bundlePEM()); err != nil {
		return nil, err
	}
	if s.agent, err = listen(filepath.Join(config.Dir, agentSocket)); err != nil {
		return nil, err
	}
	if s.control, err = listen(filepath.Join(config.Dir, controlSocket)); err != nil {
		return nil, err
	}
	config.Log("dev spiffe for " + config.TrustDomain.IDString() + " is " + Warning)
	return s, nil
}

// Serve answers until ctx ends, and then returns nil after all that it started
// has ended. A server serves once.
func (s *Server) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer s.release()
	g := grpc.NewServer(grpc.Creds(peerCredentials{}), grpc.StreamInterceptor(demandHeaderStream), grpc.UnaryInterceptor(demandHeaderUnary))
	workload.RegisterSpiffeWorkloadAPIServer(g, s)
	secretv3.RegisterSecretDiscoveryServiceServer(g, s)

	var running sync.WaitGroup
	failed := make(chan error, 3)
	for name, run := range map[string]func() error{
		"agent socket":   func() error { return g.Serve(s.agent) },
		"control socket": func() error { return s.serveControl(ctx) },
		"measuring":      func() error { return s.keepMeasuring(ctx) },
	} {
		running.Go(func() {
			if err := run(); err != nil && ctx.Err() == nil {
				failed <- fmt.Errorf("dev spiffe: %s: %w", name, err)
			}
		})
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	cancel()
	g.Stop()
	s.control.Close()
	running.Wait()
	return err
}

// keepMeasuring measures every unit again and again.
func (s *Server) keepMeasuring(ctx context.Context) error {
	tick := time.NewTicker(measureEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := s.units.measureAll(); err != nil {
			s.config.Log("dev spiffe: units could not be measured: " + err.Error())
		}
	}
}

func (s *Server) release() {
	for _, l := range []*net.UnixListener{s.agent, s.control} {
		if l != nil {
			l.Close() // which removes the socket as well
		}
	}
	if s.lock != nil {
		s.lock.Close()
	}
}

// claim makes or checks the directory and takes its lock. With the lock held, a
// socket that is found there is a leftover.
func claim(dir string) (*os.File, error) {
	if dir == "" {
		return nil, errors.New("give a directory for the sockets")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s has mode %04o and so is open to others: chmod 700 it", dir, info.Mode().Perm())
	}
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("another server uses %s: end it, or give another directory", dir)
		}
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return f, nil
}

// listen binds a Unix socket of mode 0600, whatever the umask is: until it is
// set, the directory's mode keeps others out.
func listen(path string) (*net.UnixListener, error) {
	if err := checkSocketPath(path); err != nil {
		return nil, err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

func checkSocketPath(path string) error {
	if len(path) > maxSocketPath {
		return fmt.Errorf("socket path %q has %d bytes and Linux allows %d: give a shorter directory", path, len(path), maxSocketPath)
	}
	return nil
}

// writeFile replaces a file in one step.
func writeFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}
