package integration

import (
	"net"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"meshseal/internal/meshtest"
)

// TestThirtyTwoFileDescriptors: a server that may open 32 files, all of them
// taken by connections that say nothing, lives, keeps what is in force and says
// why; when they are gone it adopts what came meanwhile, by itself.
func TestThirtyTwoFileDescriptors(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.appEnvoy()
	c := s.client(t)
	wantAnswer(t, c, s.url("/items/1"), 200, "")

	few := unix.Rlimit{Cur: 32, Max: 32}
	if err := unix.Prlimit(s.Server.Pid(), unix.RLIMIT_NOFILE, &few, nil); err != nil {
		t.Fatal(err)
	}
	var taken []net.Conn
	release := func() {
		for _, conn := range taken {
			conn.Close()
		}
	}
	defer release()
	for range 64 {
		conn, err := net.Dial("tcp", s.Host+":18000")
		if err != nil {
			t.Fatal(err)
		}
		taken = append(taken, conn)
	}
	s.Server.Eventually("no file can be opened", func() error {
		return wantErr(strings.Contains(s.Server.Log(), "too many open files"), "nothing says so")
	})
	commit := s.Repo.Replace("meanwhile", "meshseal.yaml", "grace: 5s", "grace: 6s")
	s.Server.Eventually("the commit is not adopted", func() error {
		return wantErr(strings.Contains(s.Server.Log(), "not adopted; the snapshot in force stays"), "nothing says so")
	})
	release()
	s.WaitInForce(commit)
	meshtest.Eventually(t, "requests are allowed", func() error {
		a := ask(t, c, s.url("/items/1"))
		return wantErr(a.code == 200, "%d %s", a.code, a.reason)
	})
}
