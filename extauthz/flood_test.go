package extauthz_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"meshseal/extauthz"
	"meshseal/internal/grpcpeer"
)

const (
	floodServer  = "MESHSEAL_TEST_FLOOD_SERVER" // set in the process that is the server
	floodCallers = 500                          // at most so many wait for an answer
	floodTimes   = 4                            // what the server can do
	floodTime    = 2 * time.Second
	envoyTimeout = time.Second // of the ext_authz filter that the build writes
)

// flooded is what the server's process tells of itself.
type flooded struct {
	Socket     string
	MD         metadata.MD
	Question   []byte // a CheckRequest
	Limit      int
	InWork     int
	Goroutines int
	Allowed    int64
	Shed       int64 // by the records
}

// TestFlood: a server with one CPU is asked several times as much as it can do. All are answered, none by a gRPC error; those admitted
// are within Envoy's timeout, the others are denied OVERLOADED and recorded to
// the last one; memory and goroutines are bounded, and go back to what they were.
func TestFlood(t *testing.T) {
	if os.Getenv(floodServer) != "" {
		serveFlood(t)
		return
	}
	s := startFloodServer(t)
	before := s.tell()
	begin := s.cpu(t)
	quiet := s.flood(t, before, 16, 0, floodTime/4)
	can := rate(quiet.allowed, floodTime/4)
	middle := s.cpu(t)
	f := s.flood(t, before, floodCallers, floodTimes*can, floodTime)
	end := s.cpu(t)
	s.waitFor(t, "everything is as before", func(now flooded) bool {
		return now.InWork == 0 && now.Goroutines <= before.Goroutines && now.Shed == int64(len(quiet.shed)+len(f.shed))
	})
	after := s.tell()
	if len(f.other) > 0 {
		t.Fatalf("%d answers are neither OK nor OVERLOADED: %s", len(f.other), f.other[0])
	}
	if len(f.shed) == 0 || len(f.allowed) < before.Limit {
		t.Fatalf("%d were shed and %d allowed", len(f.shed), len(f.allowed))
	}
	if got, want := after.Allowed, int64(len(f.allowed)+len(quiet.allowed)); got != want {
		t.Errorf("%d were allowed by the records, %d by the answers", got, want)
	}
	// Where as many as may be in work take more than a twentieth of Envoy's timeout,
	// as under the race detector, it cannot be held.
	work := time.Duration(before.Limit) * time.Second / time.Duration(can)
	if p := percentile(f.allowed, 99); p > max(envoyTimeout, 20*work) {
		t.Errorf("an admitted check took %s (p99)", p)
	}
	peak := s.peak(t)
	if peak > 512 {
		t.Errorf("the server grew to %d MiB", peak)
	}
	t.Logf("CPU of the server: %s a check, and %s in %s of flood", ((middle - begin) / time.Duration(len(quiet.allowed))).Round(time.Microsecond), end-middle, floodTime)
	t.Logf("16 callers: %d/s allowed, p50 %s p99 %s", can, percentile(quiet.allowed, 50), percentile(quiet.allowed, 99))
	t.Logf("%d times that, at most %d waiting: %d/s allowed, p50 %s p99 %s; %d/s shed, p50 %s p99 %s; peak %d MiB; %d goroutines before, %d after",
		floodTimes, floodCallers, rate(f.allowed, floodTime), percentile(f.allowed, 50), percentile(f.allowed, 99),
		rate(f.shed, floodTime), percentile(f.shed, 50), percentile(f.shed, 99), peak, before.Goroutines, after.Goroutines)
}

// serveFlood is the other process: it says where it is and what to ask, and how
// it is whenever a line comes; it ends with its standard input.
func serveFlood(t *testing.T) {
	// A policy that is asked each time: what is known already takes no place that
	// another check could want.
	w := newWorld(t, policy(readsLittle+"\nallow if time.now_ns() < 0"))
	counted := &counting{lines: extauthz.NewLines(io.Discard)}
	server, err := extauthz.New(extauthz.Config{
		Bundles: w.bundles.Load, Now: time.Now, Records: counted,
		Deadline: time.Minute, // what takes long is seen by whoever waits for it
	})
	if err != nil {
		t.Fatal(err)
	}
	w.server = server
	w.adopt(w.fixture, 7)
	q := w.honest()
	question, err := proto.Marshal(q.req)
	if err != nil {
		t.Fatal(err)
	}
	path := w.serve("flood.sock", grpcpeer.SocketCredentials("orders"))
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		if _, err := server.RecordShed(); err != nil {
			t.Fatal(err)
		}
		line, err := json.Marshal(flooded{
			Socket: path, MD: q.md, Question: question, Limit: server.MaxChecks(), InWork: server.InWork(),
			Goroutines: runtime.NumGoroutine(), Allowed: counted.allowed.Load(), Shed: counted.shed.Load(),
		})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(os.Stderr, "%s\n", line)
	}
}

