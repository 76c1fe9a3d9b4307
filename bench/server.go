package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
)

// A server runs in a process of its own and does what it is told on its
// standard input, one word and one number a line. It answers each line with a
// number.

// subject is what is measured: an xDS server for a number of nodes.
type subject interface {
	// prepare makes the configuration of a version. It is not measured: it is
	// what the server is handed.
	prepare(version int) error
	// adopt puts the prepared version in force.
	adopt() error
	// close stops serving.
	close()
}

// place is the socket of a node in a folder.
func place(dir string, node int) string { return filepath.Join(dir, fmt.Sprintf("%d.sock", node)) }

func runServer(kind, dir string, nodes int) error {
	start, ok := map[string]func(string, int) (subject, error){"meshseal": newOurs, "go-control-plane": newTheirs}[kind]
	if !ok {
		return fmt.Errorf("no server %q", kind)
	}
	s, err := start(dir, nodes)
	if err != nil {
		return err
	}
	defer s.close()
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		word, arg, _ := strings.Cut(in.Text(), " ")
		n, err := command(s, word, arg)
		if err != nil {
			return fmt.Errorf("%s: %w", in.Text(), err)
		}
		fmt.Println(n)
	}
	return nil
}

func command(s subject, word, arg string) (int64, error) {
	switch word {
	case "prepare":
		version, err := strconv.Atoi(arg)
		if err != nil {
			return 0, err
		}
		err = s.prepare(version)
		runtime.GC() // what preparing leaves behind is not to be paid for later
		return 0, err
	case "adopt":
		return 0, s.adopt()
	case "cpu":
		return cpu()
	case "memory":
		return resident()
	case "held":
		// What the collector would give back by and by, it gives back now.
		debug.FreeOSMemory()
		debug.FreeOSMemory()
		return resident()
	}
	return 0, errors.New("unknown")
}

// cpu is the processor time that the process has used, in nanoseconds.
func cpu() (int64, error) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0, err
	}
	return u.Utime.Nano() + u.Stime.Nano(), nil
}

// resident is the process's resident memory in bytes, /proc/self/statm.
func resident() (int64, error) {
	data, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(data))
	if len(fields) < 2 {
		return 0, fmt.Errorf("/proc/self/statm is %q", data)
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize()), err
}
