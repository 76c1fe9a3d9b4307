package gitsource

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"

	"github.com/skeema/knownhosts"
	"golang.org/x/crypto/ssh"

	"meshseal/snapshot"
)

// sshSession runs git-upload-pack on the other side of one SSH connection.
type sshSession struct {
	stop   func() bool // ends the watch over the context
	client *ssh.Client
	run    *ssh.Session
	in     io.WriteCloser
	out    io.Reader
	says   *firstBytes
}

func (r *Remote) openSSH(ctx context.Context, u *url.URL) (session, error) {
	port := u.Port()
	if port == "" {
		port = "22"
	}
	address := net.JoinHostPort(u.Hostname(), port)
	config, err := r.sshConfig(u.User.Username(), address)
	if err != nil {
		return nil, err
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, remoteError("connect", err)
	}
	s := &sshSession{stop: context.AfterFunc(ctx, func() { conn.Close() }), says: &firstBytes{}}
	c, channels, requests, err := ssh.NewClientConn(conn, address, config)
	if err != nil {
		s.stop()
		return nil, errors.Join(sshError(ctx, "connect", err), ignoreClosed(conn.Close()))
	}
	s.client = ssh.NewClient(c, channels, requests)
	if err := s.start(u.Path); err != nil {
		s.close()
		return nil, sshError(ctx, "start "+uploadPack, err)
	}
	return s, nil
}

func (r *Remote) sshConfig(user, address string) (*ssh.ClientConfig, error) {
	text, err := readSecret(r.SSHKey)
	if err != nil {
		return nil, err
	}
	key, err := ssh.ParsePrivateKey(text)
	if missing := new(ssh.PassphraseMissingError); errors.As(err, &missing) {
		return nil, fmt.Errorf("%s is encrypted; a server has nobody to ask: use a key of its own, without a passphrase", r.SSHKey)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.SSHKey, err)
	}
	hosts, err := knownhosts.NewDB(r.KnownHosts)
	if err != nil {
		return nil, fmt.Errorf("known hosts: %w", err)
	}
	return &ssh.ClientConfig{
		User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}, ClientVersion: "SSH-2.0-meshseal",
		HostKeyCallback: hosts.HostKeyCallback(), HostKeyAlgorithms: hosts.HostKeyAlgorithms(address),
	}, nil
}

func (s *sshSession) start(path string) error {
	var err error
	if s.run, err = s.client.NewSession(); err != nil {
		return err
	}
	if s.in, err = s.run.StdinPipe(); err != nil {
		return err
	}
	if s.out, err = s.run.StdoutPipe(); err != nil {
		return err
	}
	s.run.Stderr = s.says
	// checkURL keeps quotes out of the path.
	return s.run.Start(uploadPack + " '" + path + "'")
}

// sshError names what an operator can mend.
func sshError(ctx context.Context, doing string, err error) error {
	switch {
	case ctx.Err() != nil:
		return remoteError(doing, ctx.Err())
	case knownhosts.IsHostUnknown(err):
		return fmt.Errorf("%w: the host's key is not in the file of known hosts", snapshot.ErrSource)
	case knownhosts.IsHostKeyChanged(err):
		return fmt.Errorf("%w: the host shows another key than the file of known hosts has", snapshot.ErrSource)
	}
	return remoteError(doing, err)
}

func (s *sshSession) advertise(context.Context) (io.ReadCloser, error) {
	return io.NopCloser(&explained{s}), nil
}

func (s *sshSession) upload(ctx context.Context, request []byte) (io.ReadCloser, error) {
	if _, err := s.in.Write(request); err != nil {
		return nil, sshError(ctx, "ask for the commits", err)
	}
	if err := s.in.Close(); err != nil {
		return nil, sshError(ctx, "ask for the commits", err)
	}
	return io.NopCloser(&explained{s}), nil
}

func (s *sshSession) close() {
	s.stop()
	s.client.Close() // whatever was asked is over
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// explained reads what the program writes; where it ends early, what it said on
// stderr is the reason.
type explained struct{ *sshSession }

func (e *explained) Read(p []byte) (int, error) {
	n, err := e.out.Read(p)
	if errors.Is(err, io.EOF) {
		_ = e.run.Wait() // for its last words; what it sent is judged by itself
		if said := e.says.String(); said != "" {
			err = fmt.Errorf("%w: the server says %q", snapshot.ErrSource, said)
		}
	}
	return n, err
}

// firstBytes keeps the beginning of what is written to it.
type firstBytes struct {
	mu   sync.Mutex
	text strings.Builder
}

func (f *firstBytes) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	const most = 300
	f.text.Write(p[:min(len(p), most-min(most, f.text.Len()))])
	return len(p), nil
}

func (f *firstBytes) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.TrimSpace(f.text.String())
}