// counting counts what the records say.
type counting struct {
	lines         *extauthz.Lines
	allowed, shed atomic.Int64
}

func (c *counting) Record(r extauthz.Record) error {
	if r.Meshseal.Reason == extauthz.OK {
		c.allowed.Add(1)
	}
	c.shed.Add(r.Meshseal.Shed)
	return c.lines.Record(r)
}

type floodProcess struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.Writer
	out *bufio.Reader
}

func startFloodServer(t *testing.T) *floodProcess {
	t.Helper()
	s := &floodProcess{t: t, cmd: exec.Command(os.Args[0], "-test.run=^TestFlood$")}
	s.cmd.Env = append(os.Environ(), floodServer+"=1", "GOMAXPROCS=1")
	in, err := s.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := s.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	s.in, s.out = in, bufio.NewReader(out)
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := s.cmd.Wait(); err != nil {
			t.Errorf("the server: %v", err)
		}
	})
	return s
}

// tell asks the server how it is.
func (s *floodProcess) tell() (f flooded) {
	s.t.Helper()
	if _, err := fmt.Fprintln(s.in); err != nil {
		s.t.Fatal(err)
	}
	line, err := s.out.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &f)
	}
	if err != nil {
		s.t.Fatalf("the server said %q: %v", line, err)
	}
	return f
}

func (s *floodProcess) waitFor(t *testing.T, what string, is func(flooded) bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; {
		now := s.tell()
		if is(now) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: not within 20s: %+v", what, now)
		}
		runtime.Gosched()
	}
}

// cpu is what the server has used of the CPU.
func (s *floodProcess) cpu(t *testing.T) time.Duration {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(text), ") ")
	var user, system int
	fields := strings.Fields(after)
	if _, err := fmt.Sscan(fields[11]+" "+fields[12], &user, &system); err != nil {
		t.Fatal(err)
	}
	return time.Duration(user+system) * 10 * time.Millisecond // of clock ticks, 100 a second
}

// peak is the most memory that the server ever held, MiB.
func (s *floodProcess) peak(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var kib int
		if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kib); n == 1 {
			return kib >> 10
		}
	}
	t.Fatal("no VmHWM")
	return 0
}

// answered are the times that answers took, by what they were.
type answered struct {
	mu            sync.Mutex
	allowed, shed []time.Duration
	other         []string
}

// flood asks over four connections until the time is over, with so many callers
// that together ask at most at that rate a second; 0 is without a bound.
func (s *floodProcess) flood(t *testing.T, to flooded, callers, atMost int, during time.Duration) *answered {
	t.Helper()
	var clients []authv3.AuthorizationClient
	for range 4 {
		conn, err := grpc.NewClient("unix://"+to.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		clients = append(clients, authv3.NewAuthorizationClient(conn))
	}
	var req authv3.CheckRequest
	if err := proto.Unmarshal(to.Question, &req); err != nil {
		t.Fatal(err)
	}
	ctx := metadata.NewOutgoingContext(t.Context(), to.MD)
	var sum answered
	var waiting atomic.Int64
	var group sync.WaitGroup
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	asked := 0
	for begin := time.Now(); time.Since(begin) < during; <-tick.C {
		more := callers - int(waiting.Load())
		if atMost > 0 {
			more = min(more, int(time.Since(begin).Seconds()*float64(atMost))-asked)
		}
		for range more {
			by := clients[asked%len(clients)]
			asked++
			waiting.Add(1)
			group.Go(func() {
				sum.ask(ctx, by, &req)
				waiting.Add(-1)
			})
		}
	}
	group.Wait()
	slices.Sort(sum.allowed)
	slices.Sort(sum.shed)
	return &sum
}

func (a *answered) ask(ctx context.Context, by authv3.AuthorizationClient, req *authv3.CheckRequest) {
	begin := time.Now()
	answer, err := by.Check(ctx, req)
	took := time.Since(begin)
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case err != nil:
		a.other = append(a.other, err.Error())
	case answer.GetStatus().GetCode() == 0 && answer.GetOkResponse() != nil:
		a.allowed = append(a.allowed, took)
	case answer.GetStatus().GetMessage() == string(extauthz.Overloaded) && answer.GetDeniedResponse() != nil:
		a.shed = append(a.shed, took)
	default:
		a.other = append(a.other, answer.String())
	}
}

// percentile is that of sorted times, rounded to a hundredth of a millisecond.
func percentile(sorted []time.Duration, p int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, len(sorted)*p/100)].Round(10 * time.Microsecond)
}

func rate(answers []time.Duration, during time.Duration) int {
	return int(float64(len(answers)) / during.Seconds())
}
