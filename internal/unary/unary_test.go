package unary_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"meshseal/internal/grpcpeer"
	"meshseal/internal/unary"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const method = authv3.Authorization_Check_FullMethodName

// server is a Listener and the gRPC server beside it.
type server struct {
	*unary.Listener
	network, addr string
	beside        atomic.Int64 // calls that grpc-go answered

	mu   sync.Mutex
	peer grpcpeer.Peer // of the last of those
}

// serve opens one on a Unix socket, or over TLS.
func serve(t testing.TB, handle func(*unary.Call), change func(*unary.Config)) *server {
	t.Helper()
	c := unary.Config{
		Method: method, Handle: handle, Credentials: grpcpeer.SocketCredentials("orders"),
		MaxMessage: 4 << 20, MaxStreams: 100, StreamWindow: 64 << 10, ConnWindow: 256 << 10,
		HandshakeTimeout: 5 * time.Second, Idle: time.Minute, Patience: time.Minute,
	}
	if change != nil {
		change(&c)
	}
	s := &server{network: "unix", addr: filepath.Join(t.TempDir(), "s")}
	if _, ok := c.Credentials.(interface{ tls() }); ok {
		s.network, s.addr = "tcp", "127.0.0.1:0"
	}
	raw, err := net.Listen(s.network, s.addr)
	if err != nil {
		t.Fatal(err)
	}
	s.addr = raw.Addr().String()
	s.Listener = unary.Listen(raw, c)
	g := grpc.NewServer(s.ServerOptions()...)
	grpc_health_v1.RegisterHealthServer(g, &health{s: s})
	authv3.RegisterAuthorizationServer(g, &authorization{s: s})
	done := make(chan error, 1)
	go func() { done <- g.Serve(s) }()
	t.Cleanup(func() {
		s.Listener.Close()
		g.Stop()
		<-done
	})
	return s
}

type health struct {
	grpc_health_v1.UnimplementedHealthServer
	s *server
}

func (h *health) Check(ctx context.Context, _ *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	h.s.beside.Add(1)
	peer, err := grpcpeer.FromContext(ctx)
	h.s.mu.Lock()
	h.s.peer = peer
	h.s.mu.Unlock()
	return &grpc_health_v1.HealthCheckResponse{Status: grpc_health_v1.HealthCheckResponse_SERVING}, err
}

func (h *health) Watch(_ *grpc_health_v1.HealthCheckRequest, w grpc.ServerStreamingServer[grpc_health_v1.HealthCheckResponse]) error {
	h.s.beside.Add(1)
	for range 3 {
		if err := w.Send(&grpc_health_v1.HealthCheckResponse{}); err != nil {
			return err
		}
	}
	return nil
}

type authorization struct{ s *server }

func (a *authorization) Check(context.Context, *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	a.s.beside.Add(1)
	return yes, nil
}

var yes = &authv3.CheckResponse{Status: &status.Status{Message: "yes"}}

// allow answers every call with yes.
func allow(c *unary.Call) { c.Answer, _ = proto.MarshalOptions{}.MarshalAppend(c.Answer, yes) }

func (s *server) dial(t testing.TB, creds credentials.TransportCredentials) *grpc.ClientConn {
	t.Helper()
	target := s.addr
	if s.network == "unix" {
		target = "unix://" + target
	}
	cc, err := grpc.NewClient(target, grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close() })
	return cc
}

// raw is the codec of []byte.
type raw struct{}

func (raw) Marshal(v any) ([]byte, error)      { return *v.(*[]byte), nil }
func (raw) Unmarshal(data []byte, v any) error { *v.(*[]byte) = bytes.Clone(data); return nil }
func (raw) Name() string                       { return "raw" }

func ask(ctx context.Context, cc *grpc.ClientConn, question []byte) (answer []byte, err error) {
	err = cc.Invoke(ctx, method, &question, &answer, grpc.ForceCodec(raw{}), grpc.MaxCallRecvMsgSize(8<<20))
	return answer, err
}

func within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// pattern is what is asked or answered in the tests that compare it.
func pattern(seed uint64, size int) []byte {
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(seed>>(8*(i%8))) ^ byte(i/8)
	}
	return b
}

