package devspiffe

import (
	"bufio"
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/status"

	"meshseal/identity"
)

// roleEnv makes the test binary, or a copy of it, one of the processes that the
// tests need.
const roleEnv = "DEVSPIFFE_TEST_ROLE"

func TestMain(m *testing.M) {
	switch role := os.Getenv(roleEnv); role {
	case "":
		os.Exit(m.Run())
	case "unit":
		os.Exit(roleUnit())
	case "puppet":
		os.Exit(rolePuppet())
	case "sleep":
		unix.Pause()
	case "orphan": // starts its argument and leaves it behind
		fmt.Println(startProgram(os.Args[1], "sleep"))
	case "orphan-fetch":
		startProgram(os.Args[1], "fetch")
	case "fetch":
		fmt.Println(fetch())
		unix.Pause()
	case "ghost":
		roleGhost()
	case "connect": // connects, leaves the connection to a child, and ends
		roleConnect(os.Args[1])
	default:
		panic(role)
	}
}

// roleUnit is meshseal dev unit: DIR NAME COMMAND.
func roleUnit() int {
	os.Setenv(roleEnv, "puppet")
	code, err := RunUnit(context.Background(), UnitConfig{
		Dir: os.Args[1], Name: os.Args[2], Argv: os.Args[3:], Env: os.Environ(),
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		Log: func(text string) { fmt.Fprintln(os.Stderr, text) },
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 99
	}
	return code
}

// rolePuppet does what the lines on its standard input say and answers each
// with one line.
func rolePuppet() int {
	terminated := make(chan os.Signal, 1)
	signal.Notify(terminated, syscall.SIGTERM)
	go func() { <-terminated; os.Exit(7) }()
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		verb, arg, _ := strings.Cut(lines.Text(), " ")
		switch verb {
		case "fetch":
			fmt.Println(fetch())
		case "watch":
			go watch()
		case "sds":
			if err := sdsDance(arg); err != nil {
				fmt.Println(err)
			} else {
				fmt.Println("ok")
			}
		case "enlist":
			fmt.Println(tryEnlist(arg))
		case "spawn":
			fmt.Println(startProgram(arg, "sleep"))
		case "ghost":
			fmt.Println(startAndRead(arg, "ghost"))
		case "orphan", "orphan-fetch":
			fmt.Println(startAndRead(os.Args[0], verb, arg))
		case "kill":
			pid, _ := strconv.Atoi(arg)
			p, _ := os.FindProcess(pid)
			p.Kill()
			p.Wait()
			fmt.Println("killed")
		case "exit":
			code, _ := strconv.Atoi(arg)
			return code
		case "die":
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
	}
	return 0
}

// roleGhost ends its first thread, which leaves /proc/<pid>/exe unreadable,
// and goes on in another.
func roleGhost() {
	go func() {
		for p, _ := readProcess(os.Getpid()); !p.dead(); p, _ = readProcess(os.Getpid()) {
			runtime.Gosched()
		}
		fmt.Println(os.Getpid())
		unix.Pause()
	}()
	syscall.Syscall(syscall.SYS_EXIT, 0, 0, 0)
}

func init() {
	if os.Getenv(roleEnv) == "ghost" {
		runtime.LockOSThread() // so that main runs on the first thread
	}
}

func startProgram(path, role string) int {
	cmd := exec.Command(path)
	cmd.Env = append(os.Environ(), roleEnv+"="+role)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		fmt.Println(err)
	}
	return cmd.Process.Pid
}

// startAndRead starts a process and returns the first line that it, or what it
// started, writes.
func startAndRead(path, role string, args ...string) string {
	cmd := exec.Command(path, args...)
	cmd.Env = append(os.Environ(), roleEnv+"="+role)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err.Error()
	}
	if err := cmd.Start(); err != nil {
		return err.Error()
	}
	line, _ := bufio.NewReader(out).ReadString('\n')
	if role != "ghost" {
		cmd.Process.Wait()
	}
	return strings.TrimSpace(line)
}

// fetch is the ID of an SVID that identity.VerifySVID accepts with the bundle
// that came along.
func fetch() string {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	client, err := workloadapi.New(ctx)
	if err != nil {
		return err.Error()
	}
	defer client.Close()
	c, err := client.FetchX509Context(ctx)
	if err != nil {
		return err.Error()
	}
	authorities := map[spiffeid.TrustDomain][]*x509.Certificate{}
	for _, b := range c.Bundles.Bundles() {
		authorities[b.TrustDomain()] = b.X509Authorities()
	}
	bundles, err := identity.NewTrustBundles(authorities)
	if err != nil {
		return err.Error()
	}
	svid, err := identity.VerifySVID(c.DefaultSVID().Certificates, bundles, time.Now())
	if err != nil {
		return err.Error()
	}
	return svid.ID().String()
}

// watch writes a line for everything that the Workload API sends.
func watch() {
	client, err := workloadapi.New(context.Background())
	if err != nil {
		fmt.Println(err)
		return
	}
	_ = client.WatchX509Context(context.Background(), printer{})
}

type printer struct{}

func (printer) OnX509ContextUpdate(c *workloadapi.X509Context) {
	fmt.Println("svid", c.DefaultSVID().ID, c.DefaultSVID().Certificates[0].SerialNumber)
}

func (printer) OnX509ContextWatchError(err error) { fmt.Println("error", status.Code(err)) }

func tryEnlist(dir string) string {
	conn, id, err := enlist(context.Background(), dir, "inner")
	if err != nil {
		return err.Error()
	}
	conn.Close()
	return id
}

func roleConnect(path string) {
	conn, err := net.Dial("unix", path)
	if err != nil {
		panic(err)
	}
	f, err := conn.(*net.UnixConn).File()
	if err != nil {
		panic(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleEnv+"=sleep")
	cmd.ExtraFiles = []*os.File{f}
	if err := cmd.Start(); err != nil {
		panic(err)
	}
	fmt.Println(cmd.Process.Pid)
}
