package spiretest

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"time"

	"meshseal/internal/meshtest"
)

// Workload is a process of the workload program that does what the test says.
type Workload struct {
	*meshtest.Process
	t       meshtest.T
	orders  io.Writer
	answers *bufio.Reader
	pipe    *os.File // below answers
}

// StartWorkload starts a process of a program that BuildWorkload built, as User,
// beside an agent.
func StartWorkload(t meshtest.T, p Program, a *Agent) *Workload {
	t.Helper()
	cmd := exec.Command(p.Path, a.Socket)
	as(t, cmd)
	cmd.Dir = "/"
	orders, err := cmd.StdinPipe()
	if err != nil {
		t.Fatalf("%v", err)
	}
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatalf("%v", err)
	}
	cmd.Stdout = write
	w := &Workload{t: t, orders: orders, answers: bufio.NewReader(read), pipe: read}
	w.Process = meshtest.Start(t, cmd)
	t.Cleanup(func() { read.Close() })
	if err := write.Close(); err != nil {
		t.Fatalf("%v", err)
	}
	return w
}

// SVID is what a workload got from the Workload API.
type SVID struct {
	IDs         []string // of all SVIDs; the rest speaks of the first
	NotAfter    time.Time
	Serial      string
	Chain, Key  string   // PEM: the leaf comes first
	Bundle      string   // PEM, of the own trust domain
	Federated   []string // trust domains whose bundles came along
	Interrupted string   // how the open call of Watch ended, "" while it is open
}

// Certificate is the SVID for a connection of the test's own: somebody has
// stolen it.
func (s *SVID) Certificate(t meshtest.T) tls.Certificate {
	t.Helper()
	cert, err := tls.X509KeyPair([]byte(s.Chain), []byte(s.Key))
	if err != nil {
		t.Fatalf("%v", err)
	}
	return cert
}

// Answer is how an order ended.
type Answer struct {
	Error  string // what failed, "" if nothing
	Code   string // the gRPC code with which the Workload API refused
	Status int
	Header http.Header
	Body   string
	Reused bool // the request went out on a connection that was open before
	SVID   *SVID
	Token  string
}

// Reason is the reason code of a denial.
func (a Answer) Reason() string { return a.Header.Get("x-meshseal-reason") }

// Do gives an order and waits for the answer.
func (w *Workload) Do(order map[string]any) Answer {
	w.t.Helper()
	text, err := json.Marshal(order)
	if err != nil {
		w.t.Fatalf("%v", err)
	}
	var line []byte
	if _, err = w.orders.Write(append(text, '\n')); err == nil {
		if err = w.pipe.SetReadDeadline(time.Now().Add(meshtest.Patience)); err == nil {
			line, err = w.answers.ReadBytes('\n')
		}
	}
	var a Answer
	if err == nil {
		err = json.Unmarshal(line, &a)
	}
	if err != nil {
		w.t.Fatalf("the workload did not answer %s: %v, %v", text, err, w.Ended())
	}
	return a
}

// Fetch asks the Workload API once. The agent attests the process anew for it.
func (w *Workload) Fetch() Answer {
	w.t.Helper()
	return w.Do(map[string]any{"Do": "fetch"})
}

// WaitFetch is Fetch, until the agent has heard of the entry: wanted is the
// SPIFFE ID that has to come.
func (w *Workload) WaitFetch(wanted string) *SVID { return w.wait("fetch", wanted) }

// WaitWatch waits likewise, and leaves the call open: each newer SVID replaces
// the one before for the connections that are opened after.
func (w *Workload) WaitWatch(wanted string) *SVID { return w.wait("watch", wanted) }

func (w *Workload) wait(do, wanted string) *SVID {
	w.t.Helper()
	var a Answer
	w.Eventually("the workload is "+wanted, func() error {
		a = w.Do(map[string]any{"Do": do})
		if a.Error != "" {
			return fmt.Errorf("%s", a.Error)
		}
		if !slices.Contains(a.SVID.IDs, wanted) {
			return fmt.Errorf("it is %v", a.SVID.IDs)
		}
		return nil
	})
	return a.SVID
}

// Newest is the SVID that a connection opened now would use.
func (w *Workload) Newest() *SVID {
	w.t.Helper()
	a := w.Do(map[string]any{"Do": "show"})
	if a.SVID == nil {
		w.t.Fatalf("%s", a.Error)
	}
	return a.SVID
}

// JWT asks for a JWT-SVID.
func (w *Workload) JWT(audience string) Answer {
	w.t.Helper()
	return w.Do(map[string]any{"Do": "jwt", "Audience": audience})
}

// Request is one request of a workload.
type Request struct {
	URL string
	// Conn names the connection, which is opened with the newest SVID if there
	// is none of that name and kept after.
	Conn string
	// Server is how the SPIFFE ID of the server begins; needed for https.
	Server string
	Header http.Header
}

// Get makes a request.
func (w *Workload) Get(r Request) Answer {
	w.t.Helper()
	return w.Do(map[string]any{"Do": "get", "URL": r.URL, "Conn": r.Conn, "Server": r.Server, "Header": r.Header})
}

// Close closes the connection of a name.
func (w *Workload) Close(conn string) {
	w.t.Helper()
	w.Do(map[string]any{"Do": "close", "Conn": conn})
}