// Each of many calls gets its own answer, whatever the sizes, in the order of the
// reading or aside.
func TestEveryCallGetsItsAnswer(t *testing.T) {
	t.Parallel()
	const calls, parallel = 20_000, 16
	s := serve(t, func(c *unary.Call) {
		if len(c.Message) < 12 {
			c.Answer = append(c.Answer, "short"...)
			return
		}
		seed, size := binary.BigEndian.Uint64(c.Message), binary.BigEndian.Uint32(c.Message[8:])
		switch {
		case seed%7 == 0:
			c.StepAside()
			time.Sleep(100 * time.Microsecond)
		case seed%7 == 1:
			c.StepAside()
		case seed%7 == 2:
			_ = c.Err()
		}
		if !bytes.Equal(c.Message[12:], pattern(seed, len(c.Message)-12)) {
			return
		}
		c.Answer = append(c.Answer, pattern(^seed, int(size))...)
	}, nil)
	cc := s.dial(t, insecure.NewCredentials())
	size := func(r *mathrand.Rand) int { // small ones most of the time
		f := r.Float64()
		return r.IntN(2 << int(20*f*f*f*f))
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	for n := range parallel {
		r := mathrand.New(mathrand.NewPCG(1, uint64(n)))
		wg.Go(func() {
			for next.Add(1) <= calls && !t.Failed() {
				seed, asked, answered := r.Uint64(), size(r), max(1, size(r))
				want := pattern(^seed, answered)
				question := append(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(nil, seed), uint32(answered)), pattern(seed, asked)...)
				if seed%50 == 3 {
					question, want = question[:seed%12], []byte("short")
				}
				got, err := ask(t.Context(), cc, question)
				if err != nil {
					t.Errorf("asked %d bytes for %d: %v", asked, answered, err)
				} else if !bytes.Equal(got, want) {
					t.Errorf("asked %d bytes for %d: %d bytes that are another's", asked, answered, len(got))
				}
			}
		})
	}
	wg.Wait()
	if n := s.beside.Load(); n != 0 {
		t.Errorf("grpc-go answered %d calls", n)
	}
}

// services are calls of three kinds.
var services = map[string]func(context.Context, *grpc.ClientConn) error{
	"method": func(ctx context.Context, cc *grpc.ClientConn) error {
		r, err := authv3.NewAuthorizationClient(cc).Check(ctx, &authv3.CheckRequest{})
		if err == nil && !proto.Equal(r, yes) {
			err = fmt.Errorf("answered %v", r)
		}
		return err
	},
	"unary": func(ctx context.Context, cc *grpc.ClientConn) error {
		_, err := grpc_health_v1.NewHealthClient(cc).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
		return err
	},
	"stream": func(ctx context.Context, cc *grpc.ClientConn) error {
		w, err := grpc_health_v1.NewHealthClient(cc).Watch(ctx, &grpc_health_v1.HealthCheckRequest{})
		for range 3 {
			if err == nil {
				_, err = w.Recv()
			}
		}
		return err
	},
}

// A client may ask for everything over one connection, in any order.
func TestServicesMix(t *testing.T) {
	t.Parallel()
	s := serve(t, allow, nil)
	for _, order := range [][]string{
		{"method", "unary", "stream", "method"}, {"method", "stream", "unary", "method"}, {"unary", "method", "stream"},
		{"unary", "stream", "method"}, {"stream", "method", "unary"}, {"stream", "unary", "method"},
	} {
		cc := s.dial(t, insecure.NewCredentials())
		for _, name := range order {
			if err := services[name](within(t), cc); err != nil {
				t.Errorf("%v: %s: %v", order, name, err)
			}
		}
	}
}

// The same, all at once: the one that is sent away finds its connection though
// others come first there.
func TestServicesMixAtOnce(t *testing.T) {
	t.Parallel()
	for range 10 {
		s := serve(t, allow, nil)
		cc := s.dial(t, insecure.NewCredentials())
		if err := services["method"](within(t), cc); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for n := range 16 {
			wg.Go(func() {
				for i := range 20 {
					name := "method"
					if n == 0 && i > 5 {
						name = "unary"
					}
					if err := services[name](within(t), cc); err != nil {
						t.Errorf("%s: %v", name, err)
					}
				}
			})
		}
		wg.Wait()
	}
}

