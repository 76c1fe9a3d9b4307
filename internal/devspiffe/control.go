package devspiffe

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync"
	"time"

	"meshseal/identity"
)

// Bounds of a registration: bytes of its one line, and time for it to come.
const (
	maxLine     = 4096
	lineTimeout = 5 * time.Second
)

// registration is the one line that a unit sends; the server takes the process
// from the socket and not from the line. The connection is the unit's life.
type registration struct {
	Name string `json:"name"`
}

// reply is the one line that the server answers with.
type reply struct {
	ID    string `json:"id,omitempty"`
	Error string `json:"error,omitempty"`
}

func (s *Server) serveControl(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	for {
		conn, err := s.control.Accept()
		if err != nil {
			return err
		}
		running.Go(func() {
			stop := context.AfterFunc(ctx, func() { conn.Close() })
			defer stop()
			defer conn.Close()
			s.register(conn)
		})
	}
}

// register holds one unit's connection for as long as the unit lives.
func (s *Server) register(conn net.Conn) {
	u, err := s.admit(conn)
	if err != nil {
		s.config.Log("dev spiffe: no unit registered: " + err.Error())
		_ = writeLine(conn, reply{Error: err.Error()}) // the peer may be gone already
		return
	}
	defer s.units.remove(u)
	s.config.Log(fmt.Sprintf("dev spiffe: unit %s below process %d", u.base, u.root.pid))
	if err := writeLine(conn, reply{ID: u.base.String()}); err != nil {
		return
	}
	_, _ = io.Copy(io.Discard, conn) // until the unit's root ends
	s.config.Log(fmt.Sprintf("dev spiffe: unit %s below process %d has ended", u.base, u.root.pid))
}

func (s *Server) admit(conn net.Conn) (*unit, error) {
	c, err := callerOf(conn)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := conn.SetReadDeadline(time.Now().Add(lineTimeout)); err != nil {
		return nil, err
	}
	var r registration
	if err := readLine(conn, &r); err != nil {
		return nil, err
	}
	if err := conn.SetReadDeadline(time.Time{}); err != nil {
		return nil, err
	}
	base, err := identity.ParseBaseID(s.ca.td.IDString() + "/" + r.Name)
	if err != nil {
		return nil, fmt.Errorf("unit name %q: %w", r.Name, err)
	}
	return s.units.add(base, c)
}

// enlist registers this process as the root of a unit and returns the
// connection that keeps it registered.
func enlist(ctx context.Context, dir, name string) (net.Conn, string, error) {
	path := filepath.Join(dir, controlSocket)
	if err := checkSocketPath(path); err != nil {
		return nil, "", err
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, "", fmt.Errorf("dev spiffe does not answer, start it first: %w", err)
	}
	var r reply
	err = writeLine(conn, registration{Name: name})
	if err == nil {
		err = readLine(conn, &r)
	}
	if err == nil && r.Error != "" {
		err = errors.New(r.Error)
	}
	if err != nil {
		conn.Close()
		return nil, "", err
	}
	return conn, r.ID, nil
}

func writeLine(w io.Writer, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = w.Write(append(data, '\n'))
	return err
}

func readLine(r io.Reader, v any) error {
	line, err := bufio.NewReader(io.LimitReader(r, maxLine)).ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("a line of at most %d bytes was expected: %w", maxLine, err)
	}
	return json.Unmarshal(line, v)
}