// The first call decides whose a connection is.
func TestFirstCallDecides(t *testing.T) {
	t.Parallel()
	for name, beside := range map[string]int64{"method": 0, "unary": 2, "stream": 2} {
		s := serve(t, allow, nil)
		cc := s.dial(t, insecure.NewCredentials())
		for _, name := range []string{name, "method"} {
			if err := services[name](within(t), cc); err != nil {
				t.Error(err)
			}
		}
		if got := s.beside.Load(); got != beside {
			t.Errorf("%s first: grpc-go answered %d calls, want %d", name, got, beside)
		}
	}
}

// overTLS marks credentials that serve opens a TCP port for.
type overTLS struct {
	credentials.TransportCredentials
}

func (overTLS) tls() {}

func certificate(t testing.TB) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func withTLS(t testing.TB) func(*unary.Config) {
	creds := credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{certificate(t)}, ClientAuth: tls.RequireAnyClientCert, NextProtos: []string{"h2"},
	})
	return func(c *unary.Config) { c.Credentials = overTLS{grpcpeer.EndWithCertificate(creds, time.Now)} }
}

func clientTLS(certs ...tls.Certificate) credentials.TransportCredentials {
	return credentials.NewTLS(&tls.Config{Certificates: certs, InsecureSkipVerify: true})
}

// A call knows who asks, and so does one that grpc-go answers.
func TestPeer(t *testing.T) {
	t.Parallel()
	client := certificate(t)
	for name, c := range map[string]struct {
		change func(*unary.Config)
		creds  credentials.TransportCredentials
		right  func(grpcpeer.Peer) bool
	}{
		"socket": {nil, insecure.NewCredentials(), func(p grpcpeer.Peer) bool { return p.Proxy == "orders" && p.Chain == nil }},
		"TLS": {withTLS(t), clientTLS(client), func(p grpcpeer.Peer) bool {
			return p.Proxy == "" && len(p.Chain) == 1 && bytes.Equal(p.Chain[0].Raw, client.Certificate[0])
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			type told struct {
				peer grpcpeer.Peer
				err  error
			}
			asked := make(chan told, 2)
			s := serve(t, func(call *unary.Call) {
				var ctx context.Context = call
				for range 2 { // before and after somebody waits for the call
					p, err := grpcpeer.FromContext(ctx)
					asked <- told{p, err}
					_ = ctx.Err()
				}
				allow(call)
			}, c.change)
			if err := services["method"](within(t), s.dial(t, c.creds)); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if p := <-asked; p.err != nil || !c.right(p.peer) {
					t.Errorf("asked by %v, %v", p.peer, p.err)
				}
			}
			if err := services["unary"](within(t), s.dial(t, c.creds)); err != nil {
				t.Fatal(err)
			}
			if !c.right(s.peer) || s.beside.Load() != 1 {
				t.Errorf("beside, asked by %v", s.peer)
			}
		})
	}
}

// Nobody without a certificate gets an answer.
func TestHandshakeHasToSucceed(t *testing.T) {
	t.Parallel()
	s := serve(t, func(*unary.Call) { t.Error("was asked") }, withTLS(t))
	for name, call := range services {
		if err := call(within(t), s.dial(t, clientTLS())); grpcstatus.Code(err) != codes.Unavailable {
			t.Errorf("%s: %v", name, err)
		}
	}
	if s.beside.Load() != 0 {
		t.Error("grpc-go was asked")
	}
}

// The metadata of a call, and nothing else, are its Fields.
func TestFields(t *testing.T) {
	t.Parallel()
	got := map[string]string{}
	s := serve(t, func(c *unary.Call) {
		for _, f := range c.Fields {
			got[f.Name] = f.Value
		}
		allow(c)
	}, nil)
	ctx := metadata.AppendToOutgoingContext(within(t), "traceparent", "00-1")
	if err := services["method"](ctx, s.dial(t, insecure.NewCredentials())); err != nil {
		t.Fatal(err)
	}
	if got["traceparent"] != "00-1" || got["content-type"] != "application/grpc" || got[":path"] != "" {
		t.Errorf("fields %v", got)
	}
}

// The caller's time is the call's deadline, and Done is closed when it has passed.
func TestDeadline(t *testing.T) {
	t.Parallel()
	type told struct {
		left time.Duration
		has  bool
		err  error
	}
	asked := make(chan told, 1)
	s := serve(t, func(c *unary.Call) {
		end, has := c.Deadline()
		left := time.Until(end)
		if left < time.Second {
			c.StepAside()
			<-c.Done()
		}
		asked <- told{left, has, c.Err()}
		allow(c)
	}, nil)
	cc := s.dial(t, insecure.NewCredentials())
	for _, want := range []time.Duration{0, time.Hour, 20 * time.Second, 100 * time.Millisecond} {
		ctx, cancel := context.Background(), context.CancelFunc(func() {})
		if want > 0 {
			ctx, cancel = context.WithTimeout(ctx, want)
		}
		if want == 0 {
			ctx, cancel = context.WithCancel(ctx)
		}
		go func() { _, _ = ask(ctx, cc, []byte("x")) }()
		if want == 0 {
			// Without a deadline time.Until is far below a second: the call waits.
			time.AfterFunc(50*time.Millisecond, cancel)
		}
		got := <-asked
		switch {
		case got.has != (want > 0):
			t.Errorf("%v: a deadline: %v", want, got.has)
		case got.has && (got.left > want || got.left < want-5*time.Second):
			t.Errorf("%v: %v are left", want, got.left)
		case want == 100*time.Millisecond && got.err == nil, want > time.Second && got.err != nil:
			t.Errorf("%v: %v", want, got.err)
		}
		cancel()
	}
}

// A call that waits ends when its caller, its connection or the listener does.
func TestDone(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(cancel func(), cc *grpc.ClientConn, s *server){
		"caller":     func(cancel func(), _ *grpc.ClientConn, _ *server) { cancel() },
		"connection": func(_ func(), cc *grpc.ClientConn, _ *server) { cc.Close() },
		"listener":   func(_ func(), _ *grpc.ClientConn, s *server) { s.Close() },
	} {
		for _, early := range []bool{true, false} { // whether the call waits before the end
			t.Run(fmt.Sprint(name, early), func(t *testing.T) {
				t.Parallel()
				began, over := make(chan struct{}), make(chan error, 1)
				ended := make(chan struct{})
				s := serve(t, func(c *unary.Call) {
					if string(c.Message) != "wait" {
						allow(c)
						return
					}
					c.StepAside()
					close(began)
					if !early {
						<-ended
					}
					select {
					case <-c.Done():
					case <-time.After(10 * time.Second):
					}
					over <- c.Err()
					allow(c)
				}, nil)
				cc := s.dial(t, insecure.NewCredentials())
				ctx, cancel := context.WithCancel(within(t))
				defer cancel()
				go func() { _, _ = ask(ctx, cc, []byte("wait")) }()
				<-began
				if early {
					end(cancel, cc, s)
				} else {
					go func() {
						end(cancel, cc, s)
					}()
					time.Sleep(20 * time.Millisecond)
					close(ended)
				}
				if err := <-over; !errors.Is(err, context.Canceled) {
					t.Errorf("the call ended with %v", err)
				}
				if name == "caller" {
					if err := services["method"](within(t), cc); err != nil {
						t.Errorf("the next call: %v", err)
					}
				}
			})
		}
	}
}

// A call that was given up is not answered with the context of another.
func TestContextIsNotAnothers(t *testing.T) {
	t.Parallel()
	s := serve(t, func(c *unary.Call) {
		if c.Message[0]%2 == 0 {
			c.StepAside()
			done := c.Done()
			for range 20 {
				select {
				case <-done:
					return
				default:
					time.Sleep(10 * time.Microsecond)
				}
			}
		}
		allow(c)
	}, nil)
	var wg sync.WaitGroup
	for range 4 {
		cc := s.dial(t, insecure.NewCredentials())
		for range 4 {
			wg.Go(func() {
				for i := range 300 {
					if _, err := ask(t.Context(), cc, []byte{byte(i)}); err != nil {
						t.Errorf("call %d: %v", i, err)
						return
					}
				}
			})
		}
	}
	wg.Wait()
}

// A context may be used by many goroutines, as every context.
func TestContextIsShared(t *testing.T) {
	t.Parallel()
	s := serve(t, func(c *unary.Call) {
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				_, _ = grpcpeer.FromContext(c)
				ctx, cancel := context.WithCancel(c)
				cancel()
				<-ctx.Done()
				_ = c.Err()
			})
		}
		wg.Wait()
		allow(c)
	}, nil)
	cc := s.dial(t, insecure.NewCredentials())
	for range 50 {
		if err := services["method"](within(t), cc); err != nil {
			t.Fatal(err)
		}
	}
}

// Calls behind one that waits are answered.
func TestStepAsideHoldsUpNobody(t *testing.T) {
	t.Parallel()
	release, began := make(chan struct{}), make(chan struct{}, 10)
	s := serve(t, func(c *unary.Call) {
		if string(c.Message) == "wait" {
			c.StepAside()
			c.StepAside() // does nothing more
			began <- struct{}{}
			<-release
		}
		c.Answer = append(c.Answer, c.Message...)
	}, nil)
	cc := s.dial(t, insecure.NewCredentials())
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if got, err := ask(within(t), cc, []byte("wait")); string(got) != "wait" {
				t.Errorf("the one that waited: %q, %v", got, err)
			}
		})
		<-began
		if got, err := ask(within(t), cc, []byte("x")); string(got) != "x" {
			t.Errorf("behind: %q, %v", got, err)
		}
	}
	close(release)
	wg.Wait()
}

// A call that is slow and did not step aside is left behind, also where its
// connection ends at that moment.
func TestSlowCallIsLeftBehind(t *testing.T) {
	t.Parallel()
	release, began := make(chan struct{}), make(chan struct{}, 1)
	s := serve(t, func(c *unary.Call) {
		switch string(c.Message) {
		case "wait":
			began <- struct{}{}
			<-release
		case "slow":
			time.Sleep(39*time.Millisecond + time.Duration(mathrand.IntN(3000))*time.Microsecond)
		}
		c.Answer = append(c.Answer, "x"...)
	}, nil)
	cc := s.dial(t, insecure.NewCredentials())
	var wg sync.WaitGroup
	wg.Go(func() {
		if got, err := ask(within(t), cc, []byte("wait")); string(got) != "x" {
			t.Errorf("the slow one: %q, %v", got, err)
		}
	})
	<-began
	if got, err := ask(within(t), cc, nil); string(got) != "x" {
		t.Errorf("behind: %q, %v", got, err)
	}
	close(release)
	for range 200 {
		w := s.wire(t)
		w.call(1, "slow")
		wg.Go(func() {
			time.Sleep(39 * time.Millisecond)
			w.conn.Close()
		})
	}
	wg.Wait()
}

// No answer is an error, never an empty message: Envoy would take that for a yes.
func TestNoAnswerIsAnError(t *testing.T) {
	t.Parallel()
	s := serve(t, func(c *unary.Call) {
		if len(c.Message) > 0 {
			c.StepAside()
		}
	}, nil)
	cc := s.dial(t, insecure.NewCredentials())
	for _, question := range []string{"", "aside"} {
		if got, err := ask(within(t), cc, []byte(question)); grpcstatus.Code(err) != codes.Internal {
			t.Errorf("%q: %q, %v", question, got, err)
		}
	}
}

// Close ends what waits, in every state of a connection, and leaves nothing.
func TestClose(t *testing.T) {
	ignore := goleak.IgnoreCurrent()
	began := make(chan struct{}, 1)
	s := serve(t, func(c *unary.Call) {
		c.StepAside()
		began <- struct{}{}
		<-c.Done()
	}, nil)
	for _, sent := range []string{"", "PRI * HT", preface} {
		c, err := net.Dial(s.network, s.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write([]byte(sent)); err != nil {
			t.Fatal(err)
		}
	}
	cc := s.dial(t, insecure.NewCredentials())
	failed := make(chan error, 1)
	go func() {
		_, err := ask(context.Background(), cc, nil)
		failed <- err
	}()
	<-began
	closed := make(chan struct{})
	for range 2 {
		go func() { s.Close(); closed <- struct{}{} }()
	}
	for range 2 {
		select {
		case <-closed:
		case <-time.After(10 * time.Second):
			t.Fatal("Close does not return")
		}
	}
	if err := <-failed; grpcstatus.Code(err) != codes.Unavailable {
		t.Errorf("the call that waited: %v", err)
	}
	if _, err := s.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept: %v", err)
	}
	cc.Close()
	goleak.VerifyNone(t, ignore)
}
